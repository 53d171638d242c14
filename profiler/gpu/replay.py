"""GPUs replayed from a recording: what `profiler.gpu.check` writes, or the `power.parquet` of a run.

    recorded   first row ........ row k ............ last row
    replayed   opening            the present        GpuLostError

A replayed meter behaves as the recorded one did: a reading holds the values of the latest row that has passed, under
the stamps of now. It counts as simulated, since nothing is measured.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from profiler.gpu.base import GpuError, GpuLostError
from profiler.gpu.readings import from_batch, gpu_infos

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from profiler.gpu.base import GpuInfo, Reading

    Clock = Callable[[], int]


class ReplayGpu:
    """One recorded meter. `shift_ns` is what is added to a recorded instant."""

    def __init__(self, info: GpuInfo, readings: Sequence[Reading], shift_ns: int, now_ns: Clock) -> None:
        """Take readings in time order, at least one."""
        self._info = replace(info, name=f"{info.name} (recorded)", simulated=True)
        self._readings = readings
        self._instants_ns = [reading.after_ns + shift_ns for reading in readings]
        self._now_ns = now_ns

    @property
    def info(self) -> GpuInfo:
        """What was recorded."""
        return self._info

    def read(self) -> Reading:
        """Return the recorded values that hold now.

        Raises:
            GpuLostError: the recording ended.
        """
        before_ns = self._now_ns()
        if before_ns > self._instants_ns[-1]:
            raise GpuLostError(f"{self._info.name}: recording ended", hint="record for longer than the run takes")
        # A meter that came later than the first one of the recording starts with its first row.
        row = max(0, bisect_right(self._instants_ns, before_ns) - 1)
        return replace(self._readings[row], before_ns=before_ns, after_ns=self._now_ns())

    def processes(self) -> None:
        """Return None: a recording does not hold them."""
        return

    def close(self) -> None:
        """Do nothing: the file was read whole."""


def open_replay(path: Path, now_ns: Clock = time.monotonic_ns) -> list[ReplayGpu]:
    """Return every meter of a recording, by index; its earliest row is now.

    Raises:
        GpuError: the file is not a recording, or an empty one.
    """
    try:
        table = pq.read_table(path)
        infos = {info.uuid: info for info in gpu_infos(table.schema)}
        rows = sorted(from_batch(table), key=lambda row: row[1].after_ns)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise GpuError(f"{path} is not a recording of GPUs: {error}", hint="record one with: make gpu-check") from error
    readings = {uuid: [reading for owner, reading in rows if owner == uuid] for uuid in infos}
    if not rows or not all(readings.values()):
        raise GpuError(f"{path} holds no readings of the meters it names", hint="record one with: make gpu-check")
    shift_ns = now_ns() - rows[0][1].after_ns
    meters = [ReplayGpu(infos[uuid], readings[uuid], shift_ns, now_ns) for uuid in infos]
    return sorted(meters, key=lambda meter: meter.info.index)
