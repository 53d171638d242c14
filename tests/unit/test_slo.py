"""Service-level objectives: read strictly, asked of each request and of the cohort."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from profiler.errors import UsageError
from profiler.slo import Slo, met_by, parse_slo, percentile_s


def _requests(n: int = 100, failed: int = 0) -> pd.DataFrame:
    times = np.arange(1, n + 1) / n
    status = ["error"] * failed + ["ok"] * (n - failed)
    return pd.DataFrame({"status": status, "ttft_s": times, "ttft_scheduled_s": times + 0.5, "tpot_s": np.nan})


@pytest.mark.parametrize(
    ("text", "slo"),
    [
        ("ttft_p95=0.5", Slo("ttft", 95, 0.5)),
        ("tpot_p99.9=1", Slo("tpot", 99.9, 1)),
        ("e2e_p50=10", Slo("e2e", 50, 10)),
    ],
)
def test_objectives_are_read(text: str, slo: Slo) -> None:
    """METRIC_pNN=SECONDS is what it says."""
    assert parse_slo(text) == slo


@pytest.mark.parametrize(
    "text", ["ttft", "ttft_p95", "ttft_p95=", "ttft_p95=0", "ttft_p95=0.5.5", "itl_p95=1", "x_p5=1"]
)
def test_anything_else_is_refused_with_the_form(text: str) -> None:
    """What cannot be read is a usage error that shows the form."""
    with pytest.raises(UsageError, match="cannot read --slo") as caught:
        parse_slo(text)
    assert "ttft_p95=0.5" in caught.value.hint


def test_goodput_counts_requests_within_every_limit() -> None:
    """TTFT counts from schedule in an open loop and from sending in a closed one; a failure is a miss."""
    requests = _requests(failed=10)
    limit = [Slo("ttft", 95, 0.8)]
    assert met_by(requests, limit, open_loop=False).sum() == 70
    assert met_by(requests, limit, open_loop=True).sum() == 20
    assert met_by(requests, [*limit, Slo("tpot", 95, 0.1)], open_loop=False).sum() == 70


def test_a_failure_is_infinitely_late() -> None:
    """With 4 % failures p95 is a real latency, with 6 % it is infinite; too few values tell nothing."""
    objective = Slo("ttft", 95, 1.0)
    assert percentile_s(_requests(1000, failed=40), objective, open_loop=False) == pytest.approx(0.991, abs=0.002)
    assert percentile_s(_requests(1000, failed=60), objective, open_loop=False) == np.inf
    assert percentile_s(_requests(199), objective, open_loop=False) is None
