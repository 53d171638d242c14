"""Says whether a run may be believed: evidence in, reasons with stable codes out.

Thresholds are measuring.md's where it gives one and marked as this project's choice where it does not. Only a reason
of severity `invalid` clears `validity.valid`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from profiler.summary import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from profiler.energy import WindowEnergy
    from profiler.trace import PowerTrace

FULL_IDLE_S, FULL_WINDOW_S = 30.0, 60.0
MAX_DISAGREEMENT, MAX_DISAGREEMENT_SHORT, SHORT_WINDOW_S = 0.03, 0.05, 30.0
MAX_UNATTRIBUTED = 0.05
# The rest are this project's choices.
MAX_GAP_S = 0.5
STUCK_S = 2.0
MAX_LAG_P99_S = 0.05
MAX_CLOSED_LAG = 0.02
MAX_SIMULATOR_LAG = 0.02
MAX_FAILED_SHARE = 0.05
MIN_SUCCESSES = 10
THROTTLED_NOTE_SHARE = 0.01
BACKLOG_SHARE, BACKLOG_MIN = 0.1, 10


@dataclass(frozen=True, slots=True)
class GpuEvidence:
    """What is known of one meter: its readings, its energy in the window, and who else uses it.

    `foreign_pids` is None when the processes on the GPU cannot be told.
    """

    name: str
    trace: PowerTrace
    energy: WindowEnergy
    foreign_pids: tuple[int, ...] | None = ()
    display: bool | None = None
    mig: bool | None = None
    throttled_share: float | None = None


@dataclass(frozen=True, slots=True)
class LoadEvidence:
    """What the cohort and the load generator did. `lag_share` is the mean lag over the mean E2E latency."""

    cohort: int
    ok: int
    failed: int
    first_error: str | None
    wrong_output: int
    wrong_input: int
    lag_p99_s: float | None
    lag_share: float | None
    in_flight_start: int
    in_flight_end: int
    open_loop: bool
    asked: int | None = None
    uncounted: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the verdict rests on. `simulator_lag` is the simulator's own lag as a share of its time."""

    window_ns: tuple[int, int]
    idle_s: float
    load: LoadEvidence
    gpus: Sequence[GpuEvidence] = field(default=())
    no_energy_why: str | None = None
    total_j: float | None = None
    unattributed_j: float | None = None
    attribution_fitted: bool = True
    phases_identified: bool = True
    preemptions: float = 0.0
    simulator_lag: float | None = None
    failure: str | None = None

    @property
    def window_s(self) -> float:
        """Length of the window."""
        return (self.window_ns[1] - self.window_ns[0]) * 1e-9


def judge(evidence: Evidence) -> list[Reason]:
    """Return every finding, those that invalidate first."""
    found = [
        *_failure_reasons(evidence),
        *_load_reasons(evidence),
        *(reason for gpu in evidence.gpus for reason in _gpu_reasons(gpu, evidence)),
        *_energy_reasons(evidence),
    ]
    return sorted(found, key=lambda reason: reason.severity != "invalid")


def invalid(code: str, detail: str) -> Reason:
    """Return a finding that makes the run untrustworthy."""
    return Reason(code=code, severity="invalid", detail=detail)


def note(code: str, detail: str) -> Reason:
    """Return a finding that the reader should know."""
    return Reason(code=code, severity="note", detail=detail)


def _failure_reasons(evidence: Evidence) -> Iterator[Reason]:
    if evidence.failure is not None:
        if evidence.failure.startswith("gpu_lost"):
            yield invalid("gpu_lost", evidence.failure)
        else:
            yield invalid("run_failed", f"the run broke off after its window: {evidence.failure}")


def _load_reasons(evidence: Evidence) -> Iterator[Reason]:
    load = evidence.load
    yield from _outcome_reasons(load)
    if not load.open_loop and load.lag_share is not None and load.lag_share > MAX_CLOSED_LAG:
        yield invalid("client_limited", f"slots stood empty for {load.lag_share:.1%} of a request's time")
    if load.open_loop and load.lag_p99_s is not None and load.lag_p99_s > MAX_LAG_P99_S:
        yield invalid("client_limited", f"requests left up to {load.lag_p99_s * 1e3:.0f} ms late (p99)")
    growth = load.in_flight_end - load.in_flight_start
    if load.open_loop and growth > max(BACKLOG_MIN, BACKLOG_SHARE * load.cohort):
        yield invalid("overloaded", f"requests in flight grew from {load.in_flight_start} to {load.in_flight_end}")
    if evidence.simulator_lag is not None and evidence.simulator_lag > MAX_SIMULATOR_LAG:
        lag = f"the simulator ran {evidence.simulator_lag:.1%} behind its own clock"
        yield invalid("simulator_limited", f"{lag}: lower the rate or free the machine")


