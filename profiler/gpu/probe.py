"""Looks for NVIDIA GPUs and, where there is none to use, says why and what to do about it in one line."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.gpu import machine, nvml
from profiler.gpu.base import GpuError
from profiler.gpu.nvml_errors import DriverMissingError, LibraryMissingError

if TYPE_CHECKING:
    from types import ModuleType

    from profiler.gpu.base import GpuProcess

_START_WITH_GPUS = "start it with `docker run --gpus all`, which needs the NVIDIA container toolkit on the host"


@dataclass(frozen=True, slots=True)
class FoundGpu:
    """A GPU as it is now. `processes` is None when they cannot be told. GPUs that share the host's memory tell that."""

    uuid: str
    index: int
    name: str
    memory_free_bytes: int
    memory_total_bytes: int
    processes: tuple[GpuProcess, ...] | None


@dataclass(frozen=True, slots=True)
class NvmlProbe:
    """The GPUs found, or the reason why there is none."""

    gpus: tuple[FoundGpu, ...]
    reason: str | None


def find_nvidia(binding: ModuleType | None = None, root: Path = Path("/"), platform: str = sys.platform) -> NvmlProbe:
    """Return the NVIDIA GPUs that NVML tells; the file system under `root` explains their absence."""
    try:
        gpus = nvml.open_gpus((), binding, host_pids=machine.sees_host_pids(root))
    except GpuError as error:
        return NvmlProbe((), why_none(error, root, platform))
    try:
        found = tuple(_found(gpu, root) for gpu in gpus)
    except GpuError as error:
        return NvmlProbe((), _line(error))
    finally:
        for gpu in gpus:
            gpu.close()
    return NvmlProbe(found, None)


def _found(gpu: nvml.NvmlGpu, root: Path) -> FoundGpu:
    used, total = gpu.read().memory_used_bytes, gpu.info.memory_total_bytes
    if math.isnan(used) or total is None:
        free, total = machine.memory_bytes(root)
    else:
        free = total - int(used)
    info = gpu.info
    return FoundGpu(info.uuid, info.index, info.name, free, total, gpu.processes())


def why_none(error: GpuError, root: Path, platform: str) -> str:
    """Return why no NVIDIA GPU can be used: NVML's own `error` where it is more than absence, else what root shows."""
    if platform == "darwin":
        return "macOS has no NVIDIA GPUs"
    if not isinstance(error, (LibraryMissingError, DriverMissingError)):
        return _line(error)
    if machine.in_wsl(root):
        return "WSL shows no NVIDIA GPU: install the NVIDIA driver in Windows, not here, then `wsl --shutdown`"
    return _none_in_container(root) if machine.in_container(root) else _none_on_host(error, root)


def _none_in_container(root: Path) -> str:
    # The host's PCI bus and, in most runtimes, its /proc/driver/nvidia are seen in a container too.
    if machine.driver_version(root) is not None or machine.pci_gpus(root):
        return f"the host has an NVIDIA GPU but this container was started without it: {_START_WITH_GPUS}"
    return f"this container sees no NVIDIA GPU: if its host has one, {_START_WITH_GPUS}"


def _none_on_host(error: GpuError, root: Path) -> str:
    driver, on_bus = machine.driver_version(root), machine.pci_gpus(root)
    if driver is not None:
        return f"NVIDIA driver {driver} is loaded but {error}: install its libraries (nvidia-utils)"
    if on_bus:
        return f"an NVIDIA GPU is on the PCI bus ({on_bus[0]}) but no driver is loaded: install the NVIDIA driver"
    return "this machine has no NVIDIA GPU"


def _line(error: GpuError) -> str:
    return f"{error}: {error.hint}" if error.hint else str(error)
