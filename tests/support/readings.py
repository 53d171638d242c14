"""Readings and recordings for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from profiler.gpu.base import GpuInfo, Reading
from profiler.gpu.readings import schema_for, to_batch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def info(index: int = 0, **others: object) -> GpuInfo:
    """Return a GPU's description."""
    told = {"uuid": f"GPU-{index}", "name": "NVIDIA H100", "index": index, "simulated": False, "boundary": "gpu-board"}
    return GpuInfo(**{**told, **others})  # type: ignore[arg-type]


def reading(t_ns: int, power_w: float = 400.0, energy_j: float = 1000.0, **others: float) -> Reading:
    """Return a reading that took a microsecond to `t_ns`."""
    told = {
        "before_ns": t_ns - 1000,
        "after_ns": t_ns,
        "power_w": power_w,
        "power_average_w": power_w,
        "energy_j": energy_j,
        "sm_mhz": 1755.0,
        "memory_mhz": 2619.0,
        "temperature_c": 41.0,
        "utilization": 0.5,
        "memory_used_bytes": 7e10,
        "power_limit_w": 700.0,
        "event_reasons": 0,
    }
    return Reading(**{**told, **others})  # type: ignore[arg-type]


def write_recording(path: Path, rows: Sequence[tuple[GpuInfo, Reading]]) -> Path:
    """Write readings as a recording of the meters they belong to."""
    infos = list({owner.uuid: owner for owner, _ in rows}.values())
    pq.write_table(pa.Table.from_batches([to_batch(rows, schema_for(infos))]), path)
    return path
