"""The error tree and the exit codes.

    Exception
     ├── JouleTraceError            profiler: what failed, on what, what to do now
     │    ├── UsageError            exit 2: the command or its configuration
     │    ├── StoreError            exit 1: a run directory that cannot be written or read
     │    └── RunFailedError        exit 1: a run that could not be brought to its end; what it recorded is kept
     ├── servers.base.ServerError   exit 1 or 2: an engine that cannot be launched, reached or kept alive
     ├── loadgen.errors.LoadError   exit 2: a load that cannot be planned or sent
     └── profiler.gpu.base.GpuError exit 2: a meter that cannot be opened
          └── GpuLostError          a meter that stopped answering

Each carries `hint` and `exit_code`; `profiler.cli` is the one place that catches them. A failed request is a row,
never an exception.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit status means."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNTRUSTWORTHY = 3


class JouleTraceError(Exception):
    """Base of the profiler's own errors: one line of what and where, a hint of what to do."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(JouleTraceError):
    """A command or configuration that cannot be carried out as given."""

    exit_code = ExitCode.USAGE


class StoreError(JouleTraceError):
    """A run directory that cannot be created, written or read."""


class RunFailedError(JouleTraceError):
    """A run that ended early; `run_dir` holds everything recorded until then."""
