"""Energy of a time window from one meter, by two sources: the hardware counter and integrated power.

    counter   published in steps: flat, then a jump at each publication. Its value at an instant is interpolated
              between the publications around it, at both edges of the window.
    integral  trapezoids over the power readings, cut at both edges by interpolation.

measuring.md (steps of about 100 ms; edges), arXiv 2312.02741 (25 of each 100 ms are sampled).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from profiler.trace import PowerTrace

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

Source = Literal["counter", "integral"]
# A counter that is new in nearly every reading is published faster than it is read: the reading's own instant holds.
_FAST_COUNTER_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Curve:
    """Cumulative energy over time: (n,) instants in ns, strictly rising, and joules from an arbitrary origin."""

    t_ns: Floats
    energy_j: Floats

    def at(self, instants_ns: Floats | Ints) -> Floats:
        """Return the energy at each instant, linear in between, NaN outside the curve."""
        if self.t_ns.size == 0:
            return np.full(np.shape(instants_ns), np.nan)
        return np.interp(instants_ns, self.t_ns, self.energy_j, left=np.nan, right=np.nan)


@dataclass(frozen=True, slots=True)
class WindowEnergy:
    """Energy of one meter in one window; None where a source is missing or does not bracket the window.

    `disagreement_ratio` is |integral - counter| / counter.
    """

    total_j: float | None
    source: Source | None
    counter_j: float | None
    integral_j: float | None
    disagreement_ratio: float | None


def counter_curve(trace: PowerTrace) -> Curve:
    """Return the counter's publications: where it changed, and to what.

    A change seen between two readings happened somewhere between them; its instant is taken as their middle, unless
    the counter is new in nearly every reading. Empty when the counter is missing, never moves, or goes backwards.
    """
    known = np.flatnonzero(~np.isnan(trace.energy_j))
    t_ns, energy_j = trace.t_ns[known].astype(np.float64), trace.energy_j[known]
    steps = np.diff(energy_j)
    if steps.size == 0 or (steps < 0).any() or not (steps > 0).any():
        return Curve(np.empty(0), np.empty(0))
    changed = np.flatnonzero(steps > 0)
    fast = changed.size >= _FAST_COUNTER_SHARE * steps.size
    instants = t_ns[changed + 1] if fast else 0.5 * (t_ns[changed] + t_ns[changed + 1])
    return Curve(instants, energy_j[changed + 1])


def integral_curve(trace: PowerTrace) -> Curve:
    """Return the running trapezoid sum of power at each reading that has one. Equal samples count like any others."""
    known = np.flatnonzero(~np.isnan(trace.power_w))
    if known.size < 2:
        return Curve(np.empty(0), np.empty(0))
    t_ns, power_w = trace.t_ns[known].astype(np.float64), trace.power_w[known]
    parts = 0.5 * (power_w[1:] + power_w[:-1]) * np.diff(t_ns) * 1e-9
    return Curve(t_ns, np.concatenate(([0.0], np.cumsum(parts))))


def power_integral_j(trace: PowerTrace, start_ns: int, end_ns: int) -> float | None:
    """Return the trapezoid integral of power over the window, both edges interpolated; None if not bracketed."""
    known = np.flatnonzero(~np.isnan(trace.power_w))
    t_ns, power_w = trace.t_ns[known].astype(np.float64), trace.power_w[known]
    if t_ns.size < 2 or t_ns[0] > start_ns or t_ns[-1] < end_ns:
        return None
    inside = (t_ns > start_ns) & (t_ns < end_ns)
    t = np.concatenate(([start_ns], t_ns[inside], [end_ns])).astype(np.float64)
    p = np.concatenate(([np.interp(start_ns, t_ns, power_w)], power_w[inside], [np.interp(end_ns, t_ns, power_w)]))
    return float(np.trapezoid(p, t) * 1e-9)


def window_energy(trace: PowerTrace, start_ns: int, end_ns: int) -> WindowEnergy:
    """Return the meter's energy in [start_ns, end_ns]: the counter's where it has one, else the integral's."""
    edges = counter_curve(trace).at(np.array([start_ns, end_ns], np.float64))
    counter_j = None if np.isnan(edges).any() else float(edges[1] - edges[0])
    integral_j = power_integral_j(trace, start_ns, end_ns)
    ratio = _disagreement(counter_j, integral_j)
    source: Source | None = "counter" if counter_j is not None else "integral" if integral_j is not None else None
    return WindowEnergy(counter_j if counter_j is not None else integral_j, source, counter_j, integral_j, ratio)


def _disagreement(counter_j: float | None, integral_j: float | None) -> float | None:
    if counter_j is None or integral_j is None or counter_j <= 0:
        return None
    return abs(integral_j - counter_j) / counter_j


def summed(parts: Sequence[WindowEnergy]) -> WindowEnergy:
    """Return the energy of several meters together; None wherever one of them is missing."""

    def total(values: Sequence[float | None]) -> float | None:
        return None if not values or any(v is None for v in values) else float(sum(v for v in values if v is not None))

    counter_j, integral_j = total([p.counter_j for p in parts]), total([p.integral_j for p in parts])
    ratio = (
        None if counter_j is None or integral_j is None or counter_j <= 0 else abs(integral_j - counter_j) / counter_j
    )
    sources = {part.source for part in parts}
    source = next(iter(sources)) if len(sources) == 1 else "integral"
    return WindowEnergy(total([p.total_j for p in parts]), source, counter_j, integral_j, ratio)


def energy_curve(trace_list: Sequence[PowerTrace]) -> Curve:
    """Return the cumulative energy of all meters together, on the first one's publications or readings.

    Each meter enters by its counter where it has one, else by its integral. Cut to where every meter is known.
    """
    curves = [counter if (counter := counter_curve(t)).t_ns.size > 1 else integral_curve(t) for t in trace_list]
    if not curves or any(curve.t_ns.size < 2 for curve in curves):
        return Curve(np.empty(0), np.empty(0))
    grid = curves[0].t_ns
    total = np.sum([curve.at(grid) for curve in curves], axis=0)
    known = ~np.isnan(total)
    return Curve(grid[known], total[known])
