"""Runs broken on their way: by Ctrl-C, by the engine, the GPU or the disk, by kill -9 of any of their processes."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from profiler.run import DRAIN_S
from servers.sim.device import SimDevice
from tests.support.profiling import PHASES, QUICK, SIMULATED, ProfileProcess, profiling, rows, somebody_elses_engine

if TYPE_CHECKING:
    from pathlib import Path

# Long enough a warm-up for rows to be on disk when the window opens, long enough a window to break something in it.
UNDER_LOAD = (*SIMULATED, *QUICK, "--warmup", "2.5", "--duration", "60")
TABLES = ("requests", "events", "power", "engine")
# Answers stop before the window ends and never come, so that its drain goes on until it is broken off.
NEVER_DRAINED = (*SIMULATED, *QUICK, "--engine-arg=--fault=stall-after-requests=10")
NEVER_READY = (*SIMULATED, *QUICK, "--engine-arg=--fault=hang-while-loading")


def ends_as_failed(profile: ProfileProcess, code: int = 1) -> str:
    """Return the error line of a run that must end by itself, with one line, no process left and its rows kept."""
    assert profile.wait() == code, profile.text
    assert profile.errors == [profile.last_line], profile.text
    assert profile.last_line.startswith(f"error (exit status {code}): ")
    assert profile.orphans() == []
    assert profile.run().state == "failed"
    return profile.last_line


def keeps_what_was_recorded(profile: ProfileProcess) -> None:
    """Claim that every table of a run broken under load can be read back with rows in it."""
    run = profile.run()
    assert {table: rows(run, table) > 0 for table in TABLES} == dict.fromkeys(TABLES, True)


@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c_ends_any_phase(phase: str, tmp_path: Path) -> None:
    """Ctrl-C: exit status 1, one line that says so and where the rows are, no process left, a finished manifest.

    It waits for no answer: the whole end takes less than a drain may.
    """
    with profiling(tmp_path / "runs", *(NEVER_READY if phase == "launch" else NEVER_DRAINED)) as profile:
        profile.until_phase(phase)
        if phase == "launch":
            profile.process("servers.sim")
        profile.interrupt()
        began_s = time.monotonic()
        line = ends_as_failed(profile)
        assert time.monotonic() - began_s < DRAIN_S
    assert "interrupted by SIGINT" in line
    assert str(profile.run_dir()) in line
    assert profile.run().manifest.state == "failed"
    assert "interrupted" in (profile.run().manifest.failure or "")
    assert (profile.run().summary is not None) == (phase == "drain")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_scheduler_s_or_a_terminal_s_end_is_as_orderly_as_ctrl_c(number: signal.Signals, tmp_path: Path) -> None:
    """SIGTERM and SIGHUP under load end the run like Ctrl-C, and keep every table."""
    with profiling(tmp_path / "runs", *UNDER_LOAD) as profile:
        profile.until_phase("load")
        profile.interrupt(number)
        line = ends_as_failed(profile)
        keeps_what_was_recorded(profile)
    assert f"interrupted by {number.name}" in line


def test_ctrl_c_twice_is_ctrl_c_once(tmp_path: Path) -> None:
    """An impatient second Ctrl-C loses nothing: the tables are still closed and no process is left."""
    with profiling(tmp_path / "runs", *UNDER_LOAD) as profile:
        profile.until_phase("load")
        profile.interrupt()
        profile.interrupt()
        assert "interrupted by SIGINT" in ends_as_failed(profile)
        keeps_what_was_recorded(profile)
    assert not list(profile.run_dir().glob("*.arrow"))


def test_an_engine_that_dies_under_load_is_told_with_its_last_words(tmp_path: Path) -> None:
    """The line holds the telling line of its log and the log's path; requests in flight are rows, as errors."""
    with profiling(tmp_path / "runs", *UNDER_LOAD, "--engine-arg=--fault=exit-after-requests=24") as profile:
        line = ends_as_failed(profile)
        keeps_what_was_recorded(profile)
    assert "the engine ended with status 1" in line
    assert "CUDA error" in line
    assert "server.log" in line


