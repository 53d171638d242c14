"""The engine's /metrics: vLLM's names, and the simulation's account of how late it is on its own clock.

Per token only a bisection and an addition are paid; Prometheus' own types are built when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from servers.sim.engine import StepResult

# Bucket bounds as vLLM 0.11 has them.
_TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_ITL_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_REQUEST_S = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)
_ITERATION = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_LENGTH = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)


class Histogram:
    """Counts of observations up to each bound."""

    def __init__(self, bounds: Iterable[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, several times at once if wanted."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def add_to(self, family: HistogramMetricFamily, labels: list[str]) -> None:
        """Write the state into a Prometheus family."""
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        family.add_metric(labels, list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """A request's instants on the simulated clock; `scheduled_ns` is its first admission."""

    arrival_ns: int
    scheduled_ns: int
    first_token_ns: int
    last_token_ns: int


@dataclass(slots=True)
class Lag:
    """How late steps were published, against their simulated end."""

    steps: int = 0
    lag_s: float = 0.0
    latest_s: float = 0.0
    maximum_s: float = 0.0
    busy_s: float = 0.0
    publish_s: float = 0.0

    def note(self, step: StepResult, begun_ns: int, done_ns: int) -> None:
        """Account for a step whose tokens left from `begun_ns` to `done_ns`."""
        self.steps += 1
        self.latest_s = (begun_ns - step.end_ns) * 1e-9
        self.lag_s += self.latest_s
        self.maximum_s = max(self.maximum_s, self.latest_s)
        self.busy_s += (step.end_ns - step.start_ns) * 1e-9
        self.publish_s += (done_ns - begun_ns) * 1e-9


@dataclass(slots=True)
class EngineMetrics:
    """The state behind /metrics."""

    ttft_s: Histogram = field(default_factory=partial(Histogram, _TTFT_S))
    itl_s: Histogram = field(default_factory=partial(Histogram, _ITL_S))
    tpot_s: Histogram = field(default_factory=partial(Histogram, _ITL_S))
    e2e_s: Histogram = field(default_factory=partial(Histogram, _REQUEST_S))
    queue_s: Histogram = field(default_factory=partial(Histogram, _REQUEST_S))
    inference_s: Histogram = field(default_factory=partial(Histogram, _REQUEST_S))
    prefill_s: Histogram = field(default_factory=partial(Histogram, _REQUEST_S))
    decode_s: Histogram = field(default_factory=partial(Histogram, _REQUEST_S))
    iteration_tokens: Histogram = field(default_factory=partial(Histogram, _ITERATION))
    request_prompt_tokens: Histogram = field(default_factory=partial(Histogram, _LENGTH))
    request_generation_tokens: Histogram = field(default_factory=partial(Histogram, _LENGTH))
    lag: Lag = field(default_factory=Lag)
    running: int = 0
    waiting: int = 0
    kv_used_share: float = 0.0
    preemptions: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    successes: dict[str, int] = field(default_factory=lambda: {"stop": 0, "length": 0, "abort": 0})

    def step(self, step: StepResult) -> None:
        """Count a step."""
        self.running, self.waiting, self.kv_used_share = step.running, step.waiting, step.kv_used_share
        self.preemptions += len(step.preempted)
        self.iteration_tokens.observe(step.tokens)

    def rest(self) -> None:
        """Note that nothing is in flight."""
        self.running, self.waiting, self.kv_used_share = 0, 0, 0.0

    def finished(self, times: RequestTimes, prompt_tokens: int, output_tokens: int, reason: str) -> None:
        """Count a request that ended with all its tokens."""
        self.successes[reason] += 1
        self.request_prompt_tokens.observe(prompt_tokens)
        self.request_generation_tokens.observe(output_tokens)
        self.e2e_s.observe((times.last_token_ns - times.arrival_ns) * 1e-9)
        self.queue_s.observe((times.scheduled_ns - times.arrival_ns) * 1e-9)
        self.inference_s.observe((times.last_token_ns - times.scheduled_ns) * 1e-9)
        self.prefill_s.observe((times.first_token_ns - times.scheduled_ns) * 1e-9)
        decode_s = (times.last_token_ns - times.first_token_ns) * 1e-9
        self.decode_s.observe(decode_s)
        if output_tokens > 1:
            self.tpot_s.observe(decode_s / (output_tokens - 1))


