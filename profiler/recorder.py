"""Carries rows from their sources into the run directory while a run goes, once a second."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aiohttp

from profiler.errors import StoreError
from profiler.tables import engine_batch, event_batch, request_batch
from servers.metrics import EngineSample, parse

if TYPE_CHECKING:
    from loadgen.records import RequestRecord
    from profiler.live import LiveFigures
    from profiler.sampling import Sampling
    from profiler.store import RunStore

_SCRAPE_TIMEOUT = aiohttp.ClientTimeout(total=2.0)


class Recorder:
    """Buffers of everything a run records, and the one place that empties them into the store."""

    def __init__(self, store: RunStore, sampling: Sampling | None, live: LiveFigures) -> None:
        self._store = store
        self._sampling = sampling
        self._live = live
        self._records: list[RequestRecord] = []
        self._engine: list[EngineSample] = []
        self._heard_s: dict[str, float] = {}

    def on_record(self, record: RequestRecord) -> None:
        """Take over a finished request."""
        self._records.append(record)
        self._live.request(record)

    def silence_s(self) -> float:
        """Return how long the most silent meter that was ever heard has been silent; 0 while none was."""
        return time.monotonic() - min(self._heard_s.values()) if self._heard_s else 0.0

    def take_readings(self) -> None:
        """Move what the meters sent into the store."""
        if self._sampling is None:
            return
        for batch in self._sampling.take():
            if batch.num_rows == 0:
                continue
            self._store.append("power", batch)
            self._live.power(batch)
            self._heard_s.update(dict.fromkeys(batch["uuid"].unique().to_pylist(), time.monotonic()))

    def flush(self) -> None:
        """Move everything buffered into the store; a table that cannot be written does not cost the others.

        Raises:
            StoreError: the disk refuses; the first refusal.
        """
        failures: list[StoreError] = []
        for move in (self.take_readings, self._move_requests, self._move_engine):
            try:
                move()
            except StoreError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _move_requests(self) -> None:
        records, self._records = self._records, []
        if records:
            self._store.append("requests", request_batch(records))
            self._store.append("events", event_batch(records))

    def _move_engine(self) -> None:
        samples, self._engine = self._engine, []
        if samples:
            self._store.append("engine", engine_batch(samples))

    async def scrape(self, session: aiohttp.ClientSession, url: str) -> None:
        """Take the engine's own metrics once; an engine without them, or too busy to answer, leaves a gap."""
        try:
            async with session.get(f"{url}/metrics", timeout=_SCRAPE_TIMEOUT) as response:
                text = await response.text()
                # The exposition is of the moment the engine made it, between asking and the end of the answer.
                if response.status == 200:
                    self._engine += parse(text, time.monotonic_ns())
        except (aiohttp.ClientError, TimeoutError, UnicodeDecodeError):
            return

    async def scrape_forever(self, url: str, period_s: float = 1.0) -> None:
        """Scrape until cancelled."""
        async with aiohttp.ClientSession() as session:
            while True:
                await self.scrape(session, url)
                await asyncio.sleep(period_s)
