"""The engine as a process: how it starts, fails and ends, and what its GPUs draw meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import numpy as np
import pytest

from servers.base import ServerError
from servers.sim.__main__ import main
from servers.sim.device import SimDevice
from servers.sim.faults import EngineFaults, parse_faults
from servers.sim.powerlog import PowerLog
from servers.sim.sensors import Sensors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

MS = 1_000_000


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Engine:
    """A running engine process."""

    process: asyncio.subprocess.Process
    state_dir: Path
    url: str
    session: aiohttp.ClientSession

    async def until(self, holds: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Wait for a condition on the device, which another process changes."""
        async with asyncio.timeout(timeout_s):
            while not holds():  # noqa: ASYNC110 - no event crosses processes
                await asyncio.sleep(0.005)

    async def ready(self) -> None:
        """Wait for /health."""
        async with asyncio.timeout(20):
            while True:
                try:
                    async with self.session.get(f"{self.url}/health"):
                        return
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.02)

    async def complete(self, tokens: int) -> int:
        """Return the status of a completion."""
        body = {"prompt": [300] * 8, "max_tokens": tokens, "ignore_eos": True}
        async with self.session.post(f"{self.url}/v1/completions", json=body) as response:
            return response.status


@asynccontextmanager
async def engine(state_dir: Path, *options: str, model: str = "gpt2", port: int | None = None) -> AsyncIterator[Engine]:
    """Start an engine process; kill it at the end if it still runs."""
    port = port or free_port()
    command = ["--model", model, "--state-dir", str(state_dir), "--port", str(port), "--load-s", "0.1", *options]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "servers.sim", *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with aiohttp.ClientSession() as session:
            yield Engine(process, state_dir, f"http://127.0.0.1:{port}", session)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def power_now(device: SimDevice) -> float:
    """The power drawn over the last millisecond."""
    log = PowerLog(device)
    log.refresh()
    now_ns = time.monotonic_ns()
    return log.mean_power_w(now_ns - MS, now_ns)


def test_a_loaded_engine_draws_more_than_none_and_obeys_a_lock_at_rest(tmp_path: Path) -> None:
    """Loaded idle is 110 W, a clock lock lowers it within 200 ms, and SIGTERM leaves the GPU bare and free."""

    async def run() -> None:
        async with engine(tmp_path) as running:
            await running.ready()
            device = SimDevice.open(tmp_path)
            assert power_now(device) == pytest.approx(110.0)
            assert [holder.pid for holder in device.holders()] == [running.process.pid]
            assert Sensors(device).read(time.monotonic_ns()).memory_used_bytes > 60e9
            device.lock_sm_clock(600, time.monotonic_ns())
            await running.until(lambda: power_now(device) < 90.0, timeout_s=0.2)
            assert await running.complete(3) == 200
            began_ns = time.monotonic_ns()
            running.process.terminate()
            assert await running.process.wait() == 0
            assert time.monotonic_ns() - began_ns < 1000 * MS
            assert power_now(device) == pytest.approx(75.0)
            assert device.holders() == ()
            log = PowerLog(device)
            log.refresh()
            assert (np.diff(log.records["start_ns"]) >= 0).all()

    asyncio.run(run())


def test_a_killed_engine_s_gpu_falls_to_bare_idle(tmp_path: Path) -> None:
    """After kill -9 in the middle of a step the power ends with the step's hold, and nobody holds the GPU."""

    async def run() -> None:
        async with engine(tmp_path, model="mistral-7b") as running:
            await running.ready()
            device = SimDevice.open(tmp_path)
            load = asyncio.create_task(running.complete(5000))
            await running.until(lambda: power_now(device) > 300.0)
            running.process.send_signal(signal.SIGKILL)
            with pytest.raises(aiohttp.ClientError):
                await load
            await running.until(lambda: power_now(device) == pytest.approx(75.0), timeout_s=1.0)
            assert device.holders() == ()

    asyncio.run(run())


def test_sigterm_during_load_ends_at_once(tmp_path: Path) -> None:
    """With a request in flight SIGTERM ends the process within a second with status 0."""

    async def run() -> None:
        async with engine(tmp_path, model="mistral-7b") as running:
            await running.ready()
            load = asyncio.create_task(running.complete(5000))
            device = SimDevice.open(tmp_path)
            await running.until(lambda: power_now(device) > 300.0)
            running.process.terminate()
            async with asyncio.timeout(1.0):
                assert await running.process.wait() == 0
            with pytest.raises(aiohttp.ClientError):
                await load

    asyncio.run(run())


