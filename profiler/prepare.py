"""Turns a configuration into the objects of a run: decides, checks and builds, but starts nothing.

Whatever can be refused is refused here, before a run directory exists.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from loadgen.lengths import parse_lengths
from loadgen.plan import LoadSpec, Schedule, make_schedule
from profiler import slo, weights
from profiler.choose import Choice, choose, engine_gpus
from profiler.errors import UsageError
from profiler.facts import look
from profiler.gpu.sim import parse_fault
from profiler.join import Timeline
from profiler.manifest import Manifest, clock_now, jouletrace_version, this_host, this_owner
from profiler.run_dir import writable_out
from profiler.sampling import Sampling
from profiler.store import RunStore
from servers.base import ServerError
from servers.external import ExternalServer
from servers.launched import LaunchedServer
from servers.model_dir import read_model_dir
from servers.models import find_model
from servers.process import claim_port
from servers.sim.device import SimDevice
from servers.sim.hardware import find_hardware, min_tensor_parallel
from servers.simulated import SimPlace, sim_launch
from servers.vllm import VllmOptions, vllm_launch

if TYPE_CHECKING:
    from profiler.choose import Facts
    from profiler.config import ProfileConfig
    from profiler.report.progress import Progress
    from servers.base import Endpoint, Server
    from servers.launched import Launch
    from servers.models import ModelSpec
    from servers.sim.device import Fault

DEFAULT_RATE_RPS = 8.0
# Where an engine does not tell its vocabulary: every published one is larger.
SAFE_VOCABULARY = 1000
_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Load:
    """A schedule fitted to a ready engine."""

    schedule: Schedule
    vocab_size: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class Target:
    """The model to serve: what to call it, what to hand the engine, and what is known of it."""

    name: str
    path: str
    spec: ModelSpec | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything a run needs, built and not yet started."""

    config: ProfileConfig
    store: RunStore
    server: Server
    sampling: Sampling | None
    schedule: Schedule
    horizon_s: float
    launching: str
    load_text: str

    def load_for(self, endpoint: Endpoint) -> Load:
        """Return the load for a ready engine.

        Raises:
            UsageError: prompt and answer together exceed what it can hold.
        """
        longest = int((self.schedule.prompt_tokens + self.schedule.output_tokens).max())
        limit = endpoint.max_model_tokens
        check_context(longest, limit, endpoint.model)
        # An open loop may pile up any number; what half a minute brings is room for any load that is not an overload.
        piled = min(len(self.schedule.prompt_tokens), int(30.0 * (self.config.rate_rps or 0.0)))
        concurrent = self.config.concurrency or piled
        return Load(self.schedule, endpoint.vocab_size or SAFE_VOCABULARY, descriptors=concurrent + 64)


def check_context(longest_tokens: int, limit_tokens: int | None, model: str) -> None:
    """Refuse lengths that a model cannot hold.

    Raises:
        UsageError: says both numbers.
    """
    if limit_tokens is not None and longest_tokens > limit_tokens:
        raise UsageError(
            f"input and output together are up to {longest_tokens} tokens; {model} holds {limit_tokens}",
            hint="ask for shorter ones with INPUT= and OUTPUT= (--input, --output)",
        )


def prepare(config: ProfileConfig, progress: Progress) -> Prepared:
    """Return the run's parts.

    Raises:
        UsageError, ServerError, LoadError, GpuError, StoreError: it cannot be done as asked; nothing was started.
    """
    if config.url is not None:
        config = config.model_copy(update={"url": base_url(config.url)})
    else:
        claim_port(_HOST, config.port)  # before a download, which may take long
    target = resolve(config.model) if config.model is not None else None
    config = _with_defaults(config)
    for text in config.slo:
        slo.parse_slo(text)
    horizon_s = _horizon_s(config)
    schedule = make_schedule(_load_spec(config, horizon_s))
    facts = look()
    choice = choose(config, target.spec if target else None, facts)
    if config.url is None:
        assert target is not None, "the command line requires a model where there is no URL"
        _check_target(target, choice, schedule, config)
    for text in choice.notes:
        progress.line(f"note: {text}")
    if choice.engine == "sim":
        progress.line(f"SIMULATED: {facts.no_gpu_why or 'the simulated engine was asked for'}")
    if choice.engine == "vllm" and config.weights == "real" and target is not None:
        weights.ensure(target.path, target.spec, progress)
    return _build(_Plan(config, target, choice, facts), schedule, horizon_s)


