"""The exporter: one process that samples every meter and tells it in two ways.

    /metrics     the latest reading, for Prometheus
    /samples     every reading from now on, as an Arrow IPC stream of `READING_SCHEMA` batches: exact, for joins
    /processes   who holds memory on each GPU
    /health      {"state": "ok" | "lost", ...}, the host's boot id and both clocks

It changes nothing on any device. Run as `python -m profiler.exporter` by a profile, or as `jouletrace exporter`.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import math
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from profiler import names
from profiler.gpu.base import EVENT_REASONS, GpuError
from profiler.gpu.readings import schema_for, to_batch
from profiler.gpu.spec import open_meters
from profiler.sampler import Sampler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector

    from profiler.gpu.base import Gpu, GpuInfo, GpuLostError, Reading

STREAM_FLUSH_S = 0.1
# Twice the publication rate of a data-centre sensor (100 ms), the most that measuring.md asks for away from edges.
DEFAULT_HZ = 20.0


def boot_id() -> str:
    """Return what distinguishes this boot of this host from any other; "" where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class Latest:
    """The last reading of each meter, as a Prometheus collector. Missing values are absent, never 0."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readings: dict[str, tuple[GpuInfo, Reading]] = {}
        self._count = 0
        self._read_ns = 0

    def put(self, info: GpuInfo, reading: Reading) -> None:
        """Take over a reading."""
        with self._lock:
            self._readings[info.uuid] = (info, reading)
            self._count += 1
            self._read_ns += reading.after_ns - reading.before_ns

    def drop(self, info: GpuInfo) -> None:
        """Forget a meter that no longer answers: its series end instead of freezing."""
        with self._lock:
            self._readings.pop(info.uuid, None)

    def collect(self) -> Iterable[Metric]:
        """Yield every family at the present state."""
        with self._lock:
            readings, count, read_ns = list(self._readings.values()), self._count, self._read_ns
        yield from _gauges(readings)
        energy = CounterMetricFamily(names.GPU_ENERGY.name, names.GPU_ENERGY.help, labels=names.GPU_LABELS)
        events = GaugeMetricFamily(
            names.GPU_CLOCK_EVENT.name, names.GPU_CLOCK_EVENT.help, labels=(*names.GPU_LABELS, "reason")
        )
        for info, reading in readings:
            if not math.isnan(reading.energy_j):
                energy.add_metric(_labels(info), reading.energy_j)
            for reason, bit in EVENT_REASONS.items():
                if reading.event_reasons >= 0:
                    events.add_metric((*_labels(info), reason), float(bool(reading.event_reasons & bit)))
        yield energy
        yield events
        yield CounterMetricFamily(names.SAMPLES.name, names.SAMPLES.help, value=count)
        yield CounterMetricFamily(names.READ_SECONDS.name, names.READ_SECONDS.help, value=read_ns * 1e-9)


def _labels(info: GpuInfo) -> tuple[str, str, str]:
    return str(info.index), info.uuid, str(info.simulated).lower()


def _gauges(readings: Sequence[tuple[GpuInfo, Reading]]) -> Iterable[Metric]:
    for attribute, (metric, scale) in names.GPU_GAUGES.items():
        family = GaugeMetricFamily(metric.name, metric.help, labels=names.GPU_LABELS)
        for info, reading in readings:
            value = getattr(reading, attribute) * scale
            if not math.isnan(value):
                family.add_metric(_labels(info), value)
        yield family


class Exporter:
    """The sampler, its subscribers and the HTTP face."""

    def __init__(self, gpus: Sequence[Gpu], period_s: float) -> None:
        self._gpus = gpus
        self._schema = schema_for([gpu.info for gpu in gpus])
        self._latest = Latest()
        self._registry = CollectorRegistry()
        collector: Collector = self._latest
        self._registry.register(collector)
        self._subscribers: dict[int, list[tuple[GpuInfo, Reading]]] = {}
        self._lost: dict[str, str] = {}
        self._sampler = Sampler(gpus, period_s, self._on_reading, self._on_lost)

    def _on_reading(self, info: GpuInfo, reading: Reading) -> None:
        """Runs in the sampler's thread; list.append is atomic."""
        self._latest.put(info, reading)
        for rows in tuple(self._subscribers.values()):
            rows.append((info, reading))

    def _on_lost(self, info: GpuInfo, error: GpuLostError) -> None:
        self._latest.drop(info)
        self._lost[info.uuid] = str(error)
        sys.stderr.write(f"{info.name} ({info.uuid}) lost: {error}\n")

    def app(self) -> web.Application:
        """Return the HTTP application; sampling begins and ends with it."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/samples", self._samples),
                web.get("/processes", self._processes),
                web.get("/health", self._health),
            ]
        )

        async def life(_: web.Application) -> AsyncIterator[None]:
            self._sampler.start()
            yield
            await asyncio.to_thread(self._sampler.stop)

        app.cleanup_ctx.append(life)
        return app

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _health(self, _: web.Request) -> web.Response:
        now = {"monotonic_ns": time.monotonic_ns(), "wall_ns": time.time_ns()}
        state = "lost" if self._lost else "ok"
        return web.json_response({"state": state, "lost": self._lost, "boot_id": boot_id(), "clock": now})

    async def _processes(self, _: web.Request) -> web.Response:
        found = await asyncio.to_thread(lambda: {gpu.info.uuid: gpu.processes() for gpu in self._gpus})
        told = {uuid: None if rows is None else [asdict(row) for row in rows] for uuid, rows in found.items()}
        return web.json_response(told)

    async def _samples(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/vnd.apache.arrow.stream"})
        await response.prepare(request)
        rows: list[tuple[GpuInfo, Reading]] = []
        self._subscribers[id(rows)] = rows
        pending = _Bytes()
        try:
            with pa.ipc.new_stream(pending, self._schema) as stream:
                while True:
                    await response.write(pending.take())
                    await asyncio.sleep(STREAM_FLUSH_S)
                    # The sampler only appends, so what is counted here stays in front.
                    count = len(rows)
                    if count:
                        stream.write_batch(to_batch(rows[:count], self._schema))
                        del rows[:count]
        except ConnectionError:
            return response
        finally:
            del self._subscribers[id(rows)]


class _Bytes(io.RawIOBase):
    """A sink that hands over what was written to it since the last time."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]  # pyarrow gives buffers
        view = memoryview(data)
        self._buffer += view
        return view.nbytes

    def take(self) -> bytes:
        taken, self._buffer = bytes(self._buffer), bytearray()
        return taken


async def serve(gpus: Sequence[Gpu], host: str, port: int, period_s: float) -> None:
    """Serve until SIGTERM or SIGINT."""
    runner = web.AppRunner(Exporter(gpus, period_s).app(), handle_signals=False, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    sys.stderr.write(f"serving http://{host}:{port}/metrics and /samples of {', '.join(g.info.name for g in gpus)}\n")
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
    await runner.cleanup()
    for gpu in gpus:
        gpu.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments a profile passes and serve."""
    parser = argparse.ArgumentParser(prog="profiler.exporter")
    parser.add_argument("--gpu", required=True, help="meters, as profiler.gpu.spec takes them")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=names.EXPORTER_PORT)
    parser.add_argument("--hz", type=float, default=DEFAULT_HZ)
    options = parser.parse_args(argv)
    try:
        gpus = open_meters(options.gpu)
        asyncio.run(serve(gpus, options.host, options.port, 1.0 / options.hz))
    except GpuError as error:
        sys.stderr.write(f"error (exit status {error.exit_code}): {error}; {error.hint}\n")
        return error.exit_code
    except OSError as error:
        where = f"{options.host}:{options.port}"
        sys.stderr.write(f"error (exit status 2): cannot listen on {where}: {error.strerror}; use another --port\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
