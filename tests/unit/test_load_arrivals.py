"""Arrivals are exactly the process asked for."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loadgen.arrivals import offsets_ns

S = 1_000_000_000


def test_constant_gaps_are_all_equal() -> None:
    """A constant 8 requests/s is due every 125 ms to the nanosecond, from 0 on, the horizon excluded."""
    offsets = offsets_ns("constant", 8.0, 10.0, seed=1)
    assert offsets.tolist() == [k * S // 8 for k in range(80)]


def test_constant_rounding_does_not_accumulate() -> None:
    """At a rate that nanoseconds cannot express, the millionth arrival is still within half a nanosecond."""
    offsets = offsets_ns("constant", 3000.0, 400.0, seed=1)
    assert abs(int(offsets[1_000_000]) - 1_000_000 * S / 3000) <= 0.5


def test_poisson_counts_are_as_dispersed_as_poisson() -> None:
    """One-second counts have variance equal to their mean within sampling error (six where worker seeds are shared)."""
    seconds = 4000
    counts = np.bincount(offsets_ns("poisson", 20.0, float(seconds), seed=7) // S, minlength=seconds)
    error = np.sqrt(2.0 / seconds)  # standard error of the index of dispersion
    assert abs(counts.var(ddof=1) / counts.mean() - 1.0) < 4 * error
    assert abs(counts.mean() - 20.0) < 4 * np.sqrt(20.0 / seconds)


def test_poisson_gaps_are_exponential_and_independent() -> None:
    """Gaps have a coefficient of variation of 1 and no correlation with the next gap."""
    gaps = np.diff(offsets_ns("poisson", 50.0, 400.0, seed=3)).astype(float)
    error = 1 / np.sqrt(len(gaps))
    assert abs(gaps.std() / gaps.mean() - 1.0) < 4 * error
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 4 * error


@given(
    rate_rps=st.floats(0.01, 2000.0),
    horizon_s=st.floats(0.01, 5.0),
    seed=st.integers(0, 2**32),
    arrival=st.sampled_from(["poisson", "constant"]),
)
def test_a_longer_horizon_only_extends(rate_rps: float, horizon_s: float, seed: int, arrival: str) -> None:
    """Offsets ascend within the horizon, and doubling it leaves the ones before it as they were."""
    short = offsets_ns(arrival, rate_rps, horizon_s, seed)  # type: ignore[arg-type]
    longer = offsets_ns(arrival, rate_rps, 2 * horizon_s, seed)  # type: ignore[arg-type]
    assert (np.diff(short) >= 0).all()
    assert ((short >= 0) & (short <= horizon_s * S)).all()
    # Rounding decides about an arrival within a nanosecond of the edge.
    assert short.tolist() == longer[: len(short)].tolist()
    assert len(short) >= int((longer < horizon_s * S - 1).sum())
