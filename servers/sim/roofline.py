"""How long a step takes and what it moves and computes, from what is in the batch. Pure.

    |-- host --|---- matrix products ----|---- attention ----|-- all-reduce --|
                max(weights, FLOPs)        max(KV, FLOPs)       tensor parallel

The two kinds of kernel take turns, so each has its own roofline; one roofline over their sums would hide the reading of
KV behind the products of a large batch, which published step times (53 ms at 512 running requests) contradict.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from servers.sim.hardware import kv_shards

if TYPE_CHECKING:
    from servers.models import ModelSpec
    from servers.sim.hardware import GpuHardware

# One all-reduce between GPUs on a fast link, beyond its transfer: launch and synchronisation.
_ALL_REDUCE_S = 12e-6


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step processes, summed over its requests.

    `tokens` go through the decoder, `encoder_tokens` through the encoder. `kv_tokens` are the cached positions that
    attention reads (self and cross), `attention_pairs` the (query, key) pairs it scores in the decoder and
    `encoder_pairs` those in the encoder. `sequences` are sampled at the step's end.
    """

    tokens: int
    kv_tokens: int
    attention_pairs: int
    sequences: int
    encoder_tokens: int = 0
    encoder_pairs: int = 0


@dataclass(frozen=True, slots=True)
class StepWork:
    """One GPU's part of a step, before any clock is chosen: bytes moved and FLOPs done by each kind of kernel."""

    matrix_bytes: float
    matrix_flops: float
    attention_bytes: float
    attention_flops: float
    exposed_s: float
    link_s: float

    @property
    def bytes(self) -> float:
        """Bytes moved to and from the GPU's memory."""
        return self.matrix_bytes + self.attention_bytes

    @property
    def flops(self) -> float:
        """Floating point operations."""
        return self.matrix_flops + self.attention_flops


@dataclass(frozen=True, slots=True)
class StepTime:
    """A step's duration and the part of it in which kernels run."""

    total_s: float
    busy_s: float


def step_work(model: ModelSpec, gpu: GpuHardware, tensor_parallel: int, batch: Batch) -> StepWork:
    """Return one GPU's share of the work of `batch`."""
    decoder = model.parameters - model.encoder_parameters
    matrix_parameters = (decoder if batch.tokens else 0) + (model.encoder_parameters if batch.encoder_tokens else 0)
    # Keys and values of cross-attention are projected once from the encoder's output, not per decoder token.
    cross = 2 * model.hidden * model.kv_heads * model.head_dim * model.layers if model.encoder_layers else 0
    matrix_flops = 2.0 * (decoder - cross) * batch.tokens + 2.0 * (model.encoder_parameters + cross) * (
        batch.encoder_tokens
    )
    width = 4.0 * model.heads * model.head_dim
    attention_flops = width * (model.layers * batch.attention_pairs + model.encoder_layers * batch.encoder_pairs)
    written = batch.tokens + batch.encoder_tokens
    shards = kv_shards(model, tensor_parallel)
    return StepWork(
        matrix_bytes=matrix_parameters * model.bytes_per_value / tensor_parallel,
        matrix_flops=matrix_flops / tensor_parallel,
        attention_bytes=(batch.kv_tokens + written) * model.kv_bytes_per_token / shards,
        attention_flops=attention_flops / tensor_parallel,
        exposed_s=gpu.host_s + gpu.sequence_s * batch.sequences,
        link_s=_all_reduce_s(model, gpu, tensor_parallel, batch),
    )


def _all_reduce_s(model: ModelSpec, gpu: GpuHardware, tensor_parallel: int, batch: Batch) -> float:
    """Two ring all-reduces a layer, each moving 2(n-1)/n of the activations."""
    if tensor_parallel == 1:
        return 0.0
    ring = 2.0 * (tensor_parallel - 1) / tensor_parallel * model.hidden * model.bytes_per_value / gpu.link_bandwidth
    decoder = 2 * model.layers * (_ALL_REDUCE_S + batch.tokens * ring) if batch.tokens else 0.0
    encoder = 2 * model.encoder_layers * (_ALL_REDUCE_S + batch.encoder_tokens * ring) if batch.encoder_tokens else 0.0
    return decoder + encoder


def bandwidth_share(gpu: GpuHardware, sm_mhz: float) -> float:
    """Return the share of memory bandwidth that is left at this SM clock: full above a knee, falling below it."""
    return interpolate(gpu.bandwidth_knee, sm_mhz / gpu.sm_max_mhz)


def interpolate(points: tuple[tuple[float, float], ...], x: float) -> float:
    """Return the value at `x` of the line through `points`, held constant beyond its ends."""
    right = bisect_right(points, (x, float("inf")))
    if right == 0:
        return points[0][1]
    if right == len(points):
        return points[-1][1]
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def step_time(gpu: GpuHardware, work: StepWork, sm_mhz: float, memory_mhz: float) -> StepTime:
    """Return how long `work` takes at these clocks."""
    bandwidth = gpu.bandwidth * bandwidth_share(gpu, sm_mhz) * memory_mhz / gpu.memory_mhz[0]
    rate = gpu.compute_efficiency * gpu.peak_flops * sm_mhz / gpu.sm_max_mhz
    matrix_s = max(work.matrix_bytes / (gpu.memory_efficiency * bandwidth), work.matrix_flops / rate)
    attention_s = max(work.attention_bytes / (gpu.kv_efficiency * bandwidth), work.attention_flops / rate)
    busy_s = matrix_s + attention_s + work.link_s
    return StepTime(total_s=work.exposed_s + busy_s, busy_s=busy_s)
