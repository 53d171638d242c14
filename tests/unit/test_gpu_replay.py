"""A recording is replayed against the present: held values, present stamps, an end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from profiler.gpu.base import GpuError, GpuLostError
from profiler.gpu.readings import schema_for, to_batch
from profiler.gpu.replay import open_replay
from tests.support.readings import info, reading, write_recording

if TYPE_CHECKING:
    from pathlib import Path

START_NS = 10**15
STEP_NS = 10**8


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_ns = START_NS

    def __call__(self) -> int:
        """Return the time set."""
        return self.now_ns


def recording(path: Path, gpus: int = 1) -> Path:
    """Write ten rows 100 ms apart for each GPU: 100 W, 101 W, ... on GPU 0, 200 W, 201 W, ... on GPU 1."""
    rows = [
        (info(gpu), reading(5_000 + row * STEP_NS, power_w=100.0 * (gpu + 1) + row))
        for row in range(10)
        for gpu in reversed(range(gpus))
    ]
    return write_recording(path / "gpu.parquet", rows)


def test_a_reading_holds_the_latest_row_that_has_passed(tmp_path: Path) -> None:
    """The first row holds from the opening until the second one's time, under the stamps of the present."""
    clock = Hands()
    gpu = open_replay(recording(tmp_path), clock)[0]
    seen = []
    for offset_ns in (0, STEP_NS - 1, STEP_NS, 9 * STEP_NS):
        clock.now_ns = START_NS + offset_ns
        told = gpu.read()
        assert told.before_ns == told.after_ns == clock.now_ns
        seen.append(told.power_w)
    assert seen == [100.0, 100.0, 101.0, 109.0]


def test_a_recording_ends(tmp_path: Path) -> None:
    """After its last row a replayed meter no longer answers."""
    clock = Hands()
    gpu = open_replay(recording(tmp_path), clock)[0]
    clock.now_ns += 9 * STEP_NS + 1
    with pytest.raises(GpuLostError, match="recording ended"):
        gpu.read()


def test_meters_are_replayed_beside_each_other(tmp_path: Path) -> None:
    """Each GPU tells its own rows, whatever their order in the file, and GPUs come by index."""
    clock = Hands()
    gpus = open_replay(recording(tmp_path, gpus=2), clock)
    clock.now_ns += 3 * STEP_NS
    assert [(gpu.info.index, gpu.read().power_w) for gpu in gpus] == [(0, 103.0), (1, 203.0)]


def test_a_replay_never_passes_for_a_measurement(tmp_path: Path) -> None:
    """A recording of a real GPU counts as simulated and its name says what it is."""
    told = open_replay(recording(tmp_path))[0].info
    assert told.simulated
    assert told.name == "NVIDIA H100 (recorded)"


def test_what_is_not_a_recording_is_refused(tmp_path: Path) -> None:
    """No file, another kind of file, another table and an empty recording each end in one line that names the file."""
    text, other, empty = tmp_path / "text.parquet", tmp_path / "other.parquet", tmp_path / "empty.parquet"
    text.write_text("no parquet")
    pq.write_table(pa.table({"a": [1]}), other)
    pq.write_table(pa.Table.from_batches([to_batch([], schema_for([info()]))]), empty)
    for path in (tmp_path / "none.parquet", text, other, empty):
        with pytest.raises(GpuError, match=path.name) as caught:
            open_replay(path)
        assert "make gpu-check" in caught.value.hint