class EngineCollector(Collector):
    """Turns `EngineMetrics` into Prometheus families at the moment of a scrape."""

    def __init__(self, metrics: EngineMetrics, model: str) -> None:
        self._metrics = metrics
        self._model = model

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        metrics = self._metrics
        yield self._gauge("num_requests_running", "Requests in the current batch", metrics.running)
        yield self._gauge("num_requests_waiting", "Requests in the queue", metrics.waiting)
        yield self._gauge("kv_cache_usage_perc", "Share of KV blocks in use, 1 is all", metrics.kv_used_share)
        yield self._counter("num_preemptions", "Preemptions by recomputing", metrics.preemptions)
        yield self._counter("prompt_tokens", "Prompt tokens processed", metrics.prompt_tokens)
        yield self._counter("generation_tokens", "Tokens generated", metrics.generation_tokens)
        labels = ["model_name", "engine", "finished_reason"]
        success = CounterMetricFamily("vllm:request_success", "Requests that ended", labels=labels)
        for reason, count in metrics.successes.items():
            success.add_metric([self._model, "0", reason], count)
        yield success
        yield from self._histograms()
        yield from _lag_families(metrics.lag)

    def _histograms(self) -> Iterator[Metric]:
        metrics = self._metrics
        for name, text, histogram in (
            ("time_to_first_token_seconds", "Arrival to first token", metrics.ttft_s),
            ("inter_token_latency_seconds", "Between tokens of a request", metrics.itl_s),
            ("request_time_per_output_token_seconds", "Mean between tokens, by request", metrics.tpot_s),
            ("e2e_request_latency_seconds", "Arrival to last token", metrics.e2e_s),
            ("request_queue_time_seconds", "Arrival to first scheduled", metrics.queue_s),
            ("request_inference_time_seconds", "First scheduled to last token", metrics.inference_s),
            ("request_prefill_time_seconds", "First scheduled to first token", metrics.prefill_s),
            ("request_decode_time_seconds", "First to last token", metrics.decode_s),
            ("iteration_tokens_total", "Tokens per step", metrics.iteration_tokens),
            ("request_prompt_tokens", "Prompt tokens by request", metrics.request_prompt_tokens),
            ("request_generation_tokens", "Generated tokens by request", metrics.request_generation_tokens),
        ):
            family = HistogramMetricFamily(f"vllm:{name}", text, labels=["model_name", "engine"])
            histogram.add_to(family, [self._model, "0"])
            yield family

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"vllm:{name}", text, labels=["model_name", "engine"])
        family.add_metric([self._model, "0"], value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"vllm:{name}", text, labels=["model_name", "engine"])
        family.add_metric([self._model, "0"], value)
        return family


def _lag_families(lag: Lag) -> Iterator[Metric]:
    late = "late: from a step's simulated end to its first token's leaving"
    yield CounterMetricFamily("jouletrace_sim_steps", "Steps published", value=lag.steps)
    yield CounterMetricFamily("jouletrace_sim_step_lag_seconds", f"Sum over steps of how {late}", value=lag.lag_s)
    yield GaugeMetricFamily("jouletrace_sim_lag_seconds", f"Latest step: how {late}", value=lag.latest_s)
    yield GaugeMetricFamily("jouletrace_sim_max_lag_seconds", f"Worst step: how {late}", value=lag.maximum_s)
    yield CounterMetricFamily("jouletrace_sim_busy_seconds", "Simulated time in steps", value=lag.busy_s)
    yield CounterMetricFamily("jouletrace_sim_publish_seconds", "Real time spent sending tokens", value=lag.publish_s)


def registry(metrics: EngineMetrics, model: str) -> CollectorRegistry:
    """Return a registry of this engine's families only."""
    fresh = CollectorRegistry()
    fresh.register(EngineCollector(metrics, model))
    return fresh
