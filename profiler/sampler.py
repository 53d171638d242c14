"""Reads every meter on an absolute schedule, in a thread of its own.

    tick k at start + k·period    read GPU 0, read GPU 1, ...    hand the readings over    sleep to tick k+1

A tick that is missed is not made up for: the gap stays in the data, where it can be judged.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from profiler.gpu.base import GpuLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from profiler.gpu.base import Gpu, GpuInfo, Reading

    OnReading = Callable[[GpuInfo, Reading], None]
    OnLost = Callable[[GpuInfo, GpuLostError], None]


class Sampler:
    """Calls `on_reading` for each reading and `on_lost` once for a meter that stops answering."""

    def __init__(self, gpus: Sequence[Gpu], period_s: float, on_reading: OnReading, on_lost: OnLost) -> None:
        self._gpus = list(gpus)
        self._period_ns = int(period_s * 1e9)
        self._on_reading = on_reading
        self._on_lost = on_lost
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        """Begin sampling."""
        self._thread.start()

    def stop(self) -> None:
        """End sampling; returns when the last reading is handed over."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        start_ns = time.monotonic_ns()
        tick = 0
        while not self._stop.is_set():
            self._read_all()
            elapsed_ns = time.monotonic_ns() - start_ns
            tick = max(tick + 1, elapsed_ns // self._period_ns + 1)
            self._stop.wait((start_ns + tick * self._period_ns - time.monotonic_ns()) * 1e-9)

    def _read_all(self) -> None:
        for gpu in tuple(self._gpus):
            try:
                reading = gpu.read()
            except GpuLostError as error:
                self._gpus.remove(gpu)
                self._on_lost(gpu.info, error)
            else:
                self._on_reading(gpu.info, reading)
