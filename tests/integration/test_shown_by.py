"""What the project promises of a profile on the simulated engine: true to the truth, and no orphan however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from profiler.store import Run, read_run
from servers.sim.device import SimDevice
from servers.sim.truth import true_energy

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = (sys.executable, "-P", "-m", "profiler.cli", "profile", "mistral-7b")
SHORT = ("--idle", "1", "--warmup", "1", "--rate", "4", "--output", "32")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """One good profile and what it printed."""
    out = tmp_path_factory.mktemp("runs")
    command = [*COMMAND, "--duration", "10", "--idle", "3", "--out", str(out)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return read_run(next(out.iterdir())), done.stdout + done.stderr


def test_energy_is_true_and_adds_up(good: tuple[Run, str]) -> None:
    """Total within 1 %, requests and idle within 5 % of the device's truth; the parts are the whole to 1e-6."""
    run, _ = good
    assert run.summary is not None
    energy, window_ns = run.summary.energy, run.manifest.timeline.window_ns
    assert window_ns is not None
    truth = true_energy(SimDevice.open(run.path / "device"), *window_ns)
    assert energy.total_j == pytest.approx(truth.total_j, rel=0.01)
    assert energy.requests_j == pytest.approx(truth.active_j, rel=0.05)
    assert energy.idle_j == pytest.approx(truth.idle_j, rel=0.05)
    assert energy.requests_j is not None
    assert energy.idle_j is not None
    assert energy.unattributed_j is not None
    assert energy.total_j is not None
    whole = energy.requests_j + energy.idle_j + energy.unattributed_j
    assert whole == pytest.approx(energy.total_j, rel=1e-6)
    assert abs(energy.unattributed_j) <= 0.03 * energy.total_j


def test_the_run_is_valid_and_marked_everywhere(good: tuple[Run, str]) -> None:
    """Summary valid and simulated, manifest complete, the word SIMULATED and the reason on the terminal."""
    run, text = good
    assert run.summary is not None
    assert run.summary.validity.valid
    assert run.summary.simulated
    assert run.manifest.simulated
    assert run.state == "complete"
    assert text.count("SIMULATED") >= 3
    assert run.manifest.no_gpu_why is not None
    assert run.manifest.no_gpu_why in text


def _descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def _wait_for(path: Path, seconds: float) -> Path:
    """Return the run directory once its requests table has begun."""
    ticker, deadline = threading.Event(), time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = list(path.glob("*/requests.arrow"))
        if found:
            return found[0].parent
        ticker.wait(0.1)
    raise AssertionError("the load did not begin")


def _named(processes: list[psutil.Process], words: str) -> psutil.Process:
    return next(p for p in processes if words in " ".join(p.cmdline()) and "servers.guard" not in p.cmdline())


@pytest.mark.parametrize("victim", ["profiler", "engine", "exporter", "guard"])
def test_a_kill_leaves_no_orphan_and_a_readable_run(victim: str, tmp_path: Path) -> None:
    """SIGKILL of any part in mid-load: within 5 s every process is gone; rows are kept and the run reads as failed."""
    command = [*COMMAND, *SHORT, "--duration", "60", "--out", str(tmp_path)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run_dir = _wait_for(tmp_path, 30.0)
    tree = _descendants(run.pid)
    targets = {
        "profiler": run.pid,
        "engine": _named(tree, "servers.sim").pid,
        "exporter": _named(tree, "profiler.exporter").pid,
        "guard": next(p for p in tree if "servers.guard" in p.cmdline() and "servers.sim" in p.cmdline()).pid,
    }
    os.kill(targets[victim], signal.SIGKILL)
    _, error = run.communicate(timeout=20.0)
    gone, alive = psutil.wait_procs(tree, timeout=5.0)
    assert alive == [], f"{len(gone)} ended"
    found = read_run(run_dir)
    assert found.state == "failed"
    for name in ("requests", "power"):
        table = found.table(name)
        assert table is not None
        assert table.num_rows > 0
    if victim != "profiler":
        assert run.returncode == 1
        assert error.strip().splitlines()[-1].startswith("error (exit status 1)")
