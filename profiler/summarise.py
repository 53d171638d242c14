"""From a run's tables to its summary and its final request rows. Reads only what the run directory holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from profiler import join, trust
from profiler.energies import Energies, find_energies
from profiler.evidence import find_evidence, throttled_share
from profiler.latency import PERCENTILES, describe
from profiler.slo import met_by, parse_slo, percentile_s
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
    SloPart,
    Summary,
    ThroughputPart,
    TokensPart,
    Validity,
    WindowPart,
)

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

    from profiler.join import Timeline, WindowTokens
    from profiler.manifest import Manifest
    from profiler.tables import Tables
    from profiler.trace import PowerTrace

    Floats = NDArray[np.float64]

# The board's own gain error, a systematic term that no agreement of its sensors removes (DESIGN; measuring.md).
GAIN_UNCERTAINTY = 0.05


def summarise(manifest: Manifest, tables: Tables) -> tuple[Summary, pd.DataFrame]:
    """Return summary.json and the rows of requests.parquet of a run whose window has passed."""
    timeline = manifest.timeline
    assert timeline.window_ns is not None
    events = tables.events
    frame = join.request_frame(tables.requests, timeline)
    energies = find_energies(tables.power, frame, timeline)
    frame = join.with_energy(frame, energies.split)
    tokens = join.window_tokens(frame, events, timeline)
    evidence = find_evidence(manifest, frame, energies, tables)
    reasons = trust.judge(evidence)
    valid = not any(reason.severity == "invalid" for reason in reasons)
    overloaded = any(reason.code == "overloaded" for reason in reasons)
    server = manifest.server
    assert server is not None
    summary = Summary(
        run_id=manifest.run_id,
        model=manifest.model,
        weights=manifest.weights,
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
        slo=_objectives(manifest, frame),
        energy=_energy(frame, energies, tokens, timeline, per_token=not overloaded),
        clocks=_clocks(energies.meters, timeline),
        validity=Validity(valid=valid, reasons=reasons),
    )
    return summary, frame


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


def _load(manifest: Manifest, frame: pd.DataFrame) -> LoadPart:
    config, timeline = manifest.config, manifest.timeline
    lags_s = join.cohort_lags_s(frame)
    start_s, end_s = timeline.seconds(np.array(timeline.window_ns, np.float64))
    sent_s = frame["sent_s"].to_numpy(dtype=np.float64)
    sent = int(((sent_s >= start_s) & (sent_s < end_s)).sum())
    told = lags_s.size > 0
    return LoadPart(
        arrival="closed" if config.concurrency is not None else config.arrival,
        asked_rate_rps=config.rate_rps if config.concurrency is None else None,
        achieved_rate_rps=sent / timeline.window_s,
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
    timeline, window_s = manifest.timeline, manifest.timeline.window_s
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


def _objectives(manifest: Manifest, frame: pd.DataFrame) -> list[SloPart]:
    cohort, open_loop = frame[frame["in_window"]], manifest.config.concurrency is None
    parts: list[SloPart] = []
    for text in manifest.config.slo:
        objective = parse_slo(text)
        value_s = percentile_s(cohort, objective, open_loop=open_loop)
        met = None if value_s is None else value_s <= objective.limit_s
        parts.append(SloPart(objective=text, value_s=None if value_s == np.inf else value_s, met=met))
    return parts


def _mean(values: Floats) -> float | None:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else None


def _ratio(joules: float | None, count: int) -> float | None:
    return None if joules is None or count == 0 else joules / count


def _energy(
    frame: pd.DataFrame, energies: Energies, tokens: WindowTokens, timeline: Timeline, *, per_token: bool
) -> EnergyPart:
    """Return the energy block; joules per token only where the load was not an overload, which has none."""
    window, window_s, split = energies.total, timeline.window_s, energies.split
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


def _clocks(meters: list[PowerTrace], timeline: Timeline) -> ClocksPart:
    if not meters or timeline.window_ns is None:
        return ClocksPart()
    inside = [meter.between(*timeline.window_ns) for meter in meters]
    shares = [share for meter in inside if (share := throttled_share(meter)) is not None]
    return ClocksPart(
        achieved_sm_mhz=_mean(np.concatenate([meter.sm_mhz for meter in inside])),
        memory_mhz=_mean(np.concatenate([meter.memory_mhz for meter in inside])),
        power_limit_w=_mean(np.concatenate([meter.power_limit_w for meter in inside])),
        throttled_share=max(shares) if shares else None,
    )
