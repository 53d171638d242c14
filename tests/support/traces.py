"""Power traces with known content."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from profiler.trace import PowerTrace

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

MS = 1_000_000
S = 1_000_000_000


def trace(t_ns: NDArray[np.int64], *, power_w: ArrayLike, energy_j: ArrayLike = np.nan, uuid: str = "a") -> PowerTrace:
    """Return a trace with these readings and a steady clock."""

    def filled(value: ArrayLike) -> NDArray[np.float64]:
        return np.broadcast_to(np.asarray(value, np.float64), t_ns.shape).copy()

    return PowerTrace(
        uuid=uuid,
        index=0,
        t_ns=t_ns.astype(np.int64),
        power_w=filled(power_w),
        energy_j=filled(energy_j),
        sm_mhz=filled(1980.0),
        memory_mhz=filled(2619.0),
        power_limit_w=filled(700.0),
        event_reasons=np.zeros(t_ns.shape, np.int64),
    )


def stepped(
    t_ns: NDArray[np.int64], energy_j: Callable[[NDArray[np.float64]], NDArray[np.float64]], step_ns: int, phase_ns: int
) -> PowerTrace:
    """Return a trace whose counter shows `energy_j(seconds)` as of the last publication, every `step_ns`."""
    published_s = ((t_ns - phase_ns) // step_ns * step_ns + phase_ns) / S
    slope = np.gradient(energy_j(t_ns / S), t_ns / S)
    return trace(t_ns, power_w=slope, energy_j=energy_j(np.maximum(published_s, 0.0)))
