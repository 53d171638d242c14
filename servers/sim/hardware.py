"""What a simulated GPU is: its clocks, limits, rates and the coefficients of its power; and what fits on it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from servers.base import ServerError

if TYPE_CHECKING:
    from servers.models import ModelSpec

BLOCK_TOKENS = 16
# What the driver, kernels and activations take beside weights and KV.
_RESERVED_BYTES = 2 * 1024**3
# An engine that cannot hold one conversation of this many tokens is of no use.
_MIN_KV_TOKENS = 2048
_TENSOR_PARALLEL_SIZES = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class GpuHardware:
    """One kind of GPU.

    `idle_w` is drawn with no engine; `loaded_idle_w` with an engine and nothing in flight at the highest clock;
    `clock_w` comes on top while kernels run at the highest clock, before `byte_j` and `flop_j` are paid.
    `memory_mhz` has the default first. `bandwidth_knee` maps f/f_max to the share of bandwidth that is left.
    """

    name: str
    product: str
    sm_min_mhz: int
    sm_max_mhz: int
    sm_step_mhz: int
    memory_mhz: tuple[int, ...]
    idle_w: float
    loaded_idle_w: float
    clock_w: float
    limit_min_w: float
    limit_default_w: float
    limit_max_w: float
    peak_flops: float
    bandwidth: float
    memory_bytes: int
    link_bandwidth: float
    memory_efficiency: float
    kv_efficiency: float
    compute_efficiency: float
    byte_j: float
    flop_j: float
    host_s: float
    sequence_s: float
    average_window_s: float
    bandwidth_knee: tuple[tuple[float, float], ...]

    def sm_grid_mhz(self, mhz: float) -> int:
        """Return the highest supported SM clock not above `mhz`, the lowest when none is."""
        steps = int((mhz - self.sm_min_mhz) // self.sm_step_mhz)
        highest = (self.sm_max_mhz - self.sm_min_mhz) // self.sm_step_mhz
        return self.sm_min_mhz + self.sm_step_mhz * min(max(steps, 0), highest)


def load_hardware() -> dict[str, GpuHardware]:
    """Return every GPU that can be simulated, by name."""
    table = tomllib.loads(resources.files("servers.sim").joinpath("hardware.toml").read_text("utf-8"))
    defaults = table.pop("defaults")
    return {name: _hardware(name, {**defaults, **fields}) for name, fields in table.items()}


def _hardware(name: str, fields: dict[str, object]) -> GpuHardware:
    frozen = {
        key: tuple(tuple(item) if isinstance(item, list) else item for item in value)
        if isinstance(value, list)
        else value
        for key, value in fields.items()
    }
    return GpuHardware(name=name, **frozen)  # type: ignore[arg-type]  # the table has the fields' types


def find_hardware(name: str) -> GpuHardware:
    """Return the GPU of this name.

    Raises:
        ServerError: it cannot be simulated; names those that can.
    """
    known = load_hardware()
    if name not in known:
        raise ServerError(f"no simulated GPU is called {name!r}", hint=f"known: {', '.join(known)}", exit_code=2)
    return known[name]


def kv_shards(model: ModelSpec, tensor_parallel: int) -> int:
    """Return over how many GPUs the KV cache splits: beyond the number of KV heads they are copied."""
    return min(tensor_parallel, model.kv_heads)


def kv_capacity_tokens(model: ModelSpec, gpu: GpuHardware, tensor_parallel: int, utilization: float) -> int:
    """Return how many tokens of self-attention KV fit beside the weights; negative when the weights do not."""
    free = gpu.memory_bytes * utilization - _RESERVED_BYTES - model.weight_bytes / tensor_parallel
    return int(free * kv_shards(model, tensor_parallel) // model.kv_bytes_per_token)


def minimum_kv_tokens(model: ModelSpec) -> int:
    """Return the KV tokens without which the model is not served; a cross-attention token counts as one."""
    encoder = model.context if model.cross_kv_bytes_per_token else 0
    return min(model.context, _MIN_KV_TOKENS) + encoder


def min_tensor_parallel(model: ModelSpec, gpu: GpuHardware, utilization: float = 0.9) -> int:
    """Return the smallest number of these GPUs that holds the model and a minimum of KV.

    Raises:
        ServerError: not even eight do, or its heads do not split.
    """
    for size in _TENSOR_PARALLEL_SIZES:
        if model.heads % size == 0 and kv_capacity_tokens(model, gpu, size, utilization) >= minimum_kv_tokens(model):
            return size
    raise ServerError(
        f"{model.name} ({model.weight_bytes / 1e9:.1f} GB of weights) fits on no {gpu.name} group of 1, 2, 4 or 8",
        hint="choose a GPU with more memory or a smaller model",
        exit_code=2,
    )


def require_fit(model: ModelSpec, gpu: GpuHardware, tensor_parallel: int, utilization: float) -> int:
    """Return the KV capacity in tokens.

    Raises:
        ServerError: weights and a minimum of KV do not fit; says what needs how much and what size would fit.
    """
    if model.heads % tensor_parallel:
        raise ServerError(
            f"{model.name} has {model.heads} heads: {tensor_parallel} GPUs cannot share them", exit_code=2
        )
    capacity = kv_capacity_tokens(model, gpu, tensor_parallel, utilization)
    if capacity >= minimum_kv_tokens(model):
        return capacity
    weights_gb = model.weight_bytes / tensor_parallel / 1e9
    kv_gb = minimum_kv_tokens(model) * model.kv_bytes_per_token / kv_shards(model, tensor_parallel) / 1e9
    enough = min_tensor_parallel(model, gpu, utilization)
    raise ServerError(
        f"{model.name} does not fit: each of {tensor_parallel} {gpu.name} needs {weights_gb:.1f} GB for weights, "
        f"{kv_gb:.1f} GB for KV and {_RESERVED_BYTES / 1e9:.1f} GB to work, "
        f"and may use {gpu.memory_bytes * utilization / 1e9:.1f} GB of {gpu.memory_bytes / 1e9:.1f}",
        hint=f"--tensor-parallel {enough} fits",
        exit_code=2,
    )
