"""The energy of a run's window from its power table: by meter, in total, idle, and split over requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from profiler import join
from profiler.attribution import Attribution, attribute
from profiler.energy import Curve, WindowEnergy, energy_curve, summed, window_energy
from profiler.trace import PowerTrace, traces

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from profiler.join import Timeline


@dataclass(frozen=True, slots=True)
class Energies:
    """Energy of the window and its split."""

    meters: list[PowerTrace]
    windows: list[WindowEnergy]
    total: WindowEnergy
    idle_w: float | None
    split: Attribution | None

    def parts(self, window_s: float) -> tuple[float, float, float] | None:
        """Return (idle_j, requests_j, unattributed_j), which add up to total_j; None where they are not known."""
        if self.total.total_j is None or self.idle_w is None or self.split is None:
            return None
        idle_j = self.idle_w * window_s
        requests_j = float(self.split.in_window_j.sum())
        return idle_j, requests_j, self.total.total_j - idle_j - requests_j


def find_energies(power: pa.Table | None, frame: pd.DataFrame, timeline: Timeline) -> Energies:
    """Return what the power table (None: no meter) says of the window, given the rows of the requests."""
    window_ns = timeline.window_ns
    assert window_ns is not None
    meters = traces(power) if power is not None and power.num_rows else []
    windows = [window_energy(meter, *window_ns) for meter in meters]
    curve = energy_curve(meters)
    idle_w = idle_power_w(curve, timeline.idle_ns)
    split = None
    spans = curve.t_ns.size > 1 and curve.t_ns[0] <= window_ns[0] and curve.t_ns[-1] >= window_ns[1]
    if idle_w is not None and spans:
        split = attribute(curve, idle_w, join.activity(frame, timeline), window_ns)
    return Energies(meters, windows, summed(windows), idle_w, split)


def idle_power_w(curve: Curve, idle_ns: tuple[int, int] | None) -> float | None:
    """Return the mean power over the idle phase, between the first and the last point of the curve inside it."""
    if idle_ns is None:
        return None
    inside = np.flatnonzero((curve.t_ns >= idle_ns[0]) & (curve.t_ns <= idle_ns[1]))
    if inside.size < 2:
        return None
    first, last = inside[0], inside[-1]
    return float((curve.energy_j[last] - curve.energy_j[first]) / (curve.t_ns[last] - curve.t_ns[first]) * 1e9)
