"""From a run's tables to its summary and its final request rows. Reads only what the run directory holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from profiler import join, trust
from profiler.attribution import Attribution, attribute
from profiler.energy import Curve, WindowEnergy, energy_curve, summed, window_energy
from profiler.gpu.base import EVENT_REASONS, THROTTLE_REASONS
from profiler.latency import PERCENTILES, describe
from profiler.slo import met_by, parse_slo
from profiler.summary import (
    ClocksPart,
    EnergyPart,
    GpuPart,
    LagPart,
    LatenciesPart,
    LatencyPart,
    LoadPart,
    RequestsPart,
    ServerPart,
    Summary,
    ThroughputPart,
    TokensPart,
    Validity,
    WindowPart,
)
from profiler.tables import EVENTS, REQUESTS
from profiler.trace import PowerTrace, traces

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

    from profiler.join import Timeline, WindowTokens
    from profiler.manifest import Manifest

    Floats = NDArray[np.float64]

# The board's own gain error, a systematic term that no agreement of its sensors removes (DESIGN; measuring.md).
GAIN_UNCERTAINTY = 0.05
_THROTTLE_BITS = sum(EVENT_REASONS[reason] for reason in THROTTLE_REASONS)


@dataclass(frozen=True, slots=True)
class Tables:
    """The rows of a run as recorded; None for a table that was never begun."""

    requests: pa.Table | None
    events: pa.Table | None
    power: pa.Table | None
    engine: pa.Table | None


@dataclass(frozen=True, slots=True)
class _Energies:
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


def summarise(manifest: Manifest, tables: Tables) -> tuple[Summary, pd.DataFrame]:
    """Return summary.json and the rows of requests.parquet of a run whose window has passed."""
    timeline = manifest.timeline
    assert timeline.window_ns is not None
    requests = tables.requests if tables.requests is not None else REQUESTS.empty_table()
    events = tables.events if tables.events is not None else EVENTS.empty_table()
    frame = join.request_frame(requests, timeline)
    energies = _energies(tables.power, frame, timeline)
    frame = join.with_energy(frame, energies.split)
    tokens = join.window_tokens(frame, events, timeline)
    evidence = _evidence(manifest, frame, energies, tables.engine)
    reasons = trust.judge(evidence)
    valid = not any(reason.severity == "invalid" for reason in reasons)
    overloaded = any(reason.code == "overloaded" for reason in reasons)
    server = manifest.server
    assert server is not None
    summary = Summary(
        run_id=manifest.run_id,
        model=manifest.model,
        task=None,
        simulated=manifest.simulated,
        boundary=manifest.gpus[0].boundary if manifest.gpus else None,
        server=ServerPart(engine=server.engine, version=server.version, url=server.url),
        gpus=[GpuPart(uuid=gpu.uuid, name=gpu.name, index=gpu.index) for gpu in manifest.gpus],
        window=_window(manifest),
        load=_load(manifest, frame),
        requests=_requests(frame),
        tokens=TokensPart(input=tokens.prompt_tokens, output=tokens.output_tokens),
        latency=_latencies(frame, events),
        throughput=_throughput(manifest, frame, tokens),
        energy=_energy(frame, energies, tokens, timeline, per_token=not overloaded),
        clocks=_clocks(energies.meters, timeline),
        validity=Validity(valid=valid, reasons=reasons),
    )
    return summary, frame


def _energies(power: pa.Table | None, frame: pd.DataFrame, timeline: Timeline) -> _Energies:
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
    return _Energies(meters, windows, summed(windows), idle_w, split)


def idle_power_w(curve: Curve, idle_ns: tuple[int, int] | None) -> float | None:
    """Return the mean power over the idle phase, between the first and the last point of the curve inside it."""
    if idle_ns is None:
        return None
    inside = np.flatnonzero((curve.t_ns >= idle_ns[0]) & (curve.t_ns <= idle_ns[1]))
    if inside.size < 2:
        return None
    first, last = inside[0], inside[-1]
    return float((curve.energy_j[last] - curve.energy_j[first]) / (curve.t_ns[last] - curve.t_ns[first]) * 1e9)


def _window(manifest: Manifest) -> WindowPart:
    timeline = manifest.timeline
    assert timeline.window_ns is not None
    assert timeline.load_start_ns is not None
    start_s, end_s = timeline.seconds(np.array(timeline.window_ns, np.float64))
    return WindowPart(
        start_s=float(start_s),
        end_s=float(end_s),
        kind="open-loop" if manifest.config.concurrency is None else "closed-loop",
        excluded_warmup_s=(timeline.window_ns[0] - timeline.load_start_ns) * 1e-9,
    )


def _window_s(timeline: Timeline) -> float:
    assert timeline.window_ns is not None
    return (timeline.window_ns[1] - timeline.window_ns[0]) * 1e-9


def _lags_s(frame: pd.DataFrame) -> Floats:
    cohort = frame[frame["in_window"]]
    lags: Floats = (cohort["sent_s"] - cohort["scheduled_s"]).to_numpy(dtype=np.float64)
    return lags[~np.isnan(lags)]


def _load(manifest: Manifest, frame: pd.DataFrame) -> LoadPart:
    config, timeline = manifest.config, manifest.timeline
    lags_s = _lags_s(frame)
    start_s, end_s = timeline.seconds(np.array(timeline.window_ns, np.float64))
    sent_s = frame["sent_s"].to_numpy(dtype=np.float64)
    sent = int(((sent_s >= start_s) & (sent_s < end_s)).sum())
    told = lags_s.size > 0
    return LoadPart(
        arrival="closed" if config.concurrency is not None else config.arrival,
        asked_rate_rps=config.rate_rps if config.concurrency is None else None,
        achieved_rate_rps=sent / _window_s(timeline),
        concurrency=config.concurrency,
        schedule_lag_s=LagPart(
            p50=float(np.percentile(lags_s, 50)) if told else None,
            p99=float(np.percentile(lags_s, 99)) if told else None,
            max=float(lags_s.max()) if told else None,
        ),
    )


def _requests(frame: pd.DataFrame) -> RequestsPart:
    status = frame["status"]
    ended = status != "cancelled"
    return RequestsPart(
        sent=int(frame["sent_s"].notna().sum()),
        ok=int((status == "ok").sum()),
        failed=int((ended & (status != "ok")).sum()),
        in_window=int(frame["in_window"].sum()),
    )


def _latency(values: Floats) -> LatencyPart:
    told = describe(values)
    names = {q: f"p{q}" for q in PERCENTILES}
    return LatencyPart(
        mean=told.mean,
        n=told.n,
        interval_95={names[q]: told.intervals[q] for q in PERCENTILES},
        **{names[q]: told.percentiles[q] for q in PERCENTILES},
    )


def _latencies(frame: pd.DataFrame, events: pa.Table) -> LatenciesPart:
    good = frame[frame["in_window"] & (frame["status"] == "ok")]
    columns = ("ttft_s", "ttft_scheduled_s", "tpot_s", "e2e_s")
    parts = {name: _latency(good[name].to_numpy(dtype=np.float64)) for name in columns}
    return LatenciesPart(itl_s=_latency(join.cohort_gaps(frame, events)), **parts)


def _throughput(manifest: Manifest, frame: pd.DataFrame, tokens: WindowTokens) -> ThroughputPart:
    timeline, window_s = manifest.timeline, _window_s(manifest.timeline)
    start_s, end_s = timeline.seconds(np.array(timeline.window_ns, np.float64))
    done_s = frame["last_token_s"].to_numpy(dtype=np.float64)
    done = (frame["status"] == "ok").to_numpy() & (done_s >= start_s) & (done_s < end_s)
    slos = [parse_slo(text) for text in manifest.config.slo]
    good = met_by(frame, slos, open_loop=manifest.config.concurrency is None) & frame["in_window"].to_numpy()
    return ThroughputPart(
        requests_per_s=float(done.sum() / window_s),
        output_tokens_per_s=tokens.output_tokens / window_s,
        total_tokens_per_s=(tokens.prompt_tokens + tokens.output_tokens) / window_s,
        goodput_requests_per_s=float(good.sum() / window_s) if slos else None,
    )


def _ratio(joules: float | None, count: int) -> float | None:
    return None if joules is None or count == 0 else joules / count


def _energy(
    frame: pd.DataFrame, energies: _Energies, tokens: WindowTokens, timeline: Timeline, *, per_token: bool
) -> EnergyPart:
    """Return the energy block; joules per token only where the load was not an overload, which has none."""
    window, window_s, split = energies.total, _window_s(timeline), energies.split
    if not energies.meters:
        return EnergyPart()
    idle_j, requests_j, unattributed_j = energies.parts(window_s) or (None, None, None)
    good = frame[frame["in_window"] & (frame["status"] == "ok")]["energy_j"].dropna()
    identified = split is not None and split.phases
    output, both = (tokens.output_tokens, tokens.output_tokens + tokens.prompt_tokens) if per_token else (0, 0)
    return EnergyPart(
        total_j=window.total_j,
        idle_j=idle_j,
        requests_j=requests_j,
        unattributed_j=unattributed_j,
        prefill_j=split.prefill_in_window_j if split is not None and identified else None,
        decode_j=split.decode_in_window_j if split is not None and identified else None,
        mean_power_w=None if window.total_j is None else window.total_j / window_s,
        j_per_request=float(good.mean()) if len(good) and per_token else None,
        j_per_output_token=_ratio(window.total_j, output),
        j_per_total_token=_ratio(window.total_j, both),
        net_j_per_output_token=_ratio(requests_j, output),
        gain_uncertainty_ratio=GAIN_UNCERTAINTY,
        source=window.source,
        integral_j=window.integral_j,
        counter_j=window.counter_j,
        disagreement_ratio=window.disagreement_ratio,
    )


def _mean(values: Floats) -> float | None:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else None


def _throttled_share(meter: PowerTrace) -> float | None:
    known = meter.event_reasons[meter.event_reasons >= 0]
    return float(((known & _THROTTLE_BITS) != 0).mean()) if known.size else None


def _clocks(meters: list[PowerTrace], timeline: Timeline) -> ClocksPart:
    if not meters or timeline.window_ns is None:
        return ClocksPart()
    inside = [meter.between(*timeline.window_ns) for meter in meters]
    shares = [share for meter in inside if (share := _throttled_share(meter)) is not None]
    return ClocksPart(
        achieved_sm_mhz=_mean(np.concatenate([meter.sm_mhz for meter in inside])),
        memory_mhz=_mean(np.concatenate([meter.memory_mhz for meter in inside])),
        power_limit_w=_mean(np.concatenate([meter.power_limit_w for meter in inside])),
        throttled_share=max(shares) if shares else None,
    )


def _evidence(manifest: Manifest, frame: pd.DataFrame, energies: _Energies, engine: pa.Table | None) -> trust.Evidence:
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
            throttled_share=_throttled_share(meter.between(*timeline.window_ns)),
        )
        for meter, window in zip(energies.meters, energies.windows, strict=True)
    ]
    parts = energies.parts(_window_s(timeline))
    idle_s = (timeline.idle_ns[1] - timeline.idle_ns[0]) * 1e-9 if timeline.idle_ns else 0.0
    return trust.Evidence(
        window_ns=timeline.window_ns,
        idle_s=idle_s,
        load=_load_evidence(manifest, frame),
        gpus=gpus,
        no_energy_why=manifest.no_energy_why,
        total_j=energies.total.total_j,
        unattributed_j=parts[2] if parts else None,
        attribution_fitted=energies.split is None or energies.split.fitted,
        phases_identified=energies.split is None or energies.split.phases,
        preemptions=_increase(engine, "vllm:num_preemptions_total", timeline.window_ns) or 0.0,
        simulator_lag=_simulator_lag(engine, timeline.window_ns, frame) if manifest.simulated else None,
        failure=manifest.failure,
    )


def _load_evidence(manifest: Manifest, frame: pd.DataFrame) -> trust.LoadEvidence:
    cohort = frame[frame["in_window"]]
    good, bad = cohort[cohort["status"] == "ok"], cohort[cohort["status"] != "ok"]
    start_s, end_s = manifest.timeline.seconds(np.array(manifest.timeline.window_ns, np.float64))
    lags_s = _lags_s(frame)
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
        in_flight_start=in_flight(float(start_s)),
        in_flight_end=in_flight(float(end_s)),
        open_loop=manifest.config.concurrency is None,
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
    e2e_s = _mean(frame.loc[frame["in_window"], "e2e_s"].to_numpy(dtype=np.float64))
    if not steps or lag_s is None or not e2e_s:
        return None
    return lag_s / steps / e2e_s
