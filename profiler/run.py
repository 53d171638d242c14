"""One profile from its configuration to a finished run directory: the composition root.

    launch       exporter, engine, one real completion
    idle         model loaded, nothing in flight: the baseline
    warm-up      load begins; not measured
    load         the window
    drain        load goes on until the window's last request has ended, then stops

A run that ends early keeps everything recorded: its streams become parquet like any other's, its manifest says
failed and why.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
import pyarrow as pa

from loadgen.clients.openai import OpenAIClient
from loadgen.dispatch import Dispatcher
from loadgen.limits import check_descriptors
from loadgen.prompts import token_ids
from profiler.errors import RunFailedError, StoreError
from profiler.live import LiveFigures
from profiler.prepare import Prepared, prepare
from profiler.recorder import Recorder
from profiler.store import TABLES, RunStore, read_run
from profiler.summarise import summarise
from profiler.tables import tables_of
from servers.base import ServerError
from servers.process import tail

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from profiler.config import ProfileConfig
    from profiler.join import Timeline
    from profiler.report.progress import Progress
    from profiler.summary import Summary
    from servers.base import Endpoint, Server

    T = TypeVar("T")

AUTO_WARMUP_S, AUTO_WARMUP_MAX_S = 5.0, 60.0
DRAIN_S = 10.0
# Readings on both sides of every edge: longer than a counter's step of 100 ms plus the stream's own delay.
MARGIN_S = 0.5
LOG_LINES = 8
CLOSED_LOOP_MAX_S = 86400.0
_TICK_S = 0.25
_SILENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run: where it is and, unless it ended before its window did, what it found."""

    run_dir: Path
    summary: Summary | None


async def profile(config: ProfileConfig, progress: Progress) -> Outcome:
    """Carry out one profile.

    Raises:
        UsageError, ServerError, LoadError, GpuError: before a run directory exists, or before load begins.
        RunFailedError: something broke on the way; the run directory keeps what was recorded.
    """
    prepared = prepare(config, progress)
    return await _ProfileRun(prepared, progress).execute()


