"""The verdict: each finding from its fault, none from a clean run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from profiler.energy import WindowEnergy, window_energy
from profiler.trust import Evidence, GpuEvidence, LoadEvidence, judge
from tests.support.traces import MS, S, trace

T_NS = np.arange(0, 62 * S, 50 * MS)
WINDOW = (1 * S, 61 * S)
LOAD = LoadEvidence(
    cohort=200,
    ok=200,
    failed=0,
    first_error=None,
    wrong_output=0,
    wrong_input=0,
    lag_p99_s=0.001,
    lag_share=0.001,
    in_flight_start=4,
    in_flight_end=5,
    open_loop=True,
)


def _gpu(power_w: object = 300.0, energy_j: object = None, t_ns: np.ndarray = T_NS, **fields: object) -> GpuEvidence:
    counted = t_ns / S * 300.0 if energy_j is None else energy_j
    readings = trace(t_ns, power_w=power_w, energy_j=counted)  # type: ignore[arg-type]
    return replace(GpuEvidence("H100", readings, window_energy(readings, *WINDOW)), **fields)  # type: ignore[arg-type]


CLEAN = Evidence(window_ns=WINDOW, idle_s=30.0, load=LOAD, gpus=[_gpu()], total_j=18000.0, unattributed_j=100.0)


def _codes(evidence: Evidence) -> set[str]:
    return {reason.code for reason in judge(evidence)}


def test_a_clean_run_has_no_findings() -> None:
    """Nothing is found where nothing is wrong."""
    assert judge(CLEAN) == []


@pytest.mark.parametrize(
    ("code", "load"),
    [
        ("server_failed", {"ok": 0, "failed": 200, "first_error": "HTTP 500"}),
        ("request_failures", {"ok": 180, "failed": 20, "first_error": "HTTP 500"}),
        ("too_short", {"cohort": 5, "ok": 5}),
        ("output_length_mismatch", {"wrong_output": 1}),
        ("client_limited", {"lag_p99_s": 0.2}),
        ("client_limited", {"lag_share": 0.03, "open_loop": False}),
        ("overloaded", {"in_flight_end": 60}),
    ],
)
def test_each_fault_of_the_load_invalidates(code: str, load: dict[str, object]) -> None:
    """A fault of engine or client is found under its code and clears valid."""
    reasons = judge(replace(CLEAN, load=replace(LOAD, **load)))  # type: ignore[arg-type]
    assert [(r.code, r.severity) for r in reasons] == [(code, "invalid")]


@pytest.mark.parametrize(
    ("code", "severity", "gpu"),
    [
        ("sources_disagree", "invalid", _gpu(power_w=330.0)),
        ("counter_missing", "note", _gpu(energy_j=np.nan)),
        ("power_averaged", "note", replace(_gpu(), trace=replace(_gpu().trace, is_averaged=True))),
        ("counter_reset", "invalid", _gpu(energy_j=np.where(T_NS < 30 * S, T_NS / S * 300, T_NS / S * 300 - 5000))),
        ("counter_stuck", "invalid", _gpu(energy_j=np.minimum(T_NS / S * 300, 9000.0))),
        ("sampling_gap", "invalid", _gpu(t_ns=T_NS[(T_NS < 30 * S) | (T_NS > 31 * S)])),
        ("not_bracketed", "invalid", _gpu(t_ns=T_NS[T_NS < 61 * S - 100 * MS])),
        ("foreign_process", "invalid", _gpu(foreign_pids=(42,))),
        ("foreign_process_unknown", "note", _gpu(foreign_pids=None)),
        ("display_attached", "note", _gpu(display=True)),
        ("mig_enabled", "invalid", _gpu(mig=True)),
        ("throttled", "note", _gpu(throttled_share=0.4)),
    ],
)
def test_each_fault_of_a_meter_is_found(code: str, severity: str, gpu: GpuEvidence) -> None:
    """A fault of a meter is found under its code, with the severity the design gives it."""
    assert (code, severity) in {(r.code, r.severity) for r in judge(replace(CLEAN, gpus=[gpu]))}


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("unattributed_high", {"unattributed_j": -1000.0}),
        ("simulator_limited", {"simulator_lag": 0.03}),
        ("phases_unidentifiable", {"phases_identified": False}),
        ("attribution_degraded", {"attribution_fitted": False}),
        ("attribution_degraded", {"preemptions": 3.0}),
        ("quick", {"idle_s": 5.0}),
        ("run_failed", {"failure": "interrupted by SIGINT"}),
        ("gpu_lost", {"failure": "gpu_lost: it fell off the bus"}),
        ("no_energy_source", {"gpus": [], "no_energy_why": "no GPU"}),
    ],
)
def test_each_fault_of_the_join_is_found(code: str, fields: dict[str, object]) -> None:
    """A finding about the whole run is found under its code."""
    assert code in _codes(replace(CLEAN, **fields))  # type: ignore[arg-type]


def test_a_closed_loop_has_no_schedule_to_be_late_against() -> None:
    """Slots refilled 60 ms late are harmless where a request takes seconds; in an open loop that lag is not."""
    late = replace(LOAD, lag_p99_s=0.06, lag_share=0.01)
    assert "client_limited" in _codes(replace(CLEAN, load=late))
    assert "client_limited" not in _codes(replace(CLEAN, load=replace(late, open_loop=False)))


def test_short_windows_may_disagree_more() -> None:
    """4 % apart is too much over 60 s and allowed under 30 s, where the counter's steps weigh more."""
    energy = WindowEnergy(1000.0, "counter", 1000.0, 1040.0, 0.04)
    long = replace(CLEAN, gpus=[_gpu(energy=energy)])
    short = replace(long, window_ns=(1 * S, 21 * S))
    assert "sources_disagree" in _codes(long)
    assert "sources_disagree" not in _codes(short)
