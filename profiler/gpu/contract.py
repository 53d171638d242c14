"""What every meter behind the `Gpu` seam promises, as checks on what it told: the contract test and `check` run these.

Bounds are physical ones, wide enough for any accelerator: a value outside is a wrong unit or an invented number.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, get_args

from profiler.gpu.base import Boundary, Gpu, GpuInfo, GpuProcess, Reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# By column: the lowest and highest believable value.
BOUNDS = {
    "power_w": (1.0, 5_000.0),
    "power_average_w": (1.0, 5_000.0),
    "energy_j": (0.0, math.inf),
    "sm_mhz": (0.0, 10_000.0),
    "memory_mhz": (0.0, 20_000.0),
    "temperature_c": (-20.0, 130.0),
    "utilization": (0.0, 1.0),
    "memory_used_bytes": (0.0, 1e13),
    "power_limit_w": (1.0, 5_000.0),
}
READS = 5


def violations(gpu: Gpu) -> list[str]:
    """Return in words what an open meter breaks of its promises, [] when nothing; it stays open.

    Raises:
        GpuLostError: it stopped answering.
    """
    readings = [gpu.read() for _ in range(READS)]
    return [*broken_info(gpu.info), *broken_readings(readings), *broken_processes(gpu.processes())]


def broken_info(info: GpuInfo) -> Iterator[str]:
    """Yield what is wrong with the description."""
    if not info.uuid or not info.name:
        yield "uuid and name must tell meters apart"
    if info.boundary not in get_args(Boundary):
        yield f"boundary {info.boundary!r} is none of {get_args(Boundary)}"
    limits = (info.power_limit_min_w, info.power_limit_w, info.power_limit_max_w)
    known = [limit for limit in limits if limit is not None]
    if known != sorted(known):
        yield f"the power limit is not within its range: {known}"


def broken_readings(readings: Sequence[Reading]) -> Iterator[str]:
    """Yield what is wrong with consecutive readings of one meter."""
    for reading in readings:
        if reading.before_ns > reading.after_ns:
            yield f"the stamp after ({reading.after_ns}) is earlier than the one before ({reading.before_ns})"
        if math.isnan(reading.energy_j) and math.isnan(reading.power_w) and math.isnan(reading.power_average_w):
            yield "neither energy nor power is told"
        if reading.event_reasons < -1:
            yield f"event_reasons is {reading.event_reasons}: a set of bits, or -1 for missing"
        yield from _out_of_bounds(reading)
    for earlier, later in pairwise(readings):
        if later.after_ns <= earlier.after_ns:
            yield f"time stands still or goes back: {earlier.after_ns} to {later.after_ns}"
        if later.energy_j < earlier.energy_j:
            yield f"the energy counter goes back: {earlier.energy_j} to {later.energy_j}"


def _out_of_bounds(reading: Reading) -> Iterator[str]:
    for column, (lowest, highest) in BOUNDS.items():
        value = getattr(reading, column)
        if not math.isnan(value) and not lowest <= value <= highest:
            yield f"{column} is {value}, not within {lowest:g} to {highest:g}"


def broken_processes(processes: tuple[GpuProcess, ...] | None) -> Iterator[str]:
    """Yield what is wrong with who holds the device."""
    pids = [process.pid for process in processes or ()]
    if len(pids) != len(set(pids)):
        yield f"a process is told more than once: {pids}"
    if any(pid <= 0 for pid in pids):
        yield f"not a process id: {pids}"
