"""Gathers from a run's tables what the verdict rests on (`profiler.trust` judges it)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from profiler import trust
from profiler.gpu.base import EVENT_REASONS, THROTTLE_REASONS
from profiler.join import cohort_lags_s, uncounted

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from profiler.energies import Energies
    from profiler.manifest import Manifest
    from profiler.tables import Tables
    from profiler.trace import PowerTrace

_THROTTLE_BITS = sum(EVENT_REASONS[reason] for reason in THROTTLE_REASONS)


def throttled_share(meter: PowerTrace) -> float | None:
    """Return the share of readings with a reason that holds the clocks back; None where reasons are not known."""
    known = meter.event_reasons[meter.event_reasons >= 0]
    return float(((known & _THROTTLE_BITS) != 0).mean()) if known.size else None


def find_evidence(manifest: Manifest, frame: pd.DataFrame, energies: Energies, tables: Tables) -> trust.Evidence:
    """Return the evidence of a run whose window has passed."""
    timeline = manifest.timeline
    assert timeline.window_ns is not None
    infos = {gpu.uuid: gpu for gpu in manifest.gpus}
    gpus = [
        trust.GpuEvidence(
            name=infos[meter.uuid].name,
            trace=meter,
            energy=window,
            foreign_pids=manifest.foreign_pids.get(meter.uuid, ()),
            display=infos[meter.uuid].display_active,
            mig=infos[meter.uuid].mig_enabled,
            throttled_share=throttled_share(meter.between(*timeline.window_ns)),
        )
        for meter, window in zip(energies.meters, energies.windows, strict=True)
    ]
    parts = energies.parts(timeline.window_s)
    idle_s = (timeline.idle_ns[1] - timeline.idle_ns[0]) * 1e-9 if timeline.idle_ns else 0.0
    return trust.Evidence(
        window_ns=timeline.window_ns,
        idle_s=idle_s,
        load=_load_evidence(manifest, frame, tables.events),
        gpus=gpus,
        no_energy_why=manifest.no_energy_why,
        total_j=energies.total.total_j,
        unattributed_j=parts[2] if parts else None,
        attribution_fitted=energies.split is None or energies.split.fitted,
        phases_identified=energies.split is None or energies.split.phases,
        preemptions=_increase(tables.engine, "vllm:num_preemptions_total", timeline.window_ns) or 0.0,
        simulator_lag=_simulator_lag(tables.engine, timeline.window_ns, frame) if manifest.simulated else None,
        failure=manifest.failure,
    )


def _load_evidence(manifest: Manifest, frame: pd.DataFrame, events: pa.Table) -> trust.LoadEvidence:
    cohort = frame[frame["in_window"]]
    good, bad = cohort[cohort["status"] == "ok"], cohort[cohort["status"] != "ok"]
    start_s, end_s = manifest.timeline.seconds(np.array(manifest.timeline.window_ns, np.float64))
    lags_s, e2e_s = cohort_lags_s(frame), good["e2e_s"].mean()
    known_output, known_prompt = good["output_tokens"].notna(), good["prompt_tokens"].notna()

    def in_flight(at_s: float) -> int:
        return int(((frame["scheduled_s"] <= at_s) & (frame["end_s"] > at_s)).sum())

    return trust.LoadEvidence(
        cohort=len(cohort),
        ok=len(good),
        failed=len(bad),
        first_error=str(bad["error"].iloc[0]) if len(bad) else None,
        wrong_output=int((good["output_tokens"] != good["asked_output_tokens"])[known_output].sum()),
        wrong_input=int((good["prompt_tokens"] != good["asked_prompt_tokens"])[known_prompt].sum()),
        lag_p99_s=float(np.percentile(lags_s, 99)) if lags_s.size else None,
        lag_share=float(lags_s.mean() / e2e_s) if lags_s.size and e2e_s > 0 else None,
        in_flight_start=in_flight(float(start_s)),
        in_flight_end=in_flight(float(end_s)),
        open_loop=manifest.config.concurrency is None,
        asked=manifest.config.requests,
        uncounted=int((uncounted(frame, events) & frame["in_window"].to_numpy()).sum()),
    )


def _increase(engine: pa.Table | None, name: str, window_ns: tuple[int, int]) -> float | None:
    """Return how much an engine counter grew between the scrapes that bracket the window; None when not published."""
    if engine is None or engine.num_rows == 0:
        return None
    rows = engine.to_pandas()
    series = rows[rows["name"] == name].groupby("t_ns")["value"].sum()
    if series.empty:
        return None
    before, after = series[series.index <= window_ns[0]], series[series.index >= window_ns[1]]
    first = before.iloc[-1] if len(before) else series.iloc[0]
    last = after.iloc[0] if len(after) else series.iloc[-1]
    return float(last - first)


def _simulator_lag(engine: pa.Table | None, window_ns: tuple[int, int], frame: pd.DataFrame) -> float | None:
    """Return the mean lateness of the simulator's steps as a share of the mean E2E latency it delivered."""
    steps = _increase(engine, "jouletrace_sim_steps_total", window_ns)
    lag_s = _increase(engine, "jouletrace_sim_step_lag_seconds_total", window_ns)
    e2e_s = frame.loc[frame["in_window"], "e2e_s"].mean()
    if not steps or lag_s is None or not e2e_s > 0:
        return None
    return float(lag_s / steps / e2e_s)
