"""docs/cli.md, the Makefile and README name what the command line has."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from profiler.cli import VERBS, parser

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cli.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def _flags(verb: str) -> set[str]:
    actions = parser()._actions
    verbs = next(action for action in actions if isinstance(action, argparse._SubParsersAction))
    return {name for action in verbs.choices[verb]._actions for name in action.option_strings} - {"-h", "--help"}


@pytest.mark.parametrize("verb", VERBS)
def test_the_page_lists_exactly_the_flags_of_each_verb(verb: str) -> None:
    """Every flag of the verb stands in its section's table, and no other."""
    section = PAGE.split(f"## {verb}\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `--")]
    assert {name for cell in cells for name in re.findall(r"`(--[a-z-]+)`", cell)} == _flags(verb)


def test_the_make_variables_of_the_page_are_the_makefiles() -> None:
    """Each variable that the page offers beside a flag is passed on by the Makefile, and to a flag that exists."""
    offered = set(re.findall(r"`([A-Z_]+)=`", PAGE)) - {"TORCH_CPU_INDEX"}
    passed = dict(re.findall(r"\$\(call flag,([A-Z_]+),([a-z-]+)\)", MAKEFILE))
    assert offered == set(passed)
    assert {f"--{name}" for name in passed.values()} <= _flags("profile")


@pytest.mark.parametrize("page", ["README.md", "docs/cli.md", "CONTRIBUTING.md"])
def test_every_make_target_that_is_named_exists(page: str) -> None:
    """A `make TARGET` in the docs is a target of the Makefile."""
    named = set(re.findall(r"(?:`|^ +)make ([a-z][a-z-]+)", (ROOT / page).read_text("utf-8"), re.MULTILINE))
    targets = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
    assert named <= targets
