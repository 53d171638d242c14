"""Service-level objectives such as `ttft_p95=0.5`: parsed, and asked of each request."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from profiler.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

METRICS = ("ttft", "tpot", "itl", "e2e")
_FORM = re.compile(r"(?P<metric>[a-z0-9]+)_p(?P<percentile>\d{1,2}(?:\.\d+)?)=(?P<limit>[0-9.]+)")


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
            f"cannot read --slo {text}", hint=f"write METRIC_pNN=SECONDS with METRIC in {', '.join(METRICS)}"
        )
    return Slo(match["metric"], float(match["percentile"]), float(match["limit"]))


def met_by(requests: pd.DataFrame, slos: Sequence[Slo], *, open_loop: bool) -> NDArray[np.bool_]:
    """Return which requests succeed within every limit; TTFT counts from schedule in an open loop.

    A request with a single token has no TPOT or ITL, and so no limit on it to break.
    """
    good = (requests["status"] == "ok").to_numpy(dtype=np.bool_)
    column = {"ttft": "ttft_scheduled_s" if open_loop else "ttft_s", "itl": "tpot_s"}
    for slo in slos:
        values = requests[column.get(slo.metric, f"{slo.metric}_s")].to_numpy(dtype=np.float64)
        good &= ~(values > slo.limit_s)
    return good