class _ProfileRun:
    """The state of one profile while it goes."""

    def __init__(self, prepared: Prepared, progress: Progress) -> None:
        self._prepared = prepared
        self._config = prepared.config
        self._progress = progress
        self._store: RunStore = prepared.store
        self._server: Server = prepared.server
        self._sampling = prepared.sampling
        self._live = LiveFigures(simulated=self._store.manifest.simulated)
        self._recorder = Recorder(self._store, self._sampling, self._live)
        self._dispatcher: Dispatcher | None = None
        self._interrupted: str | None = None
        self._phase = "launch"

    async def execute(self) -> Outcome:
        """Run every phase; leave no process behind and nothing recorded unwritten, however it ends."""
        self._catch_signals()
        monitor = asyncio.create_task(self._monitor(), name="monitor")
        failure: BaseException | None = None
        try:
            await self._guarded(monitor, self._phases())
        except Exception as error:  # noqa: BLE001 - whatever broke, what was recorded is kept; it is raised again below
            failure = error
        finally:
            monitor.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await monitor
            engine_failed = isinstance(failure, ServerError) or self._server.failure() is not None
            await self._stop_all()
        if failure is not None and engine_failed:
            self._show_log()
        return self._finish(failure)

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def interrupt(name: str) -> None:
            self._interrupted = self._interrupted or name

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, interrupt, number.name)

    async def _guarded(self, monitor: asyncio.Task[None], work: Awaitable[T]) -> T:
        """Await `work`, unless the monitor fails first: then cancel it and raise what the monitor found."""
        task = asyncio.ensure_future(work)
        await asyncio.wait({task, monitor}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
        monitor.result()
        raise RunFailedError("the run's monitor ended early")

    async def _monitor(self) -> None:
        """Watch what the run depends on and empty the buffers, until something fails."""
        ticks = 0
        while True:
            await asyncio.sleep(_TICK_S)
            ticks += 1
            if self._interrupted:
                raise RunFailedError(f"interrupted by {self._interrupted}", hint="what was recorded so far is kept")
            if self._phase != "launch" and (why := self._server.failure()) is not None:
                raise RunFailedError(f"the engine {why}", hint=f"see {self._store.path / 'server.log'}")
            await self._check_sampling()
            self._recorder.take_readings()
            if ticks % 4 == 0:
                self._recorder.flush()
            in_flight = self._dispatcher.in_flight if self._dispatcher is not None else None
            self._progress.live(self._live.texts(in_flight))

    async def _check_sampling(self) -> None:
        if self._sampling is None:
            return
        if (why := self._sampling.failure()) is not None:
            raise RunFailedError(why, hint=f"see {self._store.path / 'exporter.log'}")
        if self._recorder.silence_s() > _SILENCE_S:
            lost = await self._sampling.lost()
            raise RunFailedError(f"gpu_lost: {lost or 'readings stopped'}", hint="check the device with nvidia-smi")

    async def _phases(self) -> None:
        endpoint = await self._launch()
        scraper = asyncio.create_task(self._recorder.scrape_forever(endpoint.url))
        try:
            await self._idle()
            await self._load(endpoint)
        finally:
            scraper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await scraper

    async def _launch(self) -> Endpoint:
        self._announce("launch", self._prepared.launching)
        if self._sampling is not None:
            await self._sampling.start()
            self._store.update(gpus=self._sampling.gpus)
            self._mark_simulated(any(gpu.simulated for gpu in self._sampling.gpus), "the meter")
        start_s = time.monotonic()
        endpoint = await self._server.start()
        took_s = time.monotonic() - start_s
        await self._keep_to_engine()
        self._mark_simulated(endpoint.simulated, "the engine at this address")
        manifest = self._store.manifest
        self._store.update(
            server=endpoint,
            server_start_s=took_s,
            model=manifest.model if self._config.model is not None else endpoint.model,
        )
        return endpoint

    async def _keep_to_engine(self) -> None:
        """Of an exporter that samples a whole host keep the GPUs that hold the engine's processes, where they show."""
        if self._sampling is None or self._config.exporter is None:
            return
        ours, told = self._server.pids(), await self._sampling.processes()
        held = {uuid for uuid, processes in told.items() if any(p.pid in ours for p in processes or ())}
        if held:
            self._sampling.limit_to(held)
            self._store.update(gpus=self._sampling.gpus)

    def _mark_simulated(self, simulated: bool, what: str) -> None:
        """Mark the run when a part of it turns out not to be real."""
        if simulated and not self._store.manifest.simulated:
            self._progress.line(f"SIMULATED: {what} is simulated or recorded")
            self._live.simulated = True
            self._store.update(simulated=True)

    def _announce(self, phase: str, detail: str) -> None:
        self._phase = phase
        self._progress.phase(phase, detail)

    def _mark(self, **phases: Any) -> Timeline:  # noqa: ANN401 - fields of Timeline
        timeline = replace(self._store.manifest.timeline, **phases)
        self._store.update(timeline=timeline)
        return timeline

    async def _idle(self) -> None:
        self._announce("idle", f"model loaded, nothing in flight, {self._config.idle_s:g} s")
        await asyncio.sleep(2 * MARGIN_S)  # the readiness completion's power has to leave the sensors' means
        start_ns = time.monotonic_ns()
        await asyncio.sleep(self._config.idle_s)
        self._mark(idle_ns=(start_ns, time.monotonic_ns()))
        await self._check_foreign()

    async def _check_foreign(self) -> None:
        """Record who else holds memory on the GPUs, where that can be told, beside those seen before."""
        if self._sampling is None:
            return
        ours, seen = self._server.pids(), self._store.manifest.foreign_pids
        told: dict[str, tuple[int, ...] | None] = {}
        for uuid, processes in (await self._sampling.processes()).items():
            before = seen.get(uuid, ())
            if processes is None or before is None or (processes and not ours):
                told[uuid] = None
                continue
            foreign = {p.pid for p in processes if p.kind == "compute" and p.pid not in ours}
            told[uuid] = tuple(sorted(foreign.union(before)))
        self._store.update(foreign_pids=told)

    async def _load(self, endpoint: Endpoint) -> None:
        config = self._config
        load = self._prepared.load_for(endpoint)
        self._store.update(plan_hash=load.schedule.digest)
        check_descriptors(load.descriptors)
        client = OpenAIClient(endpoint.url, endpoint.model, timeout_s=config.request_timeout_s)

        def prompt(index: int) -> list[int]:
            return token_ids(config.seed, index, int(load.schedule.prompt_tokens[index]), load.vocab_size)

        dispatcher = Dispatcher(load.schedule, client, prompt, on_record=self._recorder.on_record)
        self._dispatcher = dispatcher
        gc.collect()
        gc.freeze()
        gc.disable()
        start_ns = time.monotonic_ns() + 50_000_000
        self._mark(load_start_ns=start_ns)
        self._live.begin_load()
        sending = asyncio.create_task(dispatcher.run(start_ns))
        patience_s = 0.0  # a run that breaks off waits for nobody
        try:
            await self._windowed(dispatcher, sending, endpoint, start_ns)
            patience_s = DRAIN_S
        finally:
            dispatcher.stop()
            await dispatcher.drain(patience_s)
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending
            await client.close()
            gc.enable()
            gc.unfreeze()
        await asyncio.sleep(MARGIN_S)

    async def _windowed(
        self, dispatcher: Dispatcher, sending: asyncio.Task[None], endpoint: Endpoint, start_ns: int
    ) -> None:
        """Warm up, hold the window, then wait for its last request while load of the same kind goes on."""
        self._announce("warm-up", self._prepared.load_text)
        await self._warm_up(dispatcher, start_ns)
        async with aiohttp.ClientSession() as session:
            await self._recorder.scrape(session, endpoint.url)
            window_ns = await self._window(dispatcher, sending)
            await self._recorder.scrape(session, endpoint.url)
        await self._check_foreign()
        self._announce("drain", "until the window's last request has ended")
        await _until(lambda: _ended_before(dispatcher, window_ns[1]), self._config.request_timeout_s + 1.0)
        if sending.done():
            sending.result()

    async def _warm_up(self, dispatcher: Dispatcher, start_ns: int) -> None:
        """Wait as long as asked; by itself at least 5 s and until a first request has run its whole course."""
        asked_s = self._config.warmup_s
        least_s = AUTO_WARMUP_S if asked_s is None else asked_s
        await asyncio.sleep(max(0.0, least_s + (start_ns - time.monotonic_ns()) * 1e-9))
        if asked_s is None:
            await _until(lambda: dispatcher.finished > 0, AUTO_WARMUP_MAX_S - AUTO_WARMUP_S)

    async def _window(self, dispatcher: Dispatcher, sending: asyncio.Task[None]) -> tuple[int, int]:
        """Hold the window for its duration, or until as many requests as asked were sent in it."""
        config = self._config
        start_ns, sent_before = time.monotonic_ns(), dispatcher.sent
        length = f"{config.requests} requests" if config.requests else f"{config.duration_s:g} s"
        self._announce("load", f"measuring {length}")
        if config.requests is None:
            await asyncio.sleep(config.duration_s)
        else:
            wanted = sent_before + config.requests
            longest_s = self._prepared.horizon_s if config.concurrency is None else CLOSED_LOOP_MAX_S
            await _until(lambda: dispatcher.sent >= wanted or sending.done(), longest_s)
        window_ns = (start_ns, time.monotonic_ns())
        self._mark(window_ns=window_ns)
        return window_ns

    async def _stop_all(self) -> None:
        await self._server.stop()
        if self._sampling is not None:
            await self._sampling.stop()

    def _finish(self, failure: BaseException | None) -> Outcome:
        """Turn streams into tables, compute the summary where there is a window, say how it ended."""
        summary = None
        try:
            if failure is not None:
                self._store.update(state="failed", failure=str(failure))
            summary = self._write_results()
            if failure is None:
                self._store.update(state="complete")
        except Exception as error:  # noqa: BLE001 - a fault of ours must not leave the run saying that it goes on
            failure = failure or error
            with contextlib.suppress(StoreError):
                self._store.update(state="failed", failure=str(failure))
        if failure is not None:
            raise _as_failed(failure, self._store.path) from failure
        return Outcome(self._store.path, summary)

    def _show_log(self) -> None:
        """Show the end of the engine's log, when the engine is what failed."""
        for line in tail(self._store.path / "server.log", LOG_LINES):
            self._progress.line(f"  server.log | {line[:160]}")

    def _write_results(self) -> Summary | None:
        """Put every table in place; the request rows gain their energies where the window has passed."""
        self._recorder.flush()
        self._store.close_tables()
        run = read_run(self._store.path)
        tables = {name: run.table(name) for name in TABLES}
        for name in ("events", "power", "engine"):
            if (rows := tables[name]) is not None:
                self._store.write_parquet(name, rows)
        manifest = self._store.manifest
        if manifest.timeline.window_ns is None or manifest.server is None:
            if (rows := tables["requests"]) is not None:
                self._store.write_parquet("requests", rows)
            return None
        summary, frame = summarise(manifest, tables_of(tables))
        self._store.write_parquet("requests", pa.Table.from_pandas(frame, preserve_index=False))
        self._store.write_summary(summary)
        return summary


async def _until(holds: Callable[[], bool], timeout_s: float) -> None:
    """Return when `holds` does, or after `timeout_s`; looks 50 times a second."""
    deadline_s = time.monotonic() + timeout_s
    while not holds() and time.monotonic() < deadline_s:  # noqa: ASYNC110 - the dispatcher must not pay for an event
        await asyncio.sleep(0.02)


def _ended_before(dispatcher: Dispatcher, instant_ns: int) -> bool:
    """Return whether every request scheduled before the instant has ended."""
    oldest_ns = dispatcher.oldest_in_flight_ns
    return oldest_ns is None or oldest_ns >= instant_ns


def _as_failed(failure: BaseException, run_dir: Path) -> BaseException:
    """Return the failure with the run directory named, so that the user finds what was recorded."""
    if isinstance(failure, StoreError):
        return failure
    hint = getattr(failure, "hint", "")
    kept = f"recorded so far: {run_dir}"
    if hasattr(failure, "hint"):
        failure.hint = f"{hint}; {kept}" if hint else kept
        return failure
    return RunFailedError(f"{type(failure).__name__}: {failure}", hint=kept)
