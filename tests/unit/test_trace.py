"""Traces from the power table: one a meter, in order, nothing dropped."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from profiler.gpu.base import GpuInfo, Reading
from profiler.gpu.readings import schema_for, to_batch
from profiler.trace import traces

READING = Reading(100, 200, 300.0, 290.0, 5.0, 1980.0, 2619.0, 40.0, 0.9, 1e9, 700.0, 0)


def _table(*rows: tuple[GpuInfo, Reading]):  # noqa: ANN202 - pyarrow has no types
    import pyarrow as pa  # noqa: PLC0415

    return pa.Table.from_batches([to_batch(rows, schema_for([info for info, _ in rows]))])


def _info(uuid: str, index: int) -> GpuInfo:
    return GpuInfo(uuid=uuid, name="H100", index=index, simulated=True, boundary="gpu-board")


def test_meters_are_kept_apart_and_in_time_order() -> None:
    """Interleaved readings of two meters become two traces by index, each in order, equal samples kept."""
    one, two = _info("b", 0), _info("a", 1)
    later = replace(READING, before_ns=300, after_ns=500)
    found = traces(_table((two, later), (one, READING), (two, READING), (two, replace(later, before_ns=400))))
    assert [(trace.uuid, trace.t_ns.tolist()) for trace in found] == [("b", [150]), ("a", [150, 400, 450])]


def test_a_meter_with_only_a_running_mean_is_integrated_by_it_and_says_so() -> None:
    """Without an instantaneous sensor the mean stands in, flagged; a single missing value does not do that."""
    dark = replace(READING, power_w=math.nan)
    averaged = traces(_table((_info("a", 0), dark)))[0]
    assert averaged.is_averaged
    assert averaged.power_w.tolist() == [290.0]
    mixed = traces(_table((_info("a", 0), dark), (_info("a", 0), READING)))[0]
    assert not mixed.is_averaged
    assert np.isnan(mixed.power_w[0])
