"""`jouletrace models`."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from rich import box
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
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("MODEL", "repository", "parameters", "context", "weights", "licence", "engines"):
        table.add_column(name, justify="right" if name in ("parameters", "context", "weights") else "left")
    for spec in load_models().values():
        table.add_row(
            spec.name,
            spec.repo_id,
            f"{spec.parameters / 1e9:.2f} B",
            f"{spec.context:,}",
            f"{spec.weight_bytes / 1e9:.1f} GB {spec.dtype}",
            "gated" if spec.gated else "open",
            ", ".join(spec.engines),
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
