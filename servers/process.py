"""A supervised process tree: started under a guard, logged to a file, ended whole."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil

from servers.base import ServerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class ManagedProcess:
    """One command and everything it starts.

    It ends with its owner however the owner ends (see `servers.guard`). Standard output and error go to `log`.
    """

    def __init__(self, command: Sequence[str], log: Path, *, env: Mapping[str, str] | None, grace_s: float) -> None:
        self.log = log
        self._grace_s = grace_s
        self._seen: list[psutil.Process] = []
        # -P: a directory called servers/ where the user stands must not stand in for ours.
        guard = [sys.executable, "-P", "-m", "servers.guard", str(grace_s), *command]
        with log.open("ab") as sink:
            self._guard = subprocess.Popen(
                guard,
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,  # the terminal's Ctrl-C is the owner's to handle, in its own order
            )

    @property
    def pid(self) -> int:
        """Process id of the guard."""
        return self._guard.pid

    def returncode(self) -> int | None:
        """Return the command's exit status, or None while it runs."""
        return self._guard.poll()

    def failure(self) -> str | None:
        """Return in words how it ended, with the log's last telling line; None while it runs."""
        status = self.returncode()
        if status is None:
            return None
        how = f"signal {-status}" if status < 0 else f"signal {status - 128}" if status > 128 else f"status {status}"
        # Who is killed leaves no last words: a line that names no error would pass for one.
        last = telling_line(self.tail(400), or_last=not how.startswith("signal"))
        return f"ended with {how}" + (f": {last}" if last else "")

    def pids(self) -> frozenset[int]:
        """Return the ids of the processes in the tree, the guard's not among them."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._seen = psutil.Process(self.pid).children(recursive=True)
            return frozenset(child.pid for child in self._seen)
        return frozenset()

    def tail(self, lines: int = 20) -> list[str]:
        """Return the log's last lines."""
        return tail(self.log, lines)

    async def stop(self) -> None:
        """End the tree: SIGTERM, after the grace SIGKILL. May be called twice."""
        if self._guard.poll() is None:
            self._guard.terminate()
            await self._wait(self._grace_s + 3.0)
        self._kill_survivors()
        if self._guard.stdin is not None:
            self._guard.stdin.close()

    async def _wait(self, timeout_s: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._guard.wait, timeout_s)

    def _kill_survivors(self) -> None:
        """Kill what outlived a guard that was itself killed: its session, and what `pids` saw leave the session."""
        if self._guard.poll() is None:
            self._guard.kill()
            self._guard.wait()
        for process in [*self._seen, *psutil.process_iter(["pid"])]:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
                if process in self._seen or os.getsid(process.pid) == self.pid:
                    process.kill()


def tail(path: Path, lines: int = 20) -> list[str]:
    """Return the last lines of a text file, [] where there is none; reads at most its last 64 KiB."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 65536))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except OSError:
        return []


# What a log line holds that says why, most telling first; a request log's "500 Internal Server Error" is none of these.
_TELLING = ("out of memory", "died unexpectedly", "Value error, ", "Error: ", "error: ", "Error", "Exception")
_NOT_TELLING = ("Internal Server Error", "EngineDeadError", "WARNING")


def telling_line(lines: Sequence[str], *, or_last: bool = True) -> str:
    """Return the line of a log that says what went wrong; where none does the last line, or "" unless `or_last`."""
    kept = [line.strip() for line in lines if line.strip()]
    plain = [line for line in kept if not any(words in line for words in _NOT_TELLING)]
    for words in _TELLING:
        named = [line for line in plain if words.lower() in line.lower()]
        if named:
            return named[-1][:300]
    return kept[-1][:300] if kept and or_last else ""


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def claim_port(host: str, port: int) -> int:
    """Return `port` when it is free, a free one for 0.

    Raises:
        ServerError: somebody listens there; names the holder where the system tells.
    """
    if port == 0:
        return free_port(host)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServerError(
                f"port {port} on {host} is in use{_holder(port)}",
                hint="choose another with --port, or leave it out for a free one",
                exit_code=2,
            ) from error
    return port


def _holder(port: int) -> str:
    pid = listener_pid(port)
    if pid is None:
        return ""
    with contextlib.suppress(psutil.Error):
        return f" by {psutil.Process(pid).name()} (pid {pid})"
    return f" by pid {pid}"


def listener_pid(port: int) -> int | None:
    """Return the process that listens on a TCP port of this host, None where the system does not tell."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,)
            if listens and connection.pid:
                return int(connection.pid)
    return None
