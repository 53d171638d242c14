"""The owner's side of an exporter: starts one or attaches to one, and takes every reading it streams.

The stream is read in a thread, so that neither a slow disk nor the load generator's event loop delays a reading: the
readings carry the exporter's own stamps.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from collections import deque
from http.client import HTTPConnection, HTTPException
from socket import SHUT_RDWR
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from profiler.errors import RunFailedError, UsageError
from profiler.exporter import boot_id
from profiler.gpu.base import GpuProcess
from profiler.gpu.readings import gpu_infos
from servers.process import ManagedProcess, free_port

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path
    from socket import socket

    from profiler.gpu.base import GpuInfo

START_TIMEOUT_S = 20.0
_ASK_TIMEOUT_S = 5.0


class Sampling:
    """A running exporter and the readings it has sent. `gpus` is known once it has started."""

    def __init__(self, *, gpu_spec: str | None = None, url: str | None = None, log: Path | None = None) -> None:
        """Start an exporter for `gpu_spec`, logging to `log`, or attach to the one at `url`."""
        self._gpu_spec = gpu_spec
        self._url = url
        self._log = log
        self._process: ManagedProcess | None = None
        self._batches: deque[pa.RecordBatch] = deque()
        self._ended: str | None = None
        self._socket: socket | None = None
        self._limited = False
        self._thread = threading.Thread(target=self._read, name="samples", daemon=True)
        self._first = threading.Event()
        self.gpus: tuple[GpuInfo, ...] = ()

    async def start(self) -> None:
        """Return once the first reading of every meter may be on its way.

        Raises:
            RunFailedError: the exporter did not start.
            UsageError: it cannot open the meters asked for, or runs on another host.
        """
        if self._url is None:
            assert self._log is not None
            assert self._gpu_spec is not None
            port = free_port()
            self._url = f"http://127.0.0.1:{port}"
            command = (sys.executable, "-P", "-m", "profiler.exporter", "--gpu", self._gpu_spec, "--port", str(port))
            self._process = ManagedProcess(command, self._log, env=None, grace_s=2.0)
        await self._wait_healthy()
        self._thread.start()
        await self._wait_first()

    async def _wait_first(self) -> None:
        """Wait for the first reading; on the loop, since a thread's wait would outlast an interrupt."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_TIMEOUT_S
        while not self._first.is_set():
            if (why := self.failure()) is not None:
                raise RunFailedError(why, hint=f"see {self._log}")
            if (lost := await self.lost()) is not None:
                raise RunFailedError(f"gpu_lost: {lost}", hint="check the device with nvidia-smi")
            if loop.time() > deadline:
                raise RunFailedError(f"the exporter at {self._url} sends no samples", hint=f"see {self._log}")
            await asyncio.sleep(0.05)

    async def _wait_healthy(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_TIMEOUT_S
        while True:
            if self._process is not None and (why := self._process.failure()) is not None:
                if self._process.returncode() == 2:
                    raise UsageError(self._process.tail(1)[0].removeprefix("error (exit status 2): "))
                raise RunFailedError(f"the exporter {why}", hint=f"see {self._log}")
            try:
                health = await asyncio.to_thread(self._ask, "/health")
                break
            except (OSError, HTTPException, ValueError) as error:
                if self._process is None or loop.time() > deadline:
                    raise UsageError(
                        f"no exporter answers at {self._url}: {error}", hint="start one with: jouletrace exporter"
                    ) from error
            await asyncio.sleep(0.05)
        if health["boot_id"] != boot_id():
            raise UsageError(
                f"the exporter at {self._url} runs on another host, whose clock is not this one's",
                hint="run the profile on that host",
            )

    def _connection(self) -> HTTPConnection:
        parts = urlsplit(self._url or "")
        return HTTPConnection(parts.hostname or "", parts.port or 80, timeout=_ASK_TIMEOUT_S)

    def _ask(self, path: str) -> Any:  # noqa: ANN401 - JSON has no narrower type
        connection = self._connection()
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def _read(self) -> None:
        """Take the stream in until it ends, which it does only when something is wrong or we stopped it."""
        connection = self._connection()
        try:
            connection.request("GET", "/samples")
            self._socket = connection.sock
            stream = pa.ipc.open_stream(connection.getresponse())
            self.gpus = gpu_infos(stream.schema)
            for batch in stream:
                self._batches.append(batch)
                self._first.set()
            self._ended = "its stream ended"
        except (OSError, HTTPException, pa.ArrowInvalid) as error:
            self._ended = str(error) or type(error).__name__
        finally:
            connection.close()

    def take(self) -> list[pa.RecordBatch]:
        """Return the batches that arrived since the last call, of the meters in `gpus`."""
        batches = [self._batches.popleft() for _ in range(len(self._batches))]
        if not self._limited:
            return batches
        wanted = pa.array([gpu.uuid for gpu in self.gpus])
        return [batch.filter(pc.is_in(batch["uuid"], wanted)) for batch in batches]

    def limit_to(self, uuids: Collection[str]) -> None:
        """Take only these meters' readings from now on."""
        self.gpus = tuple(gpu for gpu in self.gpus if gpu.uuid in uuids)
        self._limited = True

    def failure(self) -> str | None:
        """Return why samples no longer come, None while they do."""
        if self._ended is None and (self._process is None or self._process.returncode() is None):
            return None
        how = self._process.failure() if self._process is not None else None
        return f"the exporter {how or 'stopped: ' + (self._ended or '')}"

    async def lost(self) -> str | None:
        """Return why meters no longer answer, each reason naming its meter; None while all do."""
        try:
            lost: dict[str, str] = (await asyncio.to_thread(self._ask, "/health"))["lost"]
        except (OSError, HTTPException, ValueError):
            return None
        return "; ".join(lost.values()) or None

    async def processes(self) -> dict[str, tuple[GpuProcess, ...] | None]:
        """Return who holds memory on each GPU by uuid; None where it cannot be told."""
        try:
            told = await asyncio.to_thread(self._ask, "/processes")
        except (OSError, HTTPException, ValueError):
            return {gpu.uuid: None for gpu in self.gpus}
        return {uuid: None if rows is None else tuple(GpuProcess(**row) for row in rows) for uuid, rows in told.items()}

    async def stop(self) -> None:
        """End the stream, and the exporter where it was started here. May be called twice."""
        if self._socket is not None:
            # Wakes the reading thread, which may not outlive the interpreter it runs Arrow in.
            with contextlib.suppress(OSError):
                self._socket.shutdown(SHUT_RDWR)
            await asyncio.to_thread(self._thread.join, _ASK_TIMEOUT_S)
        if self._process is not None:
            await self._process.stop()
