"""The host's energy counters (RAPL) behind the `Gpu` seam: energy alone, for engines that run on a CPU.

One meter a CPU package, as one a GPU. Its energy is the package's and, where the machine tells it, that of the memory
behind it:

    intel-rapl:0        package-0     counted
    intel-rapl:0:0      core          part of the package, left out
    intel-rapl:0:1      dram          beside the package, counted
    intel-rapl:1        psys          the whole board, packages included, left out

Each counter wraps at its own `max_energy_range_uj` (a few hundred kJ: minutes under load); a meter
unwraps them as long as it is read more often than that. Source: Documentation/power/powercap in the kernel.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.gpu.base import GpuError, GpuInfo, GpuLostError, Reading

if TYPE_CHECKING:
    from collections.abc import Callable

POWERCAP = Path("/sys/class/powercap")


class Counter:
    """One counter that wraps, as a count that does not."""

    def __init__(self, domain: Path, read_text: Callable[[Path], str]) -> None:
        self._file = domain / "energy_uj"
        self._read_text = read_text
        self._range_uj = int(read_text(domain / "max_energy_range_uj"))
        self._last_uj = int(read_text(self._file))
        self._wrapped_uj = 0

    def energy_j(self) -> float:
        """Return the energy since the counter's origin."""
        now_uj = int(self._read_text(self._file))
        if now_uj < self._last_uj:
            self._wrapped_uj += self._range_uj
        self._last_uj = now_uj
        return (self._wrapped_uj + now_uj) * 1e-6


class RaplMeter:
    """One CPU package and its memory."""

    def __init__(self, index: int, name: str, counters: dict[str, Counter]) -> None:
        self._counters = tuple(counters.values())
        self._info = GpuInfo(
            uuid=f"rapl:{name}",
            name=f"CPU {' + '.join(counters)}",
            index=index,
            simulated=False,
            boundary="host",
            absent=(
                "power, clocks, temperature, utilization, memory: RAPL counts energy alone",
                *(() if "dram" in counters else ("memory's energy: this machine has no dram counter",)),
            ),
        )

    @property
    def info(self) -> GpuInfo:
        """What is counted."""
        return self._info

    def read(self) -> Reading:
        """Return the energy; everything else is missing.

        Raises:
            GpuLostError: the counter is no longer there or no longer readable.
        """
        before_ns = time.monotonic_ns()
        try:
            energy_j = sum(counter.energy_j() for counter in self._counters)
        except (OSError, ValueError) as error:
            raise GpuLostError(f"{self._info.name}: the energy counter is gone: {error}", hint=_ALLOW) from error
        return Reading(
            before_ns=before_ns,
            after_ns=time.monotonic_ns(),
            power_w=math.nan,
            power_average_w=math.nan,
            energy_j=energy_j,
            sm_mhz=math.nan,
            memory_mhz=math.nan,
            temperature_c=math.nan,
            utilization=math.nan,
            memory_used_bytes=math.nan,
            power_limit_w=math.nan,
            event_reasons=-1,
        )

    def processes(self) -> None:
        """Return None: every process of the host draws on a package."""
        return

    def close(self) -> None:
        """Do nothing: a counter is a file read anew each time."""


_ALLOW = "run as root, or until the next boot: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"


def open_rapl(root: Path = POWERCAP, read_text: Callable[[Path], str] = Path.read_text) -> list[RaplMeter]:
    """Return a meter for each CPU package.

    Raises:
        GpuError: this machine shows none, or they may be read by root alone.
    """
    try:
        # intel-rapl-mmio:0 is the same package over another bus; AMD's counters carry the intel-rapl name too.
        packages = {path: read_text(path / "name").strip() for path in root.glob("intel-rapl:*")}
        found = [_package(path, name, packages, read_text) for path, name in sorted(packages.items()) if _is_top(name)]
    except PermissionError as error:
        # Readable by all until 2020, when the counters were shown to leak keys (CVE-2020-8694, PLATYPUS).
        raise GpuError("the host's energy counters (RAPL) may be read by root alone", hint=_ALLOW) from error
    except (OSError, ValueError) as error:
        raise GpuError(f"the host's energy counters (RAPL) cannot be read: {error}", hint="see `dmesg`") from error
    if not found:
        raise GpuError(
            f"this machine shows no energy counters (RAPL) under {root}",
            hint="virtual machines mostly have none; on bare metal: modprobe intel_rapl_msr",
        )
    return found


def _is_top(name: str) -> bool:
    return name.startswith("package-")


def _package(path: Path, name: str, domains: dict[Path, str], read_text: Callable[[Path], str]) -> RaplMeter:
    parts = {name: path}
    parts |= {kind: at for at, kind in domains.items() if kind == "dram" and at.name.startswith(f"{path.name}:")}
    index = int(path.name.split(":")[1])
    return RaplMeter(index, name, {part: Counter(at, read_text) for part, at in parts.items()})
