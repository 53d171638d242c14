"""Energy of a window from a meter's readings, against power that is known exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.energy import counter_curve, energy_curve, power_integral_j, summed, window_energy
from tests.support.traces import MS, S, stepped, trace


def test_constant_power_is_power_times_time() -> None:
    """A constant 400 W over 10 s is 4,000 J: equal samples are integrated, not dropped."""
    readings = trace(np.arange(0, 12 * S, 50 * MS), power_w=400.0)
    assert power_integral_j(readings, 1 * S, 11 * S) == pytest.approx(4000.0)


def test_edges_between_readings_are_interpolated() -> None:
    """A window whose edges fall between readings gets the power there, not the nearest reading's share."""
    t_ns = np.arange(0, 5 * S, S)
    readings = trace(t_ns, power_w=100.0 * t_ns / S)
    assert power_integral_j(readings, S // 2, 5 * S // 2) == pytest.approx(0.5 * 100 * (2.5**2 - 0.5**2))


@pytest.mark.parametrize(("start_s", "end_s"), [(-1.0, 5.0), (5.0, 12.0)])
def test_a_window_not_bracketed_has_no_energy(start_s: float, end_s: float) -> None:
    """No figure is made up beyond the first or the last reading."""
    readings = trace(np.arange(0, 10 * S, 50 * MS), power_w=100.0, energy_j=np.nan)
    assert window_energy(readings, int(start_s * S), int(end_s * S)).total_j is None


def test_counter_steps_are_interpolated_at_both_edges() -> None:
    """A counter published every 100 ms gives the window's energy to a fraction of one step."""
    readings = stepped(np.arange(0, 12 * S, 50 * MS), lambda t_s: 300.0 * t_s, step_ns=100 * MS, phase_ns=37 * MS)
    found = window_energy(readings, int(1.234 * S), int(11.111 * S))
    assert found.source == "counter"
    assert found.total_j == pytest.approx(300.0 * (11.111 - 1.234), rel=2e-3)


@given(
    watts=st.lists(st.floats(50, 700), min_size=20, max_size=20),
    phase_ms=st.integers(0, 99),
    start_ms=st.integers(200, 900),
)
def test_counter_energy_of_any_load_is_within_a_step(watts: list[float], phase_ms: int, start_ms: int) -> None:
    """Whatever the power does, the counter's window energy errs by at most one step of 100 ms at each edge."""
    levels = np.array(watts)
    edges_s = np.arange(levels.size + 1) * 0.5
    joules = np.concatenate(([0.0], np.cumsum(levels * 0.5)))

    def truth(t_s: np.ndarray) -> np.ndarray:
        return np.interp(t_s, edges_s, joules)

    readings = stepped(np.arange(0, 10 * S, 50 * MS), truth, step_ns=100 * MS, phase_ns=phase_ms * MS)
    start_ns, end_ns = start_ms * MS, start_ms * MS + 8 * S
    found = window_energy(readings, start_ns, end_ns).counter_j
    exact = truth(np.array(end_ns / S)) - truth(np.array(start_ns / S))
    assert found is not None
    assert abs(found - float(exact)) <= 2 * 0.1 * float(np.ptp(levels)) + 1e-6


def test_counter_edges_are_not_biased_by_the_polling() -> None:
    """Over all phases of a counter polled at half its step, a window from 100 W into 500 W errs by 0 on average.

    Dating a publication at the reading before or after it would be off by 25 ms times 400 W, 10 J.
    """

    def truth(t_s: np.ndarray) -> np.ndarray:
        return np.where(t_s < 5.0, 100.0 * t_s, 500.0 + 500.0 * (t_s - 5.0))

    errors = []
    for phase_ms in range(100):
        readings = stepped(np.arange(0, 10 * S, 50 * MS), truth, step_ns=100 * MS, phase_ns=phase_ms * MS)
        found = window_energy(readings, 2 * S, 8 * S).counter_j
        assert found is not None
        errors.append(found - 1800.0)
    assert abs(np.mean(errors)) < 1.0


def test_a_counter_that_went_back_or_stood_still_is_not_used() -> None:
    """A reset or stuck counter gives no curve; the window falls back to integrated power."""
    t_ns = np.arange(0, 10 * S, 50 * MS)
    back = np.where(t_ns < 5 * S, t_ns / S * 100.0, t_ns / S * 100.0 - 400.0)
    for energy_j in (back, np.full(t_ns.size, 7.0)):
        readings = trace(t_ns, power_w=100.0, energy_j=energy_j)
        assert counter_curve(readings).t_ns.size == 0
        assert window_energy(readings, S, 9 * S).source == "integral"


def test_disagreement_is_relative_to_the_counter() -> None:
    """110 W integrated against a counter of 100 W disagree by 10 %."""
    t_ns = np.arange(0, 10 * S, 50 * MS)
    readings = trace(t_ns, power_w=110.0, energy_j=t_ns / S * 100.0)
    assert window_energy(readings, S, 9 * S).disagreement_ratio == pytest.approx(0.1, abs=1e-6)


def test_meters_add_up_or_are_missing_together() -> None:
    """The energy of two GPUs is their sum; when one is unknown so is the sum."""
    t_ns = np.arange(0, 10 * S, 50 * MS)
    one = window_energy(trace(t_ns, power_w=100.0, energy_j=t_ns / S * 100.0), S, 9 * S)
    late = window_energy(trace(t_ns[100:], power_w=100.0, energy_j=np.nan), S, 9 * S)
    assert summed([one, one]).total_j == pytest.approx(1600.0)
    assert summed([one, late]).total_j is None
    assert summed([]).total_j is None


def test_the_curve_of_two_meters_is_their_sum() -> None:
    """The cumulative curve of several meters rises by the energy of all of them."""
    t_ns = np.arange(0, 10 * S, 50 * MS)
    meters = [trace(t_ns, power_w=50.0, energy_j=t_ns / S * watts) for watts in (100.0, 200.0)]
    curve = energy_curve(meters)
    rise = curve.at(np.array([2 * S, 8 * S], float))
    assert rise[1] - rise[0] == pytest.approx(1800.0)
