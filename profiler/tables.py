"""The tables of a run directory: Arrow schemas of what is appended while it runs, and rows to batches.

Instants are monotonic nanoseconds here; `profiler.join` turns them into seconds since the run's second 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadgen.records import RequestRecord
    from servers.metrics import EngineSample

REQUESTS = pa.schema(
    [
        ("request_id", pa.string()),
        ("scheduled_ns", pa.int64()),
        ("sent_ns", pa.int64()),
        ("first_token_ns", pa.int64()),
        ("last_token_ns", pa.int64()),
        ("end_ns", pa.int64()),
        ("asked_prompt_tokens", pa.int32()),
        ("asked_output_tokens", pa.int32()),
        ("prompt_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("token_source", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)
EVENTS = pa.schema([("request_id", pa.string()), ("t_ns", pa.int64()), ("tokens", pa.int32())])
ENGINE = pa.schema(
    [
        ("t_ns", pa.int64()),
        ("name", pa.dictionary(pa.int32(), pa.string())),
        ("labels", pa.dictionary(pa.int32(), pa.string())),
        ("value", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Tables:
    """The rows of a run as recorded. Requests and events of a run without any are empty; other tables may be None."""

    requests: pa.Table
    events: pa.Table
    power: pa.Table | None
    engine: pa.Table | None


def tables_of(found: Mapping[str, pa.Table | None]) -> Tables:
    """Return the tables by name as one value."""
    requests, events = found["requests"], found["events"]
    return Tables(
        requests=REQUESTS.empty_table() if requests is None else requests,
        events=EVENTS.empty_table() if events is None else events,
        power=found["power"],
        engine=found["engine"],
    )


def request_batch(records: Sequence[RequestRecord]) -> pa.RecordBatch:
    """Return one row a request."""
    columns = [pa.array([getattr(record, field.name) for record in records], field.type) for field in REQUESTS]
    return pa.RecordBatch.from_arrays(columns, schema=REQUESTS)


def event_batch(records: Sequence[RequestRecord]) -> pa.RecordBatch:
    """Return one row a streamed event that held a token."""
    counts = [record.event_ns.size for record in records]
    ids = np.repeat(np.array([record.request_id for record in records], dtype=object), counts)
    t_ns = np.concatenate([record.event_ns for record in records])
    tokens = np.concatenate([record.event_tokens for record in records])
    columns = [pa.array(ids, pa.string()), pa.array(t_ns, pa.int64()), pa.array(tokens, pa.int32())]
    return pa.RecordBatch.from_arrays(columns, schema=EVENTS)


def engine_batch(samples: Sequence[EngineSample]) -> pa.RecordBatch:
    """Return one row a value of the engine's own metrics."""
    columns = [
        pa.array([s.t_ns for s in samples], pa.int64()),
        pa.array([s.name for s in samples], pa.string()).dictionary_encode(),
        pa.array([s.labels for s in samples], pa.string()).dictionary_encode(),
        pa.array([s.value for s in samples], pa.float64()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=ENGINE)
