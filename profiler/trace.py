"""`PowerTrace`: the readings of one meter as arrays, gaps and equal samples kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PowerTrace:
    """Readings of one meter in time order, shape (n,) each; NaN is missing.

    `t_ns` is the middle of the stamps before and after each read, monotonic nanoseconds. `energy_j` is the hardware
    counter; `power_w` the instantaneous sensor, or the driver's running mean where there is no other (`is_averaged`).
    """

    uuid: str
    index: int
    t_ns: Ints
    power_w: Floats
    energy_j: Floats
    sm_mhz: Floats
    memory_mhz: Floats
    power_limit_w: Floats
    event_reasons: Ints
    is_averaged: bool = False

    def between(self, start_ns: int, end_ns: int) -> PowerTrace:
        """Return the readings with start_ns <= t_ns <= end_ns."""
        first, last = np.searchsorted(self.t_ns, start_ns, "left"), np.searchsorted(self.t_ns, end_ns, "right")
        return replace(self, **{name: getattr(self, name)[first:last] for name in _COLUMNS})


_COLUMNS = ("t_ns", "power_w", "energy_j", "sm_mhz", "memory_mhz", "power_limit_w", "event_reasons")


def traces(table: pa.Table) -> list[PowerTrace]:
    """Return one trace a meter from a power table (`profiler.gpu.readings.READING_SCHEMA`), by index."""
    uuids = np.asarray(table["uuid"].to_pylist(), dtype=object)
    columns = {name: table[name].to_numpy() for name in table.column_names if name != "uuid"}
    middle = (columns["before_ns"] + columns["after_ns"]) // 2
    found: list[PowerTrace] = []
    for uuid in dict.fromkeys(uuids):
        rows = np.flatnonzero(uuids == uuid)
        rows = rows[np.argsort(middle[rows], kind="stable")]
        picked = {name: columns[name][rows] for name in _COLUMNS[1:]}
        averaged = columns["power_average_w"][rows]
        is_averaged = bool(np.isnan(picked["power_w"]).all() and not np.isnan(averaged).all())
        if is_averaged:
            picked["power_w"] = averaged
        index = int(columns["gpu"][rows[0]])
        found.append(PowerTrace(str(uuid), index, middle[rows], **picked, is_averaged=is_averaged))
    return sorted(found, key=lambda trace: trace.index)
