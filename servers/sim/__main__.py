"""`python -m servers.sim`: one simulated engine on simulated GPUs, until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import sys
import time
from pathlib import Path

from servers.base import ServerError
from servers.models import find_model
from servers.sim.app import App, listen, stop
from servers.sim.device import SimDevice
from servers.sim.drivers import RealTimeDriver, precise_loop
from servers.sim.engine import Engine, EngineConfig
from servers.sim.faults import EngineFaults, die, parse_faults
from servers.sim.hardware import find_hardware
from servers.sim.recorder import LOOK_NS, Recorder
from servers.sim.service import Service
from servers.sim.tokens import Tokenizer


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m servers.sim", description="A simulated vLLM on simulated GPUs.")
    parser.add_argument("--model", required=True, help="a name or repository id of models.toml")
    parser.add_argument("--gpu", default="h100-sxm", help="a GPU of hardware.toml")
    parser.add_argument("--state-dir", required=True, type=Path, help="where the simulated GPUs live; made if missing")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--tensor-parallel", default=1, type=int, metavar="N", help="GPUs to split the model over")
    parser.add_argument("--max-num-seqs", default=256, type=int, metavar="N", help="sequences in a step at most")
    parser.add_argument(
        "--max-num-batched-tokens", default=8192, type=int, metavar="N", help="tokens in a step at most"
    )
    parser.add_argument("--max-model-len", type=int, metavar="N", help="prompt plus output; default: what fits")
    parser.add_argument("--gpu-memory-utilization", default=0.9, type=float, metavar="X")
    parser.add_argument("--served-model-name", metavar="NAME", help="default: the model's name")
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument("--load-s", default=1.0, type=float, metavar="S", help="how long loading takes")
    parser.add_argument("--fault", action="append", default=[], metavar="NAME[=VALUE]", help="break something")
    return parser


def _config(arguments: argparse.Namespace) -> EngineConfig:
    for name in ("tensor_parallel", "max_num_seqs", "max_num_batched_tokens"):
        if getattr(arguments, name) < 1:
            raise ServerError(f"--{name.replace('_', '-')} must be at least 1", exit_code=2)
    return EngineConfig(
        model=find_model(arguments.model),
        gpu=find_hardware(arguments.gpu),
        tensor_parallel=arguments.tensor_parallel,
        max_num_seqs=arguments.max_num_seqs,
        max_num_batched_tokens=arguments.max_num_batched_tokens,
        max_model_len=arguments.max_model_len,
        gpu_memory_utilization=arguments.gpu_memory_utilization,
    )


def _devices(state_dir: Path, config: EngineConfig, seed: int) -> list[SimDevice]:
    """Return the GPUs 0 to N-1 of the directory, made where missing.

    Raises:
        ServerError: one is of another kind, or held by another engine.
    """
    found = []
    for index in range(config.tensor_parallel):
        with contextlib.suppress(FileExistsError):
            SimDevice.create(state_dir, config.gpu.name, index, seed=seed)
        device = SimDevice.open(state_dir, index)
        if device.info.hardware != config.gpu.name:
            raise ServerError(
                f"simulated GPU {index} in {state_dir} is a {device.info.hardware}, not a {config.gpu.name}",
                exit_code=2,
            )
        if device.info.epoch_ns > time.monotonic_ns():
            raise ServerError(
                f"simulated GPU {index} in {state_dir} was made before this host last started",
                hint="remove that directory",
                exit_code=2,
            )
        if holders := [holder.pid for holder in device.holders() if holder.pid != os.getpid()]:
            raise ServerError(f"simulated GPU {index} in {state_dir} is held by process {holders[0]}", exit_code=2)
        found.append(device)
    return found


class _Process:
    """One engine process: its devices, engine, driver and HTTP server, from loading to the end."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._faults: EngineFaults = parse_faults(arguments.fault)
        self._config = _config(arguments)
        self._engine = Engine(self._config)
        self._devices = _devices(arguments.state_dir, self._config, arguments.seed)
        self._recorder = Recorder(self._devices)
        self._service = Service(
            self._engine, self._recorder, Tokenizer(self._config.model.vocab_size), self._faults, arguments.seed
        )
        self._driver = RealTimeDriver(
            self._engine, self._recorder, self._service.prepare, lambda: self._service.is_stalled
        )
        self._service.metrics.lag = self._driver.lag

    async def run(self) -> None:
        """Load, serve until SIGTERM or SIGINT, and leave the devices bare."""
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        for device in self._devices:
            device.hold(os.getpid(), round(device.hardware.memory_bytes * self._config.gpu_memory_utilization))
        life = asyncio.create_task(self._live())
        ended = asyncio.create_task(stopped.wait())
        try:
            await asyncio.wait((life, ended), return_when=asyncio.FIRST_COMPLETED)
            if life.done():
                await life
        finally:
            life.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await life
            self._leave()

    async def _live(self) -> None:
        await self._load()
        name = self._arguments.served_model_name or self._config.model.name
        app = App(self._service, name, self._driver.wake).build()
        runner = await listen(app, self._arguments.host, self._arguments.port)
        print(f"simulated {name} on {self._config.tensor_parallel} x {self._config.gpu.name}: ready", flush=True)  # noqa: T201
        # What exists by now lives as long as the process; a collection that walks it would make steps late.
        gc.freeze()
        try:
            await self._driver.run()
        finally:
            await stop(runner)

    async def _load(self) -> None:
        """Hold the GPU and take the time that loading takes, or fail as a fault has it."""
        until_ns = time.monotonic_ns() + round(self._arguments.load_s * 1e9)
        while time.monotonic_ns() < until_ns or self._faults.hang_while_loading:
            now_ns = time.monotonic_ns()
            self._driver.look(now_ns)
            self._driver.rest(now_ns)
            await asyncio.sleep(min(LOOK_NS, max(0, until_ns - now_ns) or LOOK_NS) * 1e-9)
        if self._faults.exit_while_loading:
            die("RuntimeError: Engine core initialization failed. See root cause above.")
        if self._faults.oom_while_loading:
            wanted_gib = self._config.model.weight_bytes / 1024**3
            die(f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {wanted_gib:.2f} GiB.")

    def _leave(self) -> None:
        hardware = self._config.gpu
        self._recorder.gone(time.monotonic_ns(), hardware.idle_w, hardware.sm_min_mhz)
        self._recorder.close()
        for device in self._devices:
            device.release(os.getpid())


def main(argv: list[str] | None = None) -> int:
    """Run one engine; return its exit code."""
    try:
        process = _Process(_parser().parse_args(argv))
        with asyncio.Runner(loop_factory=precise_loop) as runner:
            runner.run(process.run())
    except ServerError as error:
        sys.stderr.write(f"error: {error}{f' ({error.hint})' if error.hint else ''}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"OSError: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