def base_url(text: str) -> str:
    """Return an engine's base URL without what clients add to it.

    Raises:
        UsageError: it is not an http address.
    """
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"cannot read the URL {text}", hint="write it as http://HOST:PORT")
    return text.rstrip("/").removesuffix("/v1")


def _with_defaults(config: ProfileConfig) -> ProfileConfig:
    if config.rate_rps is not None and config.concurrency is not None:
        raise UsageError("a rate and a concurrency cannot both be asked for", hint="leave one of them out")
    if config.rate_rps is None and config.concurrency is None:
        return config.model_copy(update={"rate_rps": DEFAULT_RATE_RPS})
    return config


def _horizon_s(config: ProfileConfig) -> float:
    """Return how long load may have to go on: warm-up, window, and the last request's whole life."""
    warmup_s = 60.0 if config.warmup_s is None else config.warmup_s
    window_s = config.duration_s
    if config.requests is not None and config.rate_rps is not None:
        window_s = 2.0 * config.requests / config.rate_rps + 10.0
    return warmup_s + window_s + config.request_timeout_s


def _load_spec(config: ProfileConfig, horizon_s: float) -> LoadSpec:
    return LoadSpec(
        arrival=config.arrival if config.concurrency is None else "closed",
        rate_rps=config.rate_rps,
        concurrency=config.concurrency,
        input=parse_lengths(config.input),
        output=parse_lengths(config.output),
        horizon_s=horizon_s,
        seed=config.seed,
    )


def resolve(text: str) -> Target:
    """Return the model that `text` names: one of models.toml, a directory, or a hub id.

    Raises:
        ServerError: none of these.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        spec = read_model_dir(path)
        return Target(spec.name, str(path.resolve()), spec)
    try:
        spec = find_model(text)
    except ServerError:
        if text.count("/") == 1 and not text.startswith((".", "/", "~")):
            return Target(text.rpartition("/")[2], text, None)
        raise
    return Target(spec.name, spec.repo_id, spec)


def _check_target(target: Target, choice: Choice, schedule: Schedule, config: ProfileConfig) -> None:
    """Refuse a model that the engine does not serve or whose context is too short."""
    spec = target.spec
    if spec is None:
        if choice.engine == "sim":
            raise UsageError(f"{target.name} cannot be simulated: its geometry is not known", hint="jouletrace models")
        return
    if choice.engine not in spec.engines:
        others = ", ".join(spec.engines)
        raise UsageError(f"{spec.name} is not served by {choice.engine}", hint=f"engines that serve it: {others}")
    longest = int((schedule.prompt_tokens + schedule.output_tokens).max())
    limit = min(spec.context, config.max_model_len or spec.context)
    check_context(longest, limit, spec.name)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What was asked for and what was decided."""

    config: ProfileConfig
    target: Target | None
    choice: Choice
    facts: Facts

    @property
    def name(self) -> str:
        """What the run is called after."""
        return self.target.name if self.target is not None else "attached"

    def sim_gpus(self) -> int:
        """Return how many simulated GPUs the model is split over: as asked, else as few as it fits on."""
        assert self.target is not None
        assert self.target.spec is not None
        gpu = find_hardware(self.choice.sim_gpu or "")
        return self.config.tensor_parallel or min_tensor_parallel(self.target.spec, gpu)

    def text(self) -> str:
        """Return the load in words."""
        config = self.config
        closed = f"{config.concurrency} at once"
        load = closed if config.concurrency is not None else f"{config.rate_rps:g} req/s {config.arrival}"
        return f"{load}, {config.input} tokens in, {config.output} out"


