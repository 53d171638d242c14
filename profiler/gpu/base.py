"""The `Gpu` seam: one energy meter, read in one call, with a stamp before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Boundary = Literal["gpu-board", "gpu-module", "host"]

# Bit values of NVML's clocks-event reasons (nvml.h, nvmlClocksEventReason*), the vocabulary of `event_reasons`.
EVENT_REASONS: dict[str, int] = {
    "gpu_idle": 0x1,
    "applications_clocks": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal": 0x20,
    "hw_thermal": 0x40,
    "hw_power_brake": 0x80,
    "display_clocks": 0x100,
}
THROTTLE_REASONS = ("sw_power_cap", "hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake")


class GpuError(Exception):
    """A meter that cannot be opened or used. `hint` says what to do now; `exit_code` is the command line's."""

    def __init__(self, message: str, *, hint: str = "", exit_code: int = 2) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code


class GpuLostError(GpuError):
    """A meter that worked and no longer answers: fell off the bus, driver gone, recording at its end."""


@dataclass(frozen=True, slots=True)
class GpuInfo:
    """What does not change during a run. None is unknown; `absent` says per missing feature why."""

    uuid: str
    name: str
    index: int
    simulated: bool
    boundary: Boundary
    driver: str | None = None
    vbios: str | None = None
    power_limit_w: float | None = None
    power_limit_default_w: float | None = None
    power_limit_min_w: float | None = None
    power_limit_max_w: float | None = None
    sm_clock_max_mhz: int | None = None
    memory_clock_max_mhz: int | None = None
    memory_total_bytes: int | None = None
    mig_enabled: bool | None = None
    persistence_mode: bool | None = None
    ecc_enabled: bool | None = None
    display_active: bool | None = None
    absent: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a meter. Missing floats are NaN, missing `event_reasons` is -1.

    `power_w` is the instantaneous sensor; `power_average_w` the driver's running mean; `energy_j` the hardware
    counter, in joules since an arbitrary origin. The instant of the reading is the middle of the two stamps.
    """

    before_ns: int
    after_ns: int
    power_w: float
    power_average_w: float
    energy_j: float
    sm_mhz: float
    memory_mhz: float
    temperature_c: float
    utilization: float
    memory_used_bytes: float
    power_limit_w: float
    event_reasons: int


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that holds memory on a GPU; `kind` tells computing from drawing on a display."""

    pid: int
    memory_bytes: int | None
    kind: Literal["compute", "graphics"]


class Gpu(Protocol):
    """One meter, bound at opening to one device."""

    @property
    def info(self) -> GpuInfo:
        """What the device is and which sensors it lacks."""
        ...

    def read(self) -> Reading:
        """Return the sensors' present values.

        Raises:
            GpuLostError: the device no longer answers.
        """
        ...

    def processes(self) -> tuple[GpuProcess, ...] | None:
        """Return who holds memory on the device; None when that cannot be told."""
        ...

    def close(self) -> None:
        """Release the device. May be called twice."""
        ...