def _outcome_reasons(load: LoadEvidence) -> Iterator[Reason]:
    if load.ok == 0:
        yield invalid("server_failed", f"no request of {load.cohort} succeeded: {load.first_error or 'none was sent'}")
    elif load.failed > MAX_FAILED_SHARE * load.cohort:
        yield invalid("request_failures", f"{load.failed} of {load.cohort} requests failed: {load.first_error}")
    elif load.failed:
        yield note("request_failures", f"{load.failed} of {load.cohort} requests failed: {load.first_error}")
    if 0 < load.ok < MIN_SUCCESSES:
        yield invalid("too_short", f"{load.ok} successes in the window, at least {MIN_SUCCESSES} are needed")
    if load.asked is not None and load.cohort < load.asked:
        yield invalid("too_short", f"{load.cohort} requests in the window, {load.asked} were asked for")
    if load.uncounted:
        yield note("token_times_unknown", f"{load.uncounted} answers told only their sum; even arrival is assumed")
    if load.wrong_output:
        yield invalid("output_length_mismatch", f"{load.wrong_output} answers are not as long as asked")
    if load.wrong_input:
        yield note("input_length_mismatch", f"the engine counted {load.wrong_input} prompts differently than asked")


def _gpu_reasons(gpu: GpuEvidence, evidence: Evidence) -> Iterator[Reason]:
    inside = gpu.trace.between(*evidence.window_ns)
    if gpu.energy.total_j is None:
        yield invalid("not_bracketed", f"{gpu.name}: no energy reading on both sides of the window")
    if gpu.trace.is_averaged:
        yield note("power_averaged", f"{gpu.name}: has no instantaneous power; its running mean is integrated")
    yield from _gap_reasons(gpu, evidence)
    yield from _counter_reasons(gpu, inside)
    if gpu.foreign_pids is None:
        yield note("foreign_process_unknown", f"{gpu.name}: who else uses it cannot be told from here")
    elif gpu.foreign_pids:
        yield invalid("foreign_process", f"{gpu.name}: also used by pid {', '.join(map(str, gpu.foreign_pids))}")
    if gpu.display:
        yield note("display_attached", f"{gpu.name}: drives a display, whose energy is counted too")
    if gpu.mig:
        yield invalid("mig_enabled", f"{gpu.name}: MIG is on; power cannot be told per instance")
    if gpu.throttled_share is not None and gpu.throttled_share > THROTTLED_NOTE_SHARE:
        yield note("throttled", f"{gpu.name}: clocks were held back {gpu.throttled_share:.0%} of the window")


def _gap_reasons(gpu: GpuEvidence, evidence: Evidence) -> Iterator[Reason]:
    start_ns, end_ns = evidence.window_ns
    inside = gpu.trace.between(start_ns, end_ns).t_ns
    gaps_s = np.diff(np.concatenate(([start_ns], inside, [end_ns]))) * 1e-9
    if gaps_s.max() > MAX_GAP_S:
        yield invalid("sampling_gap", f"{gpu.name}: {gaps_s.max():.2f} s without a reading in the window")


def _counter_reasons(gpu: GpuEvidence, inside: PowerTrace) -> Iterator[Reason]:
    known = ~np.isnan(inside.energy_j)
    if not known.any():
        yield note("counter_missing", f"{gpu.name}: has no energy counter; energy is integrated power")
        return
    steps = np.diff(inside.energy_j[known])
    if (steps < 0).any():
        yield invalid("counter_reset", f"{gpu.name}: its energy counter went backwards in the window")
        return
    t_s = inside.t_ns[known] * 1e-9
    moved = np.concatenate((t_s[:1], t_s[1:][steps > 0], t_s[-1:]))
    if np.diff(moved).max() > STUCK_S:
        yield invalid("counter_stuck", f"{gpu.name}: its energy counter stood still for {np.diff(moved).max():.1f} s")


def _energy_reasons(evidence: Evidence) -> Iterator[Reason]:
    if evidence.idle_s < FULL_IDLE_S or evidence.window_s < FULL_WINDOW_S:
        lengths = f"{evidence.idle_s:.0f} s of idle, a window of {evidence.window_s:.0f} s"
        yield note("quick", f"{lengths}; --full measures {FULL_IDLE_S:.0f} s and {FULL_WINDOW_S:.0f} s")
    if not evidence.gpus:
        yield note("no_energy_source", f"no energy was measured: {evidence.no_energy_why or 'no meter was asked for'}")
        return
    limit = MAX_DISAGREEMENT if evidence.window_s >= SHORT_WINDOW_S else MAX_DISAGREEMENT_SHORT
    for gpu in evidence.gpus:
        ratio = gpu.energy.disagreement_ratio
        if ratio is not None and ratio > limit:
            yield invalid("sources_disagree", f"{gpu.name}: counter and power differ by {ratio:.1%}, over {limit:.0%}")
    yield from _attribution_reasons(evidence)


def _attribution_reasons(evidence: Evidence) -> Iterator[Reason]:
    if evidence.total_j is not None and evidence.unattributed_j is None:
        yield note("attribution_degraded", "idle power is not known; the energy is not split over requests")
    if evidence.total_j and evidence.unattributed_j is not None:
        share = abs(evidence.unattributed_j) / evidence.total_j
        if share > MAX_UNATTRIBUTED:
            yield invalid("unattributed_high", f"{share:.1%} of the energy belongs to no request")
    if not evidence.attribution_fitted:
        yield note("attribution_degraded", "too few readings to fit the cost of a request; the split is a guess")
    elif evidence.preemptions:
        yield note("attribution_degraded", f"{evidence.preemptions:.0f} preemptions redid work that is not seen")
    if not evidence.phases_identified:
        yield note("phases_unidentifiable", "the readings cannot tell prefill from decode; both are null")
