"""Latency of a cohort of requests: mean, percentiles and their intervals.

A percentile with fewer than 10 values beyond it is None: it would be an anecdote. Its 95 % interval comes from order
statistics: the ranks that a Binomial(n, q) count leaves in between, free of any assumption about the distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binom

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

PERCENTILES = (50, 90, 95, 99)
MIN_BEYOND = 10


@dataclass(frozen=True, slots=True)
class Distribution:
    """Summary of one latency; None where there are too few values. Intervals hold the percentile with 95 %."""

    n: int
    mean: float | None
    percentiles: dict[int, float | None] = field(default_factory=dict)
    intervals: dict[int, tuple[float, float] | None] = field(default_factory=dict)


def describe(values: Floats) -> Distribution:
    """Return the distribution of the values that are not NaN, shape (n,)."""
    kept = np.sort(values[~np.isnan(values)])
    n = kept.size
    if n == 0:
        return Distribution(0, None, dict.fromkeys(PERCENTILES), dict.fromkeys(PERCENTILES))
    told = [q for q in PERCENTILES if n * (100 - q) / 100 >= MIN_BEYOND]
    return Distribution(
        n=n,
        mean=float(kept.mean()),
        percentiles={q: float(np.percentile(kept, q)) if q in told else None for q in PERCENTILES},
        intervals={q: _interval(kept, q / 100) if q in told else None for q in PERCENTILES},
    )


def _interval(ordered: Floats, share: float) -> tuple[float, float]:
    n = ordered.size
    low, high = int(binom.ppf(0.025, n, share)), int(binom.ppf(0.975, n, share))
    return float(ordered[max(0, low - 1)]), float(ordered[min(n - 1, high)])


def tpot_s(first_token_ns: Floats, last_token_ns: Floats, output_tokens: Floats) -> Floats:
    """Return (last token - first token) / (tokens - 1) in s, NaN for answers of a single token."""
    gaps = output_tokens - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gaps > 0, (last_token_ns - first_token_ns) * 1e-9 / gaps, np.nan)
