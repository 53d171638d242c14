"""Weights that are not on this machine: told before anything starts, refused in one line."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from profiler import weights
from profiler.errors import RunFailedError, UsageError
from profiler.report.progress import Progress
from servers.models import find_model
from servers.process import free_port

if TYPE_CHECKING:
    from pathlib import Path

OPEN, GATED = find_model("gpt2"), find_model("llama-3.1-8b")


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """An empty hub cache, a hub that refuses the connection, and no token; returns what is printed."""
    from huggingface_hub import constants  # noqa: PLC0415

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return io.StringIO()


def test_a_directory_needs_nothing(tmp_path: Path, told: io.StringIO) -> None:
    """A local model is taken as it is."""
    weights.ensure(str(tmp_path), None, Progress(told))
    assert told.getvalue() == ""


def test_a_gated_model_without_a_token_is_refused_first(told: io.StringIO) -> None:
    """A gated model says what to accept and what to set, before anything is downloaded."""
    with pytest.raises(UsageError, match="gated") as caught:
        weights.ensure(GATED.repo_id, GATED, Progress(told))
    assert "HF_TOKEN" in caught.value.hint


def test_size_and_room_are_told_before_a_download(told: io.StringIO) -> None:
    """The download's size and the disk's room are printed; a hub that cannot be reached is one clear failure."""
    with pytest.raises(RunFailedError, match=OPEN.repo_id) as caught:
        weights.ensure(OPEN.repo_id, OPEN, Progress(told))
    assert "GB free" in told.getvalue()
    assert "--weights random" in caught.value.hint
    assert "\n" not in str(caught.value)


def test_a_disk_without_room_is_refused(told: io.StringIO) -> None:
    """A download larger than the disk is a usage error with both numbers."""
    huge = replace(OPEN, download_bytes=10**16)
    with pytest.raises(UsageError, match="GB free"):
        weights.ensure(OPEN.repo_id, huge, Progress(told))
