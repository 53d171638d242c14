"""Readings as Arrow: the schema of the exporter's stream and of `power.parquet`, and rows to batches and back.

The meters a table covers are in its schema's metadata under `gpus`, a JSON list of `GpuInfo` fields, so that a file
explains itself. Missing floats are NaN and missing `event_reasons` -1, as in `Reading`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from profiler.gpu.base import GpuInfo, Reading

if TYPE_CHECKING:
    from collections.abc import Sequence

GPUS_KEY = b"gpus"
_COLUMNS = tuple(field.name for field in fields(Reading))
_INTEGERS = ("before_ns", "after_ns", "event_reasons")

READING_SCHEMA = pa.schema(
    [
        ("gpu", pa.int16()),
        ("uuid", pa.string()),
        *((name, pa.int64() if name in _INTEGERS else pa.float64()) for name in _COLUMNS),
    ]
)


def schema_for(infos: Sequence[GpuInfo]) -> pa.Schema:
    """Return `READING_SCHEMA` that names these meters."""
    return READING_SCHEMA.with_metadata({GPUS_KEY: json.dumps([asdict(info) for info in infos]).encode()})


def gpu_infos(schema: pa.Schema) -> tuple[GpuInfo, ...]:
    """Return the meters a schema names, none where it names none.

    Raises:
        ValueError: the metadata is not what `schema_for` writes.
    """
    rows = json.loads((schema.metadata or {}).get(GPUS_KEY, b"[]"))
    try:
        return tuple(_info(row) for row in rows)
    except (TypeError, KeyError) as error:
        raise ValueError(f"the schema's list of meters is not readable: {error}") from error


def _info(row: dict[str, Any]) -> GpuInfo:
    return GpuInfo(**{**row, "absent": tuple(row["absent"])})


def to_batch(rows: Sequence[tuple[GpuInfo, Reading]], schema: pa.Schema) -> pa.RecordBatch:
    """Return one row a reading, in the order given; `schema` is what `schema_for` made."""
    readings = [reading for _, reading in rows]
    columns = [
        pa.array([info.index for info, _ in rows], pa.int16()),
        pa.array([info.uuid for info, _ in rows], pa.string()),
        *(pa.array([getattr(r, name) for r in readings], READING_SCHEMA.field(name).type) for name in _COLUMNS),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def from_batch(batch: pa.RecordBatch | pa.Table) -> list[tuple[str, Reading]]:
    """Return each row as the meter's uuid and its reading.

    Raises:
        KeyError: a column is missing.
    """
    uuids = batch.column("uuid").to_pylist()
    values = zip(*(batch.column(name).to_pylist() for name in _COLUMNS), strict=True)
    return [(uuid, Reading(*row)) for uuid, row in zip(uuids, values, strict=True)]
