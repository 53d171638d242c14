"""Readings survive Arrow unchanged, and a table explains which meters it covers."""

from __future__ import annotations

import io
import math

import pyarrow as pa
import pytest

from profiler.gpu.readings import GPUS_KEY, READING_SCHEMA, from_batch, gpu_infos, schema_for, to_batch
from tests.support.readings import info, reading

NAN = math.nan


def test_readings_come_back_as_they_were() -> None:
    """Rows of several meters keep their order, their stamps to the nanosecond and their missing values."""
    rows = [
        (info(1), reading(2**62 + 1)),
        (info(0), reading(2**62 + 2, power_w=NAN, energy_j=NAN, event_reasons=-1)),
    ]
    batch = to_batch(rows, schema_for([info(0), info(1)]))
    back = from_batch(batch)
    assert back[0] == ("GPU-1", rows[0][1])
    assert (back[1][0], back[1][1].after_ns, back[1][1].event_reasons) == ("GPU-0", 2**62 + 2, -1)
    assert math.isnan(back[1][1].power_w)
    assert math.isnan(back[1][1].energy_j)


def test_the_meters_travel_with_the_stream() -> None:
    """What an Arrow stream's schema says of the meters is what was put in, absences too."""
    infos = (info(0, driver="570", power_limit_w=700.0, absent=("a: b", "c")), info(1, boundary="gpu-module"))
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema_for(infos)) as stream:
        stream.write_batch(to_batch([(infos[0], reading(1))], schema_for(infos)))
    assert gpu_infos(pa.ipc.open_stream(sink.getvalue()).schema) == infos


def test_a_schema_without_meters_names_none() -> None:
    """The bare schema is of no meter in particular."""
    assert gpu_infos(READING_SCHEMA) == ()


@pytest.mark.parametrize("text", [b"{", b'[{"uuid": "x"}]', b"[1]"])
def test_foreign_metadata_is_refused(text: bytes) -> None:
    """A list of meters that this program did not write is a ValueError, not a crash elsewhere."""
    with pytest.raises(ValueError, match=r".+"):
        gpu_infos(READING_SCHEMA.with_metadata({GPUS_KEY: text}))
