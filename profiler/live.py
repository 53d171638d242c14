"""Figures of the moment for the live line: cheap running sums, nothing that is published."""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from loadgen.records import RequestRecord

_RECENT = 50


class LiveFigures:
    """Power by the last readings, J/token since the load began, TTFT of the last requests."""

    def __init__(self, *, simulated: bool) -> None:
        self.simulated = simulated
        self._power_w: dict[str, float] = {}
        self._first_j: dict[str, float] = {}
        self._last_j: dict[str, float] = {}
        self._ttft_s: deque[float] = deque(maxlen=_RECENT)
        self._tokens = 0
        self._finished = 0
        self._failed = 0

    def power(self, batch: pa.RecordBatch) -> None:
        """Take over a batch of readings."""
        last = batch.num_rows - 1
        for row in range(max(0, last - 16), last + 1):
            uuid = batch["uuid"][row].as_py()
            self._power_w[uuid] = batch["power_w"][row].as_py()
            self._last_j[uuid] = batch["energy_j"][row].as_py()

    def begin_load(self) -> None:
        """Count energy from here."""
        self._first_j = dict(self._last_j)

    def request(self, record: RequestRecord) -> None:
        """Take over a finished request."""
        self._finished += 1
        self._failed += record.status != "ok"
        self._tokens += record.output_tokens or 0
        if record.first_token_ns is not None and record.sent_ns is not None:
            self._ttft_s.append((record.first_token_ns - record.sent_ns) * 1e-9)

    def texts(self, in_flight: int | None = None) -> list[str]:
        """Return what is known now, ready to show."""
        texts: list[str] = []
        power_w = sum(self._power_w.values())
        if self._power_w and not math.isnan(power_w):
            texts.append(f"{power_w:.0f} W")
        energy_j = sum(self._last_j.get(uuid, 0.0) - first for uuid, first in self._first_j.items())
        if self._tokens and energy_j > 0:
            texts.append(f"{energy_j / self._tokens:.3f} J/token")
        if self._ttft_s:
            texts.append(f"TTFT {statistics.median(self._ttft_s) * 1e3:.0f} ms")
        if in_flight is not None:
            texts.append(f"{in_flight} in flight, {self._finished} done")
        if self._failed:
            texts.append(f"{self._failed} failed")
        return ["SIMULATED", *texts] if self.simulated and texts else texts
