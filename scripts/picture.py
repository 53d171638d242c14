"""Draws README's picture, docs/profile.svg, from a run: `python scripts/picture.py RUN`."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from profiler.report.terminal import render
from profiler.store import read_run

WIDTH = 84


def main() -> int:
    """Write the picture; return 0."""
    run = read_run(Path(sys.argv[1]))
    assert run.summary is not None
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    command = "make profile MODEL=mistral-7b"
    console.print(Text(f"$ {command}\n"))
    console.print(Text.from_ansi(render(run.summary, Path("runs") / run.path.name, width=WIDTH, colour=True)))
    svg = console.export_svg(title=command)
    # The fonts that rich names are fetched from a network; the reader's own monospace does.
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code", "ui-monospace")
    (Path(__file__).parents[1] / "docs" / "profile.svg").write_text(svg, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
