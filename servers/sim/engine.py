"""The simulated engine: one step function over scheduler, roofline and power. It reads no clock and does no I/O.

Real time over HTTP and virtual time without it are two drivers of `Engine.step` (see `servers.sim.drivers`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from servers.base import ServerError
from servers.sim.hardware import BLOCK_TOKENS, require_fit
from servers.sim.power import default_point, loaded_idle_w, step_power
from servers.sim.roofline import Batch, step_work
from servers.sim.scheduler import Scheduler, SchedulerLimits

if TYPE_CHECKING:
    from servers.models import ModelSpec
    from servers.sim.hardware import GpuHardware
    from servers.sim.scheduler import Slice


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What the engine serves on what, and its limits. `max_model_len` None: the context, or what the KV cache holds."""

    model: ModelSpec
    gpu: GpuHardware
    tensor_parallel: int = 1
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    max_model_len: int | None = None
    gpu_memory_utilization: float = 0.9


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step as it ran. Watts and joules are of one GPU; with tensor parallelism every GPU does the same.

    `idle_w` is what the GPU would draw at this operating point with nothing in flight.
    """

    index: int
    start_ns: int
    end_ns: int
    slices: tuple[Slice, ...]
    preempted: tuple[int, ...]
    admitted: tuple[int, ...]
    waiting: int
    kv_used_share: float
    watts: float
    idle_w: float
    energy_j: float
    sm_mhz: int
    clipped: bool

    @property
    def running(self) -> int:
        """How many requests were in the step."""
        return len(self.slices)

    @property
    def tokens(self) -> int:
        """How many tokens, of encoder and decoder, were computed."""
        return sum(part.prefill + part.decode + part.encoder for part in self.slices)


class Engine:
    """A model on GPUs with its queues. `point` may be changed between steps.

    Raises:
        ServerError: the model, or the asked `max_model_len`, does not fit.
    """

    def __init__(self, config: EngineConfig) -> None:
        capacity = require_fit(config.model, config.gpu, config.tensor_parallel, config.gpu_memory_utilization)
        self.config = config
        self.max_model_len = _model_len(config, capacity)
        self.point = default_point(config.gpu)
        self.scheduler = Scheduler(
            SchedulerLimits(
                max_num_seqs=config.max_num_seqs,
                max_num_batched_tokens=config.max_num_batched_tokens,
                kv_blocks=capacity // BLOCK_TOKENS,
                encoder_decoder=config.model.kind == "encoder-decoder",
            )
        )
        self._steps = 0

    @property
    def idle_w(self) -> float:
        """Power of one GPU with the model loaded and nothing in flight, at the present operating point."""
        return loaded_idle_w(self.config.gpu, self.point.sm_mhz)

    def ready_ns(self, now_ns: int) -> int | None:
        """Return the earliest instant at which a step can start: now, the next arrival, or None with nothing queued."""
        if self.scheduler.running:
            return now_ns
        arrival = self.scheduler.next_arrival_ns()
        return None if arrival is None else max(now_ns, arrival)

    def step(self, now_ns: int) -> StepResult | None:
        """Run the step that starts at `now_ns`, or return None when nothing can run then."""
        schedule = self.scheduler.schedule(now_ns)
        if not schedule.slices:
            return None
        config = self.config
        work = step_work(config.model, config.gpu, config.tensor_parallel, _batch(schedule.slices))
        ran = step_power(config.gpu, work, self.point)
        duration_ns = max(1, round(ran.time.total_s * 1e9))
        self._steps += 1
        return StepResult(
            index=self._steps - 1,
            start_ns=now_ns,
            end_ns=now_ns + duration_ns,
            slices=schedule.slices,
            preempted=schedule.preempted,
            admitted=schedule.admitted,
            waiting=len(self.scheduler.waiting),
            kv_used_share=self.scheduler.used_share,
            watts=ran.watts,
            idle_w=self.idle_w,
            energy_j=ran.watts * duration_ns * 1e-9,
            sm_mhz=ran.sm_mhz,
            clipped=ran.clipped,
        )


def _model_len(config: EngineConfig, capacity: int) -> int:
    """Return the longest prompt plus output. The cache must hold one such request, and an encoder's input beside it."""
    blocks = capacity // BLOCK_TOKENS
    blocks //= 2 if config.model.cross_kv_bytes_per_token else 1
    held = blocks * BLOCK_TOKENS
    if config.max_model_len is None:
        return min(config.model.context, held)
    if config.max_model_len > config.model.context and config.model.kind == "decoder":
        raise ServerError(
            f"{config.max_model_len} tokens are more than the context of {config.model.name}, {config.model.context}",
            hint=f"--max-model-len {config.model.context} or less",
            exit_code=2,
        )
    if config.max_model_len > held:
        raise ServerError(
            f"a context of {config.max_model_len} tokens does not fit the KV cache, which holds {held}",
            hint=f"--max-model-len {held} or less, or more GPUs",
            exit_code=2,
        )
    return config.max_model_len


def _batch(slices: tuple[Slice, ...]) -> Batch:
    tokens = kv_tokens = pairs = sequences = encoder_tokens = encoder_pairs = 0
    for part in slices:
        new = part.prefill + part.decode
        tokens += new
        kv_tokens += part.cached + part.cross
        # A causal chunk scores each new token against all before it; cross-attention against the whole input.
        pairs += new * (part.cached + part.cross) + new * (new + 1) // 2
        sequences += part.produced
        if part.encoder:
            encoder_tokens += part.encoder
            encoder_pairs += part.encoder * part.encoder
    return Batch(tokens, kv_tokens, pairs, sequences, encoder_tokens, encoder_pairs)
