"""A small process between the owner and an engine, so that the engine's whole tree dies with its owner.

Run as `python -m servers.guard GRACE_S COMMAND...`. Standard input is a pipe whose other end only the owner holds:
when it closes, the owner is gone, however it went. The guard then ends the tree. It is a subreaper, so that an
engine's workers whose parent died still belong to it, and the engine itself dies with the guard (parent-death
signal). Exit status: the command's, or 128 + the signal that ended it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

import psutil

ORPHAN_GRACE_S = 2.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    """Ask Linux for a process attribute; other systems go without."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _reap(main_pid: int) -> int | None:
    """Collect every dead child; return the main child's exit status once it is among them."""
    status: int | None = None
    while True:
        try:
            pid, raw = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == main_pid:
            code = os.waitstatus_to_exitcode(raw)
            status = code if code >= 0 else 128 - code


def end_tree(main_pid: int | None, grace_s: float) -> None:
    """Send SIGTERM to the main child, wait for the whole tree, then SIGKILL what is left of it."""
    me = psutil.Process()
    if main_pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(main_pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while me.children(recursive=True) and time.monotonic() < deadline:
            _reap(main_pid)
            time.sleep(0.02)
    # Killing one worker can start another: repeat until a look finds none.
    while children := me.children(recursive=True):
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        _reap(main_pid or 0)
        time.sleep(0.01)


def _watch(main_pid: int, wakeup: int, stop: list[int]) -> tuple[int | None, float | None]:
    """Return (exit status, None) when the command ended by itself, (None, ORPHAN_GRACE_S) when the owner went."""
    while True:
        ready, _, _ = select.select([0, wakeup], [], [], 1.0)
        if wakeup in ready:
            os.read(wakeup, 4096)
        if (status := _reap(main_pid)) is not None:
            return status, None
        if stop:
            return None, None
        if 0 in ready and os.read(0, 4096) == b"":
            return None, ORPHAN_GRACE_S


def main(argv: list[str]) -> int:
    """Run the command until it ends, the guard is told to stop, or the owner is gone."""
    grace_s, command = float(argv[0]), argv[1:]
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    stop: list[int] = []
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    signal.signal(signal.SIGTERM, lambda number, _frame: stop.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)  # noqa: PLW1509
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
        return 127
    status, grace = _watch(child.pid, read_end, stop)
    end_tree(child.pid if status is None else None, grace_s if grace is None else min(grace, grace_s))
    return 0 if status is None else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
