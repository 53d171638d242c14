"""Service-level objectives such as `ttft_p95=0.5`: parsed, and asked of each request."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from profiler.errors import UsageError
from profiler.latency import MIN_BEYOND

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

METRICS = ("ttft", "tpot", "e2e")
_FORM = re.compile(r"(?P<metric>[a-z0-9]+)_p(?P<percentile>\d{1,2}(?:\.\d+)?)=(?P<limit>\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Slo:
    """Met when the percentile of the metric is at most `limit_s`."""

    metric: str
    percentile: float
    limit_s: float


def parse_slo(text: str) -> Slo:
    """Return the objective that `text` states.

    Raises:
        UsageError: it is not of the form METRIC_pNN=SECONDS.
    """
    match = _FORM.fullmatch(text)
    if match is None or match["metric"] not in METRICS or float(match["limit"]) <= 0:
        raise UsageError(
            f"cannot read --slo {text}",
            hint=f"write METRIC_pNN=SECONDS, e.g. ttft_p95=0.5; METRIC is one of {', '.join(METRICS)}",
        )
    return Slo(match["metric"], float(match["percentile"]), float(match["limit"]))


def percentile_s(requests: pd.DataFrame, objective: Slo, *, open_loop: bool) -> float | None:
    """Return the cohort's percentile that the objective is about, a failure counting as infinitely late.

    None when fewer than 10 values lie beyond it: the objective can then be called neither met nor missed.
    """
    values = requests[_column(objective, open_loop=open_loop)].to_numpy(dtype=np.float64, copy=True)
    values[(requests["status"] != "ok").to_numpy()] = np.inf
    values = values[~np.isnan(values)]
    if values.size * (100.0 - objective.percentile) / 100.0 < MIN_BEYOND:
        return None
    # No interpolation: between a latency and infinity there is nothing.
    return float(np.percentile(values, objective.percentile, method="higher"))


def _column(objective: Slo, *, open_loop: bool) -> str:
    if objective.metric == "ttft":
        return "ttft_scheduled_s" if open_loop else "ttft_s"
    return f"{objective.metric}_s"


def met_by(requests: pd.DataFrame, slos: Sequence[Slo], *, open_loop: bool) -> NDArray[np.bool_]:
    """Return which requests succeed within every limit; TTFT counts from schedule in an open loop.

    A request with a single token has no TPOT, and so no limit on it to break.
    """
    good = (requests["status"] == "ok").to_numpy(dtype=np.bool_, copy=True)
    for objective in slos:
        values = requests[_column(objective, open_loop=open_loop)].to_numpy(dtype=np.float64)
        good &= ~(values > objective.limit_s)
    return good