def test_two_gpus_are_held_by_one_engine(tmp_path: Path) -> None:
    """With tensor parallelism two devices are made, held and loaded alike, and a request is answered."""

    async def run() -> None:
        async with engine(tmp_path, "--tensor-parallel", "2", model="qwen3-32b") as running:
            await running.ready()
            assert await running.complete(5) == 200
            first, second = SimDevice.open_all(tmp_path)
            assert first.holders() == second.holders() != ()
            assert (first.directory / "steps.bin").read_bytes() == (second.directory / "steps.bin").read_bytes() != b""

    asyncio.run(run())


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("exit-while-loading", "initialization failed"),
        ("oom-while-loading", "torch.OutOfMemoryError: CUDA out of memory"),
    ],
)
def test_an_engine_that_dies_while_loading_says_why(tmp_path: Path, fault: str, says: str) -> None:
    """The process ends with status 1, and the last line of its log is the reason."""

    async def run() -> None:
        async with engine(tmp_path, "--fault", fault) as running:
            _, log = await running.process.communicate()
            assert running.process.returncode == 1
            assert says in log.decode().splitlines()[-1]

    asyncio.run(run())


def test_an_engine_that_hangs_while_loading_never_listens(tmp_path: Path) -> None:
    """It holds the GPU, draws loaded idle power, and refuses connections."""

    async def run() -> None:
        async with engine(tmp_path, "--fault", "hang-while-loading") as running:
            await running.until((tmp_path / "0" / "device.json").exists)
            await running.until(lambda: SimDevice.open(tmp_path).holders() != ())
            await running.until(lambda: power_now(SimDevice.open(tmp_path)) > 100.0)
            with pytest.raises(aiohttp.ClientConnectionError):
                await running.complete(1)

    asyncio.run(run())


def test_an_engine_that_dies_under_load_breaks_its_answers(tmp_path: Path) -> None:
    """After the fault's number of answers the next request ends the process with a traceback."""

    async def run() -> None:
        async with engine(tmp_path, "--fault", "exit-after-requests=2") as running:
            await running.ready()
            assert [await running.complete(2) for _ in range(2)] == [200, 200]
            with pytest.raises(aiohttp.ClientError):
                await running.complete(2)
            _, log = await running.process.communicate()
            assert running.process.returncode == 1
            assert log.startswith(b"Traceback")

    asyncio.run(run())


def test_a_port_in_use_ends_the_engine_and_frees_the_gpu(tmp_path: Path) -> None:
    """Where somebody listens already the process ends with status 1 and an error that says so."""

    async def run() -> None:
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            async with engine(tmp_path, port=holder.getsockname()[1]) as running:
                _, log = await running.process.communicate()
                assert running.process.returncode == 1
                assert b"address already in use" in log
                assert SimDevice.open(tmp_path).holders() == ()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--model", "llama-3.1-70b"], "--tensor-parallel 2 fits"),
        (["--model", "nonsense"], "no model is called"),
        (["--model", "gpt2", "--gpu", "tpu"], "no simulated GPU is called"),
        (["--model", "gpt2", "--fault", "nonsense"], "no fault is called"),
        (["--model", "falcon-7b", "--tensor-parallel", "2"], "71 heads"),
        (["--model", "gpt2", "--max-num-seqs", "0"], "at least 1"),
    ],
)
def test_what_cannot_work_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    """A configuration that cannot work is refused before anything is made."""
    assert main([*options, "--state-dir", str(tmp_path / "gpus"), "--port", "1"]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "gpus").exists()


def test_a_gpu_of_another_kind_or_in_other_hands_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An engine takes only GPUs of its kind that no living process holds."""
    command = ["--model", "gpt2", "--state-dir", str(tmp_path), "--port", "1"]
    device = SimDevice.create(tmp_path, "h100-sxm")
    assert main([*command, "--gpu", "h200-sxm"]) == 2
    device.hold(os.getppid(), 1000)
    assert main(command) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "is a h100-sxm, not a h200-sxm" in errors[0]
    assert f"held by process {os.getppid()}" in errors[1]


def test_faults_are_read_from_their_names() -> None:
    """Flags and counts become fields, and what is no number is refused."""
    assert parse_faults(["unready", "error-share=0.1", "stall-after-requests=3"]) == EngineFaults(
        unready=True, error_share=0.1, stall_after_requests=3
    )
    for wrong in ("stall-after-requests=x", "unready=1", "error-share"):
        with pytest.raises(ServerError) as caught:
            parse_faults([wrong])
        assert caught.value.exit_code == 2


def test_a_stall_is_not_noticed_by_health(tmp_path: Path) -> None:
    """A hung engine stays healthy and goes on drawing idle power, as real ones do."""

    async def run() -> None:
        async with engine(tmp_path, "--fault", "stall-after-requests=1") as running:
            await running.ready()
            assert await running.complete(1) == 200
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await running.complete(1)
            await running.ready()
            assert power_now(SimDevice.open(tmp_path)) == pytest.approx(110.0)
            state = json.loads((tmp_path / "0" / "holders.json").read_text("utf-8"))
            assert [holder["pid"] for holder in state] == [running.process.pid]

    asyncio.run(run())
