"""`jouletrace runs`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from profiler.errors import ExitCode, StoreError, UsageError
from profiler.report.terminal import render
from profiler.store import read_run

if TYPE_CHECKING:
    import argparse
    from pathlib import Path


def run(arguments: argparse.Namespace) -> int:
    """Show one run again, or list all under --out."""
    if arguments.run is not None:
        return _show(arguments)
    if arguments.json:
        raise UsageError("--json shows one run", hint="name it: jouletrace runs RUN --json")
    return _list(arguments.out)


def _show(arguments: argparse.Namespace) -> int:
    path = arguments.run if arguments.run.exists() else arguments.out / arguments.run
    found = read_run(path)
    if found.summary is None:
        why = found.manifest.failure or "it ended before its window did"
        raise StoreError(f"{path} has no summary: state {found.state}, {why}", hint="its tables are readable")
    if arguments.json:
        sys.stdout.write(json.dumps(found.summary.model_dump(mode="json"), indent=2) + "\n")
    else:
        sys.stdout.write(render(found.summary, path))
    return ExitCode.OK if found.summary.validity.valid else ExitCode.UNTRUSTWORTHY


def _list(out: Path) -> int:
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("run", "state", "", "valid", "J/token", "TTFT ms"):
        table.add_column(name, no_wrap=name == "run")
    for path in sorted(out.glob("*/manifest.json")):
        table.add_row(*_row(path.parent))
    Console().print(table)
    return ExitCode.OK


def _row(path: Path) -> tuple[str, ...]:
    try:
        found = read_run(path)
        summary = found.summary
    except StoreError:
        return (path.name, "unreadable", "", "", "", "")
    per_token = summary.energy.j_per_output_token if summary else None
    ttft_s = summary.latency.ttft_s.p50 if summary else None
    return (
        path.name,
        found.state,
        "SIMULATED" if found.manifest.simulated else "",
        "" if summary is None else str(summary.validity.valid).lower(),
        "—" if per_token is None else f"{per_token:.4f}",
        "—" if ttft_s is None else f"{ttft_s * 1e3:.1f}",
    )
