"""The run directory: rows appended while the run goes, turned into parquet at its end, readable at any moment.

    while it runs    manifest.json (state running), requests.arrow, events.arrow, power.arrow, engine.arrow
    at its end       the same names as .parquet, each moved into place whole; manifest.json says complete or failed

An `.arrow` file is an Arrow IPC stream flushed every second: a crash loses at most the last second, and a stream cut
in mid-batch reads up to its last whole batch.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from profiler.errors import StoreError
from profiler.manifest import Manifest, Owner
from profiler.summary import Summary

if TYPE_CHECKING:
    from io import BufferedWriter

    from pydantic import BaseModel

TABLES = ("requests", "events", "power", "engine")


def write_json(path: Path, value: BaseModel) -> None:
    """Replace `path` atomically with `value` as JSON. NaN is refused: missing is null."""
    text = json.dumps(value.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # noqa: PTH101 - mkstemp's 0600 would hide results from the user's group
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class TableWriter:
    """Appends batches of one schema to an Arrow IPC stream."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self._file: BufferedWriter = path.open("wb")
        self._stream = pa.ipc.new_stream(self._file, schema)
        self._file.flush()

    def append(self, batch: pa.RecordBatch) -> None:
        """Write and flush one batch."""
        self._stream.write_batch(batch)
        self._file.flush()

    def close(self) -> None:
        """End the stream. May be called twice."""
        if not self._file.closed:
            self._stream.close()
            self._file.close()


class RunStore:
    """One run directory being written. Errors of the disk surface as StoreError."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Create `path`, which must not exist, and its first manifest.

        Raises:
            StoreError: the place cannot be written.
        """
        self.path = path
        self.manifest = manifest
        self._writers: dict[str, TableWriter] = {}
        try:
            path.mkdir(parents=True)
            write_json(path / "manifest.json", manifest)
        except OSError as error:
            raise _unwritable(path, error) from error

    def update(self, **fields: Any) -> None:  # noqa: ANN401 - fields of Manifest, which checks them
        """Change manifest fields and write it."""
        self.manifest = Manifest.model_validate({**dict(self.manifest), **fields})
        try:
            write_json(self.path / "manifest.json", self.manifest)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def append(self, table: str, batch: pa.RecordBatch) -> None:
        """Append rows to a table, opening it with the batch's schema at the first."""
        try:
            if table not in self._writers:
                self._writers[table] = TableWriter(self.path / f"{table}.arrow", batch.schema)
            self._writers[table].append(batch)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def close_tables(self) -> None:
        """End every open stream."""
        for writer in self._writers.values():
            try:
                writer.close()
            except OSError as error:
                raise _unwritable(self.path, error) from error

    def write_parquet(self, table: str, rows: pa.Table) -> None:
        """Put `rows` in place as the table's parquet file and drop the stream it came from.

        The file's metadata names the run and tells whether it is simulated: a table may be copied without its manifest.
        """
        mark = {"run_id": self.manifest.run_id, "simulated": str(self.manifest.simulated).lower()}
        rows = rows.replace_schema_metadata({**(rows.schema.metadata or {}), **mark})
        final = self.path / f"{table}.parquet"
        part = self.path / f".{table}.parquet.part"
        try:
            pq.write_table(rows, part, compression="zstd")
            part.replace(final)
            (self.path / f"{table}.arrow").unlink(missing_ok=True)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise _unwritable(self.path, error) from error

    def write_summary(self, summary: Summary) -> None:
        """Write summary.json."""
        try:
            write_json(self.path / "summary.json", summary)
        except OSError as error:
            raise _unwritable(self.path, error) from error


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"cannot write the run directory {path}: {error.strerror or error}",
        hint="free space, or name another place with --out DIR",
    )


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory being read, finished or not."""

    path: Path
    manifest: Manifest

    @property
    def state(self) -> str:
        """Return running, complete or failed; a run whose owner is gone has failed."""
        if self.manifest.state == "running" and not _is_alive(self.manifest.owner):
            return "failed"
        return self.manifest.state

    @property
    def summary(self) -> Summary | None:
        """Return summary.json, None where the run has none."""
        path = self.path / "summary.json"
        if not path.exists():
            return None
        try:
            return Summary.model_validate_json(path.read_text())
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be read: {error}", hint="its tables may still be readable") from error

    def table(self, name: str) -> pa.Table | None:
        """Return a table from its parquet file or, before that exists, its stream; None when it was never begun."""
        parquet, stream = self.path / f"{name}.parquet", self.path / f"{name}.arrow"
        if parquet.exists():
            return pq.read_table(parquet)
        return read_stream(stream) if stream.exists() else None


def read_run(path: Path) -> Run:
    """Open a run directory for reading.

    Raises:
        StoreError: it is not one, or its manifest cannot be read.
    """
    try:
        return Run(path, Manifest.model_validate_json((path / "manifest.json").read_text()))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is not a run directory: {error}", hint="name a directory under runs/") from error


def read_stream(path: Path) -> pa.Table | None:
    """Return every whole batch of an Arrow IPC stream, cut short or not; None when not even its schema is whole."""
    batches: list[pa.RecordBatch] = []
    try:
        reader = pa.ipc.open_stream(path.read_bytes())
    except (pa.ArrowInvalid, OSError):
        return None
    try:
        batches.extend(reader)
    except (pa.ArrowInvalid, OSError):
        # The last batch was being written when the writer died.
        return pa.Table.from_batches(batches, schema=reader.schema)
    return pa.Table.from_batches(batches, schema=reader.schema)


def _is_alive(owner: Owner) -> bool:
    try:
        return bool(abs(psutil.Process(owner.pid).create_time() - owner.start_time) < 1.0)
    except psutil.Error:
        return False
