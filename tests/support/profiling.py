"""`jouletrace profile` as a user's process: started, followed by its phases, broken from outside, and cleaned up after.

Every process that a run starts inherits a mark in its environment, so a process that outlived the run is found
whoever its parent is by then.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from typing import TYPE_CHECKING

import psutil

from profiler.store import Run, read_run
from servers.process import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

PHASES = ("launch", "idle", "warm-up", "load", "drain")
PHASE_TIMEOUT_S = 60.0
EXIT_TIMEOUT_S = 60.0
ORPHAN_S = 5.0
_MARK = "JOULETRACE_TEST_RUN"
# The whole spine in about six seconds: short answers, so that the window's last request ends soon.
QUICK = ("--idle", "1", "--warmup", "0.5", "--duration", "2", "--rate", "8", "--input", "32", "--output", "8")
SIMULATED = ("gpt2", "--server", "sim", "--engine-arg=--load-s=0.1")


class ProfileProcess:
    """One running `jouletrace profile`. Its output is read as it comes, so no pipe fills and stops it."""

    def __init__(self, out: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.out = out
        self._id = uuid.uuid4().hex
        command = [sys.executable, "-m", "profiler.cli", "profile", *arguments, "--out", str(out)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # `interrupt` signals the whole group, as a terminal does
            env={**os.environ, **(env or {}), _MARK: self._id},
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._seen: list[str] = []
        threading.Thread(target=self._read, name="output", daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    @property
    def pid(self) -> int:
        """Process id of the profiler."""
        return self._process.pid

    @property
    def text(self) -> str:
        """Everything it has printed so far, as far as `until_phase` or `wait` has read."""
        return "\n".join(self._seen)

    @property
    def last_line(self) -> str:
        """The last line it printed."""
        return next((line for line in reversed(self._seen) if line.strip()), "")

    def until_phase(self, name: str) -> None:
        """Return once it has announced the phase.

        Raises:
            AssertionError: it ended before.
            queue.Empty: it did not get there in time.
        """
        while (line := self._next(PHASE_TIMEOUT_S)) is not None:
            # "   1.2 s  idle     model loaded, ..."
            if line.split()[1:3] == ["s", name]:
                return
        raise AssertionError(f"ended before {name}: {self.text}")

    @property
    def errors(self) -> list[str]:
        """The lines that state an error, of which a user is to see one; a traceback counts as one."""
        return [line for line in self._seen if line.startswith(("error", "jouletrace profile: error", "Traceback"))]

    def wait(self) -> int:
        """Return its exit status; everything it printed is in `text`."""
        while self._next(EXIT_TIMEOUT_S) is not None:
            pass
        return self._process.wait(EXIT_TIMEOUT_S)

    def _next(self, timeout_s: float) -> str | None:
        line = self._lines.get(timeout=timeout_s)
        if line is not None:
            self._seen.append(line)
        return line

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Signal the profiler's process group, as a terminal's Ctrl-C or hang-up does."""
        os.killpg(self.pid, number)

    def until(self, holds: Callable[[], bool], timeout_s: float = PHASE_TIMEOUT_S) -> None:
        """Return once `holds` does, while the profiler runs.

        Raises:
            AssertionError: the profiler ended first, or it took too long.
        """
        deadline_s = time.monotonic() + timeout_s
        while not holds():
            assert self.lives_on(0.02), f"ended early with {self._process.returncode}"
            assert time.monotonic() < deadline_s, f"not within {timeout_s} s"

    def lives_on(self, for_s: float) -> bool:
        """Return whether the profiler still runs `for_s` from now; returns as soon as it does not."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(for_s)
            return False
        return True

    def processes(self, module: str = "") -> list[psutil.Process]:
        """Return the run's live processes but the profiler, or those among them that run `python -m module`."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                is_ours = process.environ().get(_MARK) == self._id and process.status() != psutil.STATUS_ZOMBIE
                if is_ours and process.pid != self.pid and module in ("", _module(process)):
                    found.append(process)
        return found

    def orphans(self, within_s: float = ORPHAN_S) -> list[list[str]]:
        """Return the commands of the processes that still live `within_s` from now; returns as soon as none do."""
        deadline_s = time.monotonic() + within_s
        while left := self.processes():
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0:
                return [_command(process) for process in left]
            psutil.wait_procs(left[:1], timeout=min(0.2, remaining_s))
        return []

    def process(self, module: str, *, guard: bool = False) -> psutil.Process:
        """Return the run's one process that runs `python -m module`, or the guard over it; waits until it is there."""
        found: list[psutil.Process] = []

        def is_there() -> bool:
            guards = [process for process in self.processes("servers.guard") if module in _command(process)]
            found[:] = guards if guard else self.processes(module)
            return bool(found)

        self.until(is_there)
        assert len(found) == 1
        return found[0]

    def run_dir(self) -> Path:
        """Return the one run directory it made."""
        found = list(self.out.glob("*/manifest.json"))
        assert len(found) == 1, f"{len(found)} run directories: {self.text}"
        return found[0].parent

    def run(self) -> Run:
        """Return its run directory, opened as any reader opens it."""
        return read_run(self.run_dir())

    def kill(self) -> None:
        """End whatever is left of the run."""
        with contextlib.suppress(psutil.Error):
            psutil.Process(self.pid).kill()
        self._process.wait()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()


def _module(process: psutil.Process) -> str | None:
    """Return what a `python [OPTIONS] -m MODULE ...` runs; a guard is itself, not the command it guards."""
    command = process.cmdline()
    return command[command.index("-m") + 1] if "-m" in command[:-1] else None


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


@contextlib.contextmanager
def profiling(out: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[ProfileProcess]:
    """Yield a profile that has just been started; nothing of it is left afterwards, however the test ends."""
    process = ProfileProcess(out, *arguments, env=env)
    try:
        yield process
    finally:
        process.kill()


@contextlib.contextmanager
def somebody_elses_engine(state: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Yield the URL and the process of a ready engine that no profile started."""
    port = free_port()
    flags = ["--model", "gpt2", "--state-dir", str(state), "--port", str(port), "--load-s", "0.1"]
    command = [sys.executable, "-m", "servers.sim", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as engine:
        assert engine.stdout is not None
        assert "ready" in engine.stdout.readline()
        try:
            yield f"http://127.0.0.1:{port}", engine
        finally:
            engine.kill()


def rows(run: Run, table: str) -> int:
    """Return how many rows of a table can be read back."""
    found = run.table(table)
    return 0 if found is None else int(found.num_rows)
