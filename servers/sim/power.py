"""What a GPU draws: idle with a model loaded, and during a step at the clock that its limit allows. Pure.

    P = loaded idle(f) + duty * clock_w * (f/f_max) * v(f)^2 + byte_j * bytes/s + flop_j * FLOP/s * v(f)^2

with v relative to its value at f_max, where the coefficients were fitted. A limit acts as on the device: the clock is
lowered step by step until the power fits, which lengthens the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from servers.sim.roofline import StepTime, interpolate, step_time

if TYPE_CHECKING:
    from servers.sim.hardware import GpuHardware
    from servers.sim.roofline import StepWork

# Core voltage over f/f_max, from 33 workloads on V100; no curve is published for later GPUs, the shape is assumed.
_VOLTAGE = (
    (0.67, 1.0),
    (0.71, 1.015),
    (0.745, 1.035),
    (0.79, 1.059),
    (0.83, 1.085),
    (0.87, 1.11),
    (0.92, 1.138),
    (0.96, 1.165),
    (1.0, 1.197),
)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What the device allows: the highest SM clock, the memory clock, and the power limit."""

    sm_mhz: int
    memory_mhz: int
    limit_w: float


@dataclass(frozen=True, slots=True)
class StepPower:
    """A step as it ran: the clock after clipping, its duration, the mean power of one GPU, whether it was clipped."""

    sm_mhz: int
    time: StepTime
    watts: float
    clipped: bool


def default_point(gpu: GpuHardware) -> OperatingPoint:
    """Return the operating point of a device nobody has touched."""
    return OperatingPoint(gpu.sm_max_mhz, gpu.memory_mhz[0], gpu.limit_default_w)


def voltage_squared(gpu: GpuHardware, sm_mhz: float) -> float:
    """Return v(f)^2 relative to the highest clock's."""
    return (interpolate(_VOLTAGE, sm_mhz / gpu.sm_max_mhz) / _VOLTAGE[-1][1]) ** 2


def loaded_idle_w(gpu: GpuHardware, sm_mhz: float) -> float:
    """Return the power with an engine and nothing in flight: the clock tree above bare idle scales with f v^2."""
    return gpu.idle_w + (gpu.loaded_idle_w - gpu.idle_w) * sm_mhz / gpu.sm_max_mhz * voltage_squared(gpu, sm_mhz)


def power_at(gpu: GpuHardware, work: StepWork, sm_mhz: int, memory_mhz: int) -> StepPower:
    """Return the step at this clock, limit or not."""
    time = step_time(gpu, work, sm_mhz, memory_mhz)
    v2 = voltage_squared(gpu, sm_mhz)
    clock_w = gpu.clock_w * sm_mhz / gpu.sm_max_mhz * v2 * time.busy_s / time.total_s
    work_w = (gpu.byte_j * work.bytes + gpu.flop_j * v2 * work.flops) / time.total_s
    return StepPower(sm_mhz, time, loaded_idle_w(gpu, sm_mhz) + clock_w + work_w, clipped=False)


def step_power(gpu: GpuHardware, work: StepWork, point: OperatingPoint) -> StepPower:
    """Return the step at the highest clock whose power is within the limit; at the lowest when none is.

    Power rises with the clock, so the clock is found by bisection over the device's steps.
    """
    free = power_at(gpu, work, point.sm_mhz, point.memory_mhz)
    if free.watts <= point.limit_w:
        return free
    low, high = 0, (point.sm_mhz - gpu.sm_min_mhz) // gpu.sm_step_mhz
    while high - low > 1:
        middle = (low + high) // 2
        tried = power_at(gpu, work, gpu.sm_min_mhz + middle * gpu.sm_step_mhz, point.memory_mhz)
        low, high = (middle, high) if tried.watts <= point.limit_w else (low, middle)
    found = power_at(gpu, work, gpu.sm_min_mhz + low * gpu.sm_step_mhz, point.memory_mhz)
    return StepPower(found.sm_mhz, found.time, found.watts, clipped=True)