def test_an_attached_engine_that_dies_under_load_is_not_trusted(tmp_path: Path) -> None:
    """An engine not ours has no process to watch: its death shows in failed requests, and the result is invalid."""
    attached = ("--gpu", "none", *QUICK, "--warmup", "2.5")
    with (
        somebody_elses_engine(tmp_path / "device") as (url, engine),
        profiling(tmp_path / "runs", "--url", url, *attached) as profile,
    ):
        profile.until_phase("load")
        engine.kill()
        assert profile.wait() == 3, profile.text
        assert profile.orphans() == []
        assert "server_failed" in profile.last_line
        summary = profile.run().summary
    assert summary is not None
    assert not summary.validity.valid
    assert summary.requests.failed > 0


def test_a_gpu_lost_under_load_ends_the_run_and_keeps_its_readings(tmp_path: Path) -> None:
    """`gpu_lost` with the GPU's uuid, within seconds; every reading before the loss is kept."""
    with profiling(tmp_path / "runs", *UNDER_LOAD) as profile:
        profile.until_phase("load")
        device = SimDevice.open(profile.run_dir() / "device")
        device.set_fault("lost")
        line = ends_as_failed(profile)
        keeps_what_was_recorded(profile)
    assert "gpu_lost" in line
    assert device.info.uuid in line
    assert "gpu_lost" in (profile.run().manifest.failure or "")


def test_a_full_disk_ends_the_run_and_keeps_what_fitted(tmp_path: Path) -> None:
    """The line names the directory and what to do; what was written is readable, and the manifest says why it ended.

    A limit on the profiler's file size is the full disk: it hits the growing tables and leaves the manifest room.
    """
    with profiling(tmp_path / "runs", *UNDER_LOAD) as profile:
        profile.until_phase("load")
        largest = max(path.stat().st_size for path in profile.run_dir().glob("*.arrow"))
        psutil.Process(profile.pid).rlimit(psutil.RLIMIT_FSIZE, (largest, largest))
        line = ends_as_failed(profile)
    assert f"cannot write the run directory {profile.run_dir()}" in line
    assert "--out" in line
    assert rows(profile.run(), "power") > 0
    assert "cannot write" in (profile.run().manifest.failure or "")


@pytest.mark.parametrize("guard", [False, True], ids=["process", "guard"])
@pytest.mark.parametrize("module", ["servers.sim", "profiler.exporter"])
def test_kill_9_of_what_a_run_depends_on_ends_it(module: str, guard: bool, tmp_path: Path) -> None:
    """Killing engine or exporter, or the guard above either, ends the run, with the signal named and no orphan."""
    with profiling(tmp_path / "runs", *UNDER_LOAD) as profile:
        profile.until_phase("load")
        profile.process(module, guard=guard).kill()
        line = ends_as_failed(profile)
        keeps_what_was_recorded(profile)
    assert "ended with signal 9" in line
    assert ("the engine" if module == "servers.sim" else "the exporter") in line


@pytest.mark.parametrize("phase", ["launch", "load"])
def test_kill_9_of_the_profiler_leaves_no_orphan_and_a_readable_run(phase: str, tmp_path: Path) -> None:
    """Within 5 s engine, exporter and guards are gone; a manifest that still says running reads as failed."""
    with profiling(tmp_path / "runs", *(NEVER_READY if phase == "launch" else UNDER_LOAD)) as profile:
        profile.until_phase(phase)
        profile.process("servers.sim")
        profile.process("profiler.exporter")
        psutil.Process(profile.pid).kill()
        assert profile.wait() == -signal.SIGKILL
        assert profile.orphans(within_s=5.0) == []
        run = profile.run()
        assert run.manifest.state == "running"
        assert run.state == "failed"
        if phase == "load":
            keeps_what_was_recorded(profile)
