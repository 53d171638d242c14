"""`summary.json` as types: every published number of a run, with its unit. Missing is None, never 0.

docs/metrics.md defines each; a test holds the two together.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from profiler.manifest import SCHEMA_VERSION


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Reason(_Part):
    """One finding about the run; only severity invalid clears `valid`."""

    code: str
    severity: Literal["invalid", "note"]
    detail: str


class Validity(_Part):
    """The verdict."""

    valid: bool
    reasons: list[Reason]


class ServerPart(_Part):
    """The engine that answered."""

    engine: str
    version: str | None
    url: str


class GpuPart(_Part):
    """A meter that was sampled."""

    uuid: str
    name: str
    index: int


class WindowPart(_Part):
    """The measurement window, seconds since the run's second 0."""

    start_s: float
    end_s: float
    kind: Literal["open-loop", "closed-loop"]
    excluded_warmup_s: float


class LagPart(_Part):
    """How late requests were sent against their schedule, s."""

    p50: float | None
    p99: float | None
    max: float | None


class LoadPart(_Part):
    """What was asked of the load generator and what it did."""

    arrival: str
    asked_rate_rps: float | None
    achieved_rate_rps: float
    concurrency: int | None
    schedule_lag_s: LagPart


class RequestsPart(_Part):
    """Counts of requests: of the whole run, and of the cohort scheduled in the window."""

    sent: int
    ok: int
    failed: int
    in_window: int


class TokensPart(_Part):
    """Tokens of the window: prompt tokens of requests whose first token arrived in it, output tokens arrived in it."""

    input: int
    output: int


class LatencyPart(_Part):
    """One latency of the cohort's successes, s. `interval_95` holds each percentile's 95 % interval."""

    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    n: int
    interval_95: dict[str, tuple[float, float] | None]


class LatenciesPart(_Part):
    """The latencies by name."""

    ttft_s: LatencyPart
    ttft_scheduled_s: LatencyPart
    tpot_s: LatencyPart
    itl_s: LatencyPart
    e2e_s: LatencyPart


class ThroughputPart(_Part):
    """Rates over the window."""

    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    goodput_requests_per_s: float | None


class SloPart(_Part):
    """One objective; `value_s` and `met` are None when the cohort is too small to tell."""

    objective: str
    value_s: float | None
    met: bool | None


class EnergyPart(_Part):
    """Joules of the window and what follows from them; total_j = requests_j + idle_j + unattributed_j."""

    total_j: float | None = None
    idle_j: float | None = None
    requests_j: float | None = None
    unattributed_j: float | None = None
    prefill_j: float | None = None
    decode_j: float | None = None
    mean_power_w: float | None = None
    j_per_request: float | None = None
    j_per_output_token: float | None = None
    j_per_total_token: float | None = None
    net_j_per_output_token: float | None = None
    gain_uncertainty_ratio: float | None = None
    source: Literal["counter", "integral"] | None = None
    integral_j: float | None = None
    counter_j: float | None = None
    disagreement_ratio: float | None = None


class ClocksPart(_Part):
    """The operating point that was held."""

    requested_sm_mhz: float | None = None
    achieved_sm_mhz: float | None = None
    memory_mhz: float | None = None
    power_limit_w: float | None = None
    throttled_share: float | None = None


class Summary(_Part):
    """The whole of summary.json."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    model: str
    weights: Literal["real", "random"]
    task: str | None
    simulated: bool
    boundary: str | None
    server: ServerPart
    gpus: list[GpuPart]
    window: WindowPart
    load: LoadPart
    requests: RequestsPart
    tokens: TokensPart
    latency: LatenciesPart
    throughput: ThroughputPart
    slo: list[SloPart]
    energy: EnergyPart
    clocks: ClocksPart
    validity: Validity
