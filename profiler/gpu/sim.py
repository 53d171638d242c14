"""Simulated GPUs behind the `Gpu` seam: state directories that the simulated engine draws power on."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, get_args

from profiler.gpu.base import GpuError, GpuInfo, GpuLostError, GpuProcess, Reading
from servers.base import ServerError
from servers.sim.device import DeviceLost, Fault, FaultKind, SimDevice
from servers.sim.sensors import Sensors

if TYPE_CHECKING:
    from pathlib import Path

_FAULT = re.compile(r"(?P<kind>[a-z_]+)(?:@(?P<at>\d+\.?\d*))?(?:=(?P<value>-?\d+\.?\d*))?")


class SimulatedGpu:
    """One simulated device, read through its sensors' defects."""

    def __init__(self, device: SimDevice) -> None:
        self._device = device
        self._sensors = Sensors(device)
        hardware, info = device.hardware, device.info
        self._info = GpuInfo(
            uuid=info.uuid,
            name=f"SIMULATED {info.hardware}",
            index=info.index,
            simulated=True,
            boundary="gpu-board",
            power_limit_w=device.state().power_limit_w,
            power_limit_default_w=hardware.limit_default_w,
            power_limit_min_w=hardware.limit_min_w,
            power_limit_max_w=hardware.limit_max_w,
            sm_clock_max_mhz=hardware.sm_max_mhz,
            memory_clock_max_mhz=hardware.memory_mhz[0],
            memory_total_bytes=hardware.memory_bytes,
            mig_enabled=False,
            display_active=False,
        )

    @property
    def info(self) -> GpuInfo:
        """What the device is."""
        return self._info

    def read(self) -> Reading:
        """Return the sensors' present values.

        Raises:
            GpuLostError: a fault took the device off its bus.
        """
        before_ns = time.monotonic_ns()
        try:
            seen = self._sensors.read(before_ns)
        except DeviceLost as error:
            raise GpuLostError(str(error), hint="a simulated fault; start again") from error
        except OSError as error:
            raise GpuLostError(f"the simulated device is gone: {error}", hint="start again") from error
        return Reading(
            before_ns=before_ns,
            after_ns=time.monotonic_ns(),
            power_w=seen.instant_w,
            power_average_w=seen.average_w,
            energy_j=seen.energy_j,
            sm_mhz=seen.sm_mhz,
            memory_mhz=seen.memory_mhz,
            temperature_c=seen.temperature_c,
            utilization=seen.utilization,
            memory_used_bytes=seen.memory_used_bytes,
            power_limit_w=seen.power_limit_w,
            event_reasons=seen.event_reasons,
        )

    def processes(self) -> tuple[GpuProcess, ...]:
        """Return the engines that hold the device."""
        return tuple(GpuProcess(h.pid, h.memory_bytes, "compute") for h in self._device.holders())

    def close(self) -> None:
        """Do nothing: the state directory outlives its readers."""


def open_simulated(state: Path) -> list[SimulatedGpu]:
    """Return every simulated GPU whose state lies under `state`.

    Raises:
        GpuError: there is none.
    """
    try:
        found = [SimulatedGpu(device) for device in SimDevice.open_all(state)]
    except (ServerError, OSError, ValueError) as error:
        raise GpuError(f"cannot read the simulated GPU in {state}: {error}", hint="make it anew") from error
    if not found:
        raise GpuError(f"there is no simulated GPU in {state}", hint="name the directory that holds its state")
    return found


def parse_fault(text: str) -> Fault:
    """Return the fault that `text` names, KIND[@SECONDS][=VALUE], e.g. lost@10 or gain=0.05.

    Raises:
        GpuError: there is no such fault.
    """
    match = _FAULT.fullmatch(text)
    if match is None or match["kind"] not in get_args(FaultKind):
        raise GpuError(
            f"no fault of a simulated GPU is called {text!r}; known: {', '.join(get_args(FaultKind))}",
            hint="write sim:NAME,KIND[@SECONDS][=VALUE], e.g. sim:h100-sxm,lost@10",
        )
    value = float(match["value"]) if match["value"] else None
    return Fault(match["kind"], float(match["at"] or 0.0), value)  # type: ignore[arg-type]  # checked above
