"""Latency distributions: what is told, and what is withheld."""

from __future__ import annotations

import numpy as np
import pytest

from profiler.latency import describe, tpot_s


def test_a_percentile_needs_ten_values_beyond_it() -> None:
    """With 199 values p95 is withheld, with 200 it is told; p99 needs 1,000."""
    assert describe(np.arange(199.0)).percentiles[95] is None
    assert describe(np.arange(200.0)).percentiles[95] == pytest.approx(np.percentile(np.arange(200.0), 95))
    assert describe(np.arange(999.0)).percentiles[99] is None
    assert describe(np.arange(1000.0)).percentiles[99] is not None


def test_nothing_measured_is_none_not_zero() -> None:
    """An empty cohort has no mean and no percentile."""
    told = describe(np.array([np.nan, np.nan]))
    assert told.n == 0
    assert told.mean is None
    assert set(told.percentiles.values()) == {None}


def test_the_interval_covers_the_true_percentile_as_often_as_it_says() -> None:
    """Over 400 samples of 300 the 95 % interval of p90 holds the true p90 in 93 to 99 % of cases."""
    rng = np.random.default_rng(3)
    truth = -np.log(0.1)
    hits = 0
    for _ in range(400):
        interval = describe(rng.exponential(size=300)).intervals[90]
        assert interval is not None
        hits += interval[0] <= truth <= interval[1]
    assert 0.93 <= hits / 400 <= 0.99


def test_tpot_of_a_single_token_is_missing() -> None:
    """TPOT is (last - first) / (n - 1); an answer of one token has none."""
    found = tpot_s(np.array([0.0, 0.0]), np.array([1e9, 1e9]), np.array([11.0, 1.0]))
    assert found[0] == pytest.approx(0.1)
    assert np.isnan(found[1])
