"""`jouletrace exporter`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler import exporter
from profiler.errors import UsageError
from profiler.gpu.probe import find_nvidia

if TYPE_CHECKING:
    import argparse


def run(arguments: argparse.Namespace) -> int:
    """Serve until stopped; return the exit status."""
    if arguments.gpu == "nvml" and (why := find_nvidia().reason) is not None:
        raise UsageError(why, hint="use --gpu rapl or --gpu replay:FILE")
    flags = ["--gpu", arguments.gpu, "--host", arguments.host, "--port", str(arguments.port), "--hz", str(arguments.hz)]
    return exporter.main(flags)
