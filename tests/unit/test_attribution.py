"""Splitting energy over requests: it adds up, and it gives each what it cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.attribution import Activity, Attribution, attribute, shared_s
from profiler.energy import Curve

S = 1e9
IDLE_W = 100.0


def _activity(rows: list[tuple[float, float, float, int, int]]) -> Activity:
    start, first, end, prompt, decoded = (np.array(column, float) for column in zip(*rows, strict=True))
    return Activity(start * S, first * S, end * S, prompt, decoded)


def _curve(power_w: np.ndarray, step_s: float = 0.1) -> Curve:
    t_s = np.arange(power_w.size + 1) * step_s
    return Curve(t_s * S, np.concatenate(([0.0], np.cumsum(power_w * step_s))))


def _split(rows: list[tuple[float, float, float, int, int]], power_w: np.ndarray) -> Attribution:
    return attribute(_curve(power_w), IDLE_W, _activity(rows), (int(1 * S), int(9 * S)))


@given(
    lengths=st.lists(st.tuples(st.floats(0.1, 1), st.integers(1, 4096), st.integers(1, 512)), min_size=2, max_size=20),
    seed=st.integers(0, 1000),
)
def test_a_busy_window_is_given_out_whole(lengths: list[tuple[float, int, int]], seed: int) -> None:
    """Where requests are in flight all the time, their parts add up to the window's energy above idle exactly."""
    power_w = IDLE_W + np.random.default_rng(seed).uniform(0, 600, 100)
    always = [(0.0, 0.5, 10.0, 512, 256)]
    others = [(i * 0.4, i * 0.4 + prefill, i * 0.4 + 2.0, p, d) for i, (prefill, p, d) in enumerate(lengths)]
    split = _split(always + others, power_w)
    above_j = (power_w[10:90] - IDLE_W).sum() * 0.1
    assert split.in_window_j.sum() == pytest.approx(above_j, rel=1e-9)
    if split.phases:
        assert split.prefill_in_window_j + split.decode_in_window_j == pytest.approx(above_j, rel=1e-9)


@pytest.mark.parametrize(("start_s", "end_s"), [(1.03, 8.97), (2.0, 2.05)])
def test_a_window_may_begin_and_end_inside_an_interval(start_s: float, end_s: float) -> None:
    """The window's edges cut the intervals they fall into; the parts inside still add up to the window's energy."""
    curve = _curve(np.linspace(200.0, 600.0, 100))
    window_ns = (int(start_s * S), int(end_s * S))
    split = attribute(curve, IDLE_W, _activity([(0.0, 0.5, 10.0, 512, 256)]), window_ns)
    edges_j = curve.at(np.array(window_ns, float))
    assert split.in_window_j.sum() == pytest.approx(edges_j[1] - edges_j[0] - IDLE_W * (end_s - start_s))


def test_a_lone_request_gets_all_that_is_above_idle() -> None:
    """One request from second 2 to 5 at 300 W over an idle of 100 W cost 600 J."""
    power_w = np.where((np.arange(100) >= 20) & (np.arange(100) < 50), 300.0, IDLE_W)
    split = _split([(2.0, 2.2, 5.0, 512, 100)], power_w)
    assert split.energy_j[0] == pytest.approx(600.0)
    assert split.in_window_j[0] == pytest.approx(600.0)


def test_equal_requests_side_by_side_share_equally() -> None:
    """Two requests that decode together share the cost of the steps equally."""
    power_w = np.where((np.arange(100) >= 20) & (np.arange(100) < 50), 300.0, IDLE_W)
    split = _split([(2.0, 2.2, 5.0, 512, 100), (2.0, 2.2, 5.0, 512, 100)], power_w)
    assert split.energy_j == pytest.approx([300.0, 300.0])


def test_prefill_and_decode_are_told_apart_where_the_data_can() -> None:
    """Prompts of many lengths at 0.1 J a token and decoding at 200 W are recovered within 2 %."""
    rng = np.random.default_rng(1)
    rows, power_w = [], np.full(1200, IDLE_W)
    for start in np.arange(1.0, 110.0, 1.5):
        prompt = int(rng.integers(100, 4000))
        prefill_s, decode_s = 0.2, float(rng.uniform(0.3, 1.0))
        rows.append((start, start + prefill_s, start + prefill_s + decode_s, prompt, 50))
        fine = np.arange(1200) * 0.1
        prefill = np.clip(np.minimum(fine + 0.1, start + prefill_s) - np.maximum(fine, start), 0, None)
        decode = np.clip(
            np.minimum(fine + 0.1, start + prefill_s + decode_s) - np.maximum(fine, start + prefill_s), 0, None
        )
        power_w += (prefill / prefill_s * prompt * 0.1 + decode * 200.0) / 0.1
    split = attribute(_curve(power_w), IDLE_W, _activity(rows), (int(1 * S), int(110 * S)))
    assert split.phases
    assert np.nansum(split.prefill_j) == pytest.approx(0.1 * sum(row[3] for row in rows), rel=0.02)
    assert split.prefill_j + split.decode_j == pytest.approx(split.energy_j)


def test_identical_requests_do_not_let_the_phases_be_told_apart() -> None:
    """Where prefill and decode always come together in every interval, both are null rather than guessed."""
    rows = [(t, t + 0.05, t + 0.1, 512, 10) for t in np.arange(1.0, 9.0, 0.1)]
    split = _split(rows, np.full(100, 300.0))
    assert not split.phases
    assert np.isnan(split.prefill_j).all()
    assert np.isfinite(split.energy_j).all()


def test_nearly_identical_requests_are_not_told_apart_even_by_perfect_data() -> None:
    """With prompts within 1 % of each other a noiseless fit would still split by that 1 %: both phases stay null."""
    rng = np.random.default_rng(5)
    starts, power_w = np.arange(1.0, 9.0, 0.1), np.full(100, IDLE_W)
    rows = [(t, t + 0.05, t + 0.1, int(rng.integers(995, 1006)), 10) for t in starts]
    power_w[10:90] += [(row[3] * 0.02 + 0.05 * 200.0) / 0.1 for row in rows]
    split = _split(rows, power_w)
    assert not split.phases


def test_a_request_beyond_the_readings_has_no_energy() -> None:
    """A life that the readings do not span is null; its part inside the window still counts."""
    split = _split([(8.0, 8.1, 12.0, 512, 100)], np.full(100, 300.0))
    assert np.isnan(split.energy_j[0])
    assert split.in_window_j[0] == pytest.approx(200.0, rel=1e-6)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0.01, 5)), min_size=1, max_size=20))
def test_equal_shares_of_time_add_up_to_the_time_anyone_was_there(spans: list[tuple[float, float]]) -> None:
    """Sharing each instant equally over those present gives out exactly the time when somebody was."""
    start = np.array([s for s, _ in spans]) * S
    end = start + np.array([d for _, d in spans]) * S
    order = np.argsort(start)
    covered, reach = 0.0, -np.inf
    for a, b in zip(start[order], end[order], strict=True):
        covered += max(0.0, b - max(a, reach))
        reach = max(reach, b)
    assert shared_s(start, end).sum() == pytest.approx(covered * 1e-9, rel=1e-9)
