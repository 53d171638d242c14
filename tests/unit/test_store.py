"""The run directory: readable at any moment, whole at its end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import psutil
import pyarrow as pa
import pytest

from profiler.errors import StoreError
from profiler.manifest import Manifest, Owner
from profiler.store import RunStore, read_run, read_stream
from tests.support.runs import manifest

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = pa.schema([("x", pa.int64())])


def _batch(*values: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(values, pa.int64())], schema=SCHEMA)


def test_rows_are_readable_while_the_run_goes(tmp_path: Path) -> None:
    """What was appended can be read before anything is closed, and again as parquet after."""
    store = RunStore(tmp_path / "run", manifest())
    store.append("power", _batch(1, 2))
    table = read_run(store.path).table("power")
    assert table is not None
    assert table["x"].to_pylist() == [1, 2]
    store.append("power", _batch(3))
    store.close_tables()
    whole = read_stream(store.path / "power.arrow")
    assert whole is not None
    store.write_parquet("power", whole)
    assert not (store.path / "power.arrow").exists()
    final = read_run(store.path).table("power")
    assert final is not None
    assert final["x"].to_pylist() == [1, 2, 3]


@pytest.mark.parametrize("lost_bytes", [1, 50, 150])
def test_a_stream_cut_in_mid_batch_keeps_its_whole_batches(tmp_path: Path, lost_bytes: int) -> None:
    """A crash in the middle of a write costs that batch and no other."""
    store = RunStore(tmp_path / "run", manifest())
    for value in range(5):
        store.append("power", _batch(value))
    path = store.path / "power.arrow"
    path.write_bytes(path.read_bytes()[:-lost_bytes])
    table = read_stream(path)
    assert table is not None
    assert table["x"].to_pylist() == [0, 1, 2, 3]


def test_a_running_manifest_whose_owner_is_gone_reads_as_failed(tmp_path: Path) -> None:
    """A run is running only while the process that writes it lives, pid reuse included."""
    store = RunStore(tmp_path / "run", manifest())
    assert read_run(store.path).state == "running"
    me = psutil.Process()
    store.update(owner=Owner(pid=me.pid, start_time=me.create_time() - 100.0))
    assert read_run(store.path).state == "failed"


def test_a_directory_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    """A path below a file is refused with the path and what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write") as caught:
        RunStore(tmp_path / "file" / "run", manifest())
    assert "--out" in caught.value.hint


def test_a_directory_without_a_manifest_is_not_a_run(tmp_path: Path) -> None:
    """Reading something else says so."""
    with pytest.raises(StoreError, match="not a run directory"):
        read_run(tmp_path)


def test_the_manifest_is_json_that_reads_back_as_it_was(tmp_path: Path) -> None:
    """What is written is what is read, numbers of nanoseconds included."""
    before = manifest()
    store = RunStore(tmp_path / "run", before)
    text = (store.path / "manifest.json").read_text()
    assert Manifest.model_validate(json.loads(text)) == before
