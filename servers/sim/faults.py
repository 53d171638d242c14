"""Faults of the simulated engine, on demand: what a real engine has been seen to do, or may."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from servers.base import ServerError

if TYPE_CHECKING:
    from collections.abc import Iterable

_FLAGS = ("exit-while-loading", "hang-while-loading", "oom-while-loading", "unready", "short-output")
_VALUED = ("exit-after-requests", "stall-after-requests", "error-share")


@dataclass(frozen=True, slots=True)
class EngineFaults:
    """What is wrong with the engine. Counts are of answered requests, a readiness probe's included; None is never."""

    exit_while_loading: bool = False
    hang_while_loading: bool = False
    oom_while_loading: bool = False
    unready: bool = False
    short_output: bool = False
    exit_after_requests: int | None = None
    stall_after_requests: int | None = None
    error_share: float = 0.0


def parse_faults(specs: Iterable[str]) -> EngineFaults:
    """Return the faults named by `NAME` or `NAME=VALUE`.

    Raises:
        ServerError: there is no such fault, or its value is no number.
    """
    fields: dict[str, bool | int | float] = {}
    for spec in specs:
        name, given, value = spec.partition("=")
        field = name.replace("-", "_")
        try:
            if name in _FLAGS and not given:
                fields[field] = True
            elif name in _VALUED:
                fields[field] = float(value) if name == "error-share" else int(value)
            else:
                known = ", ".join((*_FLAGS, *(f"{valued}=N" for valued in _VALUED)))
                raise ServerError(f"no fault is called {spec!r}", hint=f"known: {known}", exit_code=2)
        except ValueError:
            raise ServerError(f"fault {name!r} needs a number, got {value!r}", exit_code=2) from None
    return EngineFaults(**fields)  # type: ignore[arg-type]  # each name has its field's type


def die(message: str) -> NoReturn:
    """End the process at once, as an engine whose core has crashed, with a traceback's shape in the log."""
    sys.stdout.flush()
    sys.stderr.write(f'Traceback (most recent call last):\n  File "core.py", in run_busy_loop\n{message}\n')
    sys.stderr.flush()
    os._exit(1)
