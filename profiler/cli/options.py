"""The flags of every verb. The same flag means the same thing under every verb; docs/cli.md lists them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from profiler.names import EXPORTER_PORT

if TYPE_CHECKING:
    import argparse


def _add_load(parser: argparse.ArgumentParser) -> None:
    load = parser.add_argument_group("load")
    load.add_argument("--rate", type=float, metavar="RPS", help="requests/s of an open loop (default 8)")
    load.add_argument("--arrival", choices=("poisson", "constant"), default="poisson", help="arrivals of the open loop")
    load.add_argument("--concurrency", type=int, metavar="N", help="a closed loop with N requests in flight")
    load.add_argument("--input", default="512", metavar="TOKENS", help="prompt length: N or LOW:HIGH (default 512)")
    load.add_argument("--output", default="128", metavar="TOKENS", help="answer length: N or LOW:HIGH (default 128)")
    load.add_argument("--duration", type=float, metavar="S", help="length of the window (default 30, --full 60)")
    load.add_argument("--requests", type=int, metavar="N", help="end the window after N requests instead")
    load.add_argument("--warmup", default="auto", metavar="S", help="seconds before the window, or auto")
    load.add_argument("--slo", action="append", default=[], metavar="ttft_p95=0.5", help="an objective; repeatable")
    load.add_argument("--request-timeout", type=float, default=120.0, metavar="S", help="longest life of one request")
    load.add_argument("--seed", type=int, default=0, help="seed of arrivals, lengths and prompts")


def _add_engine(parser: argparse.ArgumentParser) -> None:
    engine = parser.add_argument_group("engine")
    engine.add_argument("--server", choices=("auto", "vllm", "sim"), default="auto", help="engine to launch")
    engine.add_argument("--url", help="base URL of an engine that runs already; nothing is launched or stopped")
    engine.add_argument("--weights", choices=("real", "random"), default="real", help="random: no download, marked so")
    engine.add_argument("--dtype", help="weight type to ask the engine for")
    engine.add_argument("--tensor-parallel", type=int, metavar="N", help="GPUs to split the model over")
    engine.add_argument("--max-model-len", type=int, metavar="TOKENS", help="context limit for the engine")
    engine.add_argument("--prefix-caching", action="store_true", help="let the engine reuse prompt prefixes")
    engine.add_argument("--engine-arg", action="append", default=[], metavar="ARG", help="passed on as is; repeatable")
    engine.add_argument("--port", type=int, default=0, help="the engine's port (default a free one)")
    engine.add_argument("--start-timeout", type=float, default=600.0, metavar="S", help="longest wait for readiness")


def _add_output(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where run directories go")
    output.add_argument("--json", action="store_true", help="print summary.json instead of the table")
    output.add_argument("--quiet", action="store_true", help="no progress")


def add_profile(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `profile`."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a name (jouletrace models), a directory, a hub id")
    meter = parser.add_argument_group("energy")
    gpus = "auto, nvml, nvml:0,1, nvml:UUID, sim, sim:NAME, simdir:DIR, replay:FILE, rapl, none"
    meter.add_argument("--gpu", default="auto", metavar="METER", help=gpus)
    meter.add_argument("--exporter", metavar="URL", help="a running exporter on this host instead")
    meter.add_argument("--full", action="store_true", help="30 s of idle and a window of 60 s, for numbers to publish")
    meter.add_argument("--idle", type=float, metavar="S", help="length of the idle baseline (default 5, --full 30)")
    _add_load(parser)
    _add_engine(parser)
    _add_output(parser)


def add_exporter(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `exporter`."""
    parser.add_argument("--gpu", default="nvml", metavar="METER", help="nvml, nvml:0,1, nvml:UUID, replay:FILE, rapl")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default loopback)")
    parser.add_argument("--port", type=int, default=EXPORTER_PORT, help=f"port to listen on (default {EXPORTER_PORT})")
    parser.add_argument("--hz", type=float, default=20.0, help="readings a second (default 20)")


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `serve`."""
    parser.add_argument("model", metavar="MODEL", help="a name (jouletrace models)")
    parser.add_argument("--gpu", default="sim:h100-sxm", metavar="sim:NAME", help="the simulated GPU")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default 8000)")
    parser.add_argument("--state", type=Path, metavar="DIR", help="the simulated GPU's state (default a new one)")
    parser.add_argument("--tensor-parallel", type=int, metavar="N", help="GPUs to split the model over")


def add_models(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `models`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    tiny = actions.add_parser("tiny", help="make tiny random-weight models, with the engine's own Python")
    tiny.add_argument("dir", type=Path, metavar="DIR", help="directory to make them in")


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `runs`."""
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="a run directory to show again")
    _add_output(parser)