def _build(plan: _Plan, schedule: Schedule, horizon_s: float) -> Prepared:
    config, choice = plan.config, plan.choice
    port = claim_port(_HOST, config.port) if config.url is None else 0
    run_dir = writable_out(config.out) / _run_id(plan)
    clock = clock_now()
    manifest = Manifest(
        run_id=run_dir.name,
        jouletrace_version=jouletrace_version(),
        owner=this_owner(),
        clock=clock,
        host=this_host(),
        config=config,
        simulated=choice.engine == "sim",
        model=plan.name,
        weights=config.weights,
        no_gpu_why=plan.facts.no_gpu_why,
        no_energy_why=choice.no_energy_why,
        timeline=Timeline(origin_ns=clock.monotonic_ns),
    )
    server, meters = _server(plan, run_dir, port)
    fault = parse_fault(choice.sim_fault) if choice.sim_fault is not None else None
    store = RunStore(run_dir, manifest)
    if choice.engine == "sim":
        _make_devices(plan, run_dir, fault)
    return Prepared(
        config=config,
        store=store,
        server=server,
        sampling=_sampling(config, meters, run_dir),
        schedule=schedule,
        horizon_s=horizon_s,
        launching=f"{choice.engine} {plan.name} {f'at {config.url}' if config.url else f'on port {port}'}",
        load_text=plan.text(),
    )


def _run_id(plan: _Plan) -> str:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    text = json.dumps(plan.config.model_dump(mode="json"), sort_keys=True) + str(time.time_ns())
    return f"{stamp}-{plan.name}-{plan.choice.engine}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _sampling(config: ProfileConfig, meters: str | None, run_dir: Path) -> Sampling | None:
    if config.exporter is not None:
        return Sampling(url=config.exporter.rstrip("/"))
    return None if meters is None else Sampling(gpu_spec=meters, log=run_dir / "exporter.log")


def _server(plan: _Plan, run_dir: Path, port: int) -> tuple[Server, str | None]:
    """Return the server and the exporter's --gpu value that goes with it."""
    config, target, choice = plan.config, plan.target, plan.choice
    if config.url is not None:
        spec = target.spec if target is not None else None
        names = (target.name, target.path) if target is not None else ()
        external = ExternalServer(config.url, names, spec.vocab_size if spec else None)
        return external, engine_gpus(plan.facts, external.pids()) if choice.meters == "auto" else choice.meters
    if choice.engine == "sim":
        launch, meters = _sim_launch(plan, run_dir / "device", port), f"simdir:{run_dir / 'device'}"
        meters_or_none = None if choice.no_energy_why else meters
    else:
        launch, meters_or_none = _vllm_launch(plan, port), choice.meters
    return LaunchedServer(launch, run_dir / "server.log", start_timeout_s=config.start_timeout_s), meters_or_none


def _sim_launch(plan: _Plan, state: Path, port: int) -> Launch:
    config, target = plan.config, plan.target
    assert target is not None
    assert target.spec is not None
    options = {"tensor-parallel": str(plan.sim_gpus()), "seed": str(config.seed)}
    if config.max_model_len is not None:
        options["max-model-len"] = str(config.max_model_len)
    at = SimPlace(gpu=plan.choice.sim_gpu or "", state=state, host=_HOST, port=port)
    return sim_launch(target.spec, at, options, config.engine_args)


def _vllm_launch(plan: _Plan, port: int) -> Launch:
    config, target = plan.config, plan.target
    assert target is not None
    return vllm_launch(
        VllmOptions(
            model=target.path,
            served_name=target.name,
            host=_HOST,
            port=port,
            vocab_size=target.spec.vocab_size if target.spec else None,
            dtype=config.dtype,
            tensor_parallel=config.tensor_parallel or 1,
            max_model_len=config.max_model_len,
            prefix_caching=config.prefix_caching,
            random_weights=config.weights == "random",
            gpu_uuids=plan.choice.uuids,
            extra=config.engine_args,
        )
    )


def _make_devices(plan: _Plan, run_dir: Path, fault: Fault | None) -> None:
    """Make the simulated GPUs before anything reads or holds them."""
    for index in range(plan.sim_gpus()):
        device = SimDevice.create(run_dir / "device", plan.choice.sim_gpu or "", index, seed=plan.config.seed)
        if fault is not None:
            device.set_fault(fault.kind, fault.at_s, fault.value)
