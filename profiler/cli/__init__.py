"""The command line: one module a verb, no logic beyond parsing and printing.

A verb's module is imported only when the verb is used, so that `--help` costs no numpy, pandas or aiohttp.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import TYPE_CHECKING

from profiler import __version__
from profiler.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS = {
    "profile": "launch or attach to an engine, drive it with load, join latency with energy",
    "exporter": "sample every GPU and serve /metrics and /samples",
    "serve": "run the simulated engine alone",
    "models": "list the models; make tiny ones for tests",
    "runs": "list the run directories, or show one again",
}


def parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    top = argparse.ArgumentParser(
        prog="jouletrace",
        description="Trace every joule of LLM serving to the request that spent it.",
        epilog="exit status: 0 ok; 1 failed; 2 usage or configuration; 3 measured but not trustworthy",
    )
    top.add_argument("--version", action="version", version=f"jouletrace {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, text in VERBS.items():
        add = getattr(options, f"add_{verb}")
        add(verbs.add_parser(verb, help=text, description=text.capitalize() + "."))
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    arguments = parser().parse_args(argv)
    try:
        return int(importlib.import_module(f"profiler.cli.{arguments.verb}").run(arguments))
    except KeyboardInterrupt:
        sys.stderr.write("error (exit status 1): interrupted\n")
        return 1
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        return explain(error)


def explain(error: Exception) -> int:
    """Print an error of ours on one line: exit status, what failed, what to do; return the exit status.

    The status stands in the line because make turns every failure into its own status 2.
    """
    code, hint = int(getattr(error, "exit_code", 1)), getattr(error, "hint", "")
    sys.stderr.write(f"error (exit status {code}): {error}" + (f"; {hint}\n" if hint else "\n"))
    return code
