"""The check before an environment is made says the one command that is missing."""

from __future__ import annotations

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).parents[2] / "scripts" / "preflight.py")


def _exit_code() -> int:
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(SCRIPT, run_name="__main__")
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_a_complete_python_passes_silently(capsys: pytest.CaptureFixture[str]) -> None:
    """Where venv works nothing is said."""
    assert _exit_code() == 0
    assert capsys.readouterr().err == ""


def test_a_python_without_ensurepip_is_told_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Debian's python3 without python3-venv gets the one command that installs it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ensurepip" else find_spec(name))
    assert _exit_code() == 2
    assert "apt-get install python3." in capsys.readouterr().err


def test_an_old_python_is_told_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python 3.9 is refused with the variable that names another."""
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    assert _exit_code() == 2
    assert "PYTHON=" in capsys.readouterr().err
