"""`manifest.json` as types: what was run, where, on what, and how far it got."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from typing import Literal

import psutil
from pydantic import BaseModel, ConfigDict, Field

from profiler.config import ProfileConfig
from profiler.gpu.base import GpuInfo
from profiler.join import Timeline
from servers.base import Endpoint

SCHEMA_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Owner(_Part):
    """The process that writes the run; a running state outlives it no longer than it lives."""

    pid: int
    start_time: float


class ClockPart(_Part):
    """The instant of second 0 on both clocks."""

    monotonic_ns: int
    wall_ns: int


class HostPart(_Part):
    """The machine that drove the run."""

    system: str
    machine: str
    cpus: int
    memory_bytes: int
    python: str


class Manifest(_Part):
    """Everything about a run but its rows and its results."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    jouletrace_version: str
    state: Literal["running", "complete", "failed"] = "running"
    failure: str | None = Field(default=None, description="why it failed, one line")
    owner: Owner
    clock: ClockPart
    host: HostPart
    config: ProfileConfig
    simulated: bool
    model: str
    weights: Literal["real", "random"]
    no_gpu_why: str | None = Field(default=None, description="why there is no NVIDIA GPU, where there is none")
    no_energy_why: str | None = Field(default=None, description="why no energy was measured, where it was not")
    server: Endpoint | None = None
    server_start_s: float | None = Field(default=None, description="time from launch to the first completion, s")
    gpus: tuple[GpuInfo, ...] = ()
    foreign_pids: dict[str, tuple[int, ...] | None] = Field(
        default_factory=dict, description="per GPU uuid, processes not the engine's; null where it cannot be told"
    )
    plan_hash: str | None = None
    timeline: Timeline


def this_owner() -> Owner:
    """Return this process."""
    return Owner(pid=os.getpid(), start_time=psutil.Process().create_time())


def this_host() -> HostPart:
    """Return this machine."""
    return HostPart(
        system=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        cpus=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        python=platform.python_version(),
    )


def clock_now() -> ClockPart:
    """Return this instant on both clocks, read together."""
    return ClockPart(monotonic_ns=time.monotonic_ns(), wall_ns=time.time_ns())


def jouletrace_version() -> str:
    """Return the version of the installed package."""
    return version("jouletrace")
