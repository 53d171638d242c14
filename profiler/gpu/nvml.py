"""NVIDIA GPUs through NVML. The only module that imports the binding; the rest of `profiler.gpu` gets it passed in.

NVML counts its users: every opened GPU holds one reference, given back by `close`.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pynvml

from profiler.gpu.base import GpuError, GpuInfo, GpuLostError, GpuProcess, Reading
from profiler.gpu.machine import sees_host_pids
from profiler.gpu.nvml_device import Device, describe
from profiler.gpu.nvml_errors import INVALID_ARGUMENT, NO_PERMISSION, NOT_FOUND, gpu_error
from profiler.gpu.nvml_sensors import find_sensors, read_sensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType
    from typing import Literal


class NvmlGpu:
    """One GPU. Its sensors are found at opening; a reading asks those alone. Safe to use from several threads."""

    def __init__(self, binding: ModuleType, handle: Any, host_pids: bool) -> None:  # noqa: ANN401 - a ctypes pointer
        """Open the device behind `handle`, keeping one reference to NVML.

        Raises:
            GpuLostError: it does not answer.
        """
        self._binding = binding
        self._device = Device(binding, handle)
        self._host_pids = host_pids
        self._open = False
        with _told_as_gpu_error(binding, "opening the GPU"):
            name = self._device.ask("nvmlDeviceGetName") or "NVIDIA GPU"
            self._sensors = find_sensors(self._device, name)
            self._info = describe(self._device, name, self._sensors.boundary, self._sensors.absent)
            binding.nvmlInit()
            self._open = True

    @property
    def info(self) -> GpuInfo:
        """What the device is and which sensors it lacks."""
        return self._info

    def read(self) -> Reading:
        """Return the sensors' present values, NaN for each that does not answer now.

        Raises:
            GpuLostError: the device is lost, or none of its sensors answers.
        """
        with _told_as_gpu_error(self._binding, self._called()):
            reading = read_sensors(self._device, self._sensors, time.monotonic_ns)
        if reading is None:
            raise GpuLostError(f"{self._called()}: none of its sensors answers", hint="see `dmesg | grep -i nvrm`")
        return reading

    def processes(self) -> tuple[GpuProcess, ...] | None:
        """Return who holds memory on the GPU, a process once; None where ids cannot be told or matched to ours."""
        if not self._host_pids:
            return None
        found: dict[int, GpuProcess] = {}
        kinds: tuple[Literal["graphics", "compute"], ...] = ("graphics", "compute")
        for kind in kinds:
            try:
                rows = self._device.ask(f"nvmlDeviceGet{kind.capitalize()}RunningProcesses")
            except (self._binding.NVMLError, self._binding.NVMLLibraryMismatchError):
                return None
            if rows is None:
                return None
            found |= {row.pid: GpuProcess(row.pid, row.usedGpuMemory, kind) for row in rows}
        return tuple(found.values())

    def close(self) -> None:
        """Give the reference to NVML back."""
        if self._open:
            self._open = False
            self._binding.nvmlShutdown()

    def _called(self) -> str:
        return f"GPU {self._info.index} ({self._info.name})"


def open_gpus(
    select: Sequence[str] = (), binding: ModuleType | None = None, *, host_pids: bool | None = None
) -> list[NvmlGpu]:
    """Open the GPUs named by index or UUID in the order given, or every one that this user may use.

    `binding` is what offers NVML's functions, by default the official one. `host_pids` says whether process ids here
    are the host's; by default that is looked up.

    Raises:
        GpuError: NVML does not work, there is no GPU, or not one that was named; GpuLostError: one does not answer.
    """
    binding = binding or pynvml
    with _told_as_gpu_error(binding, "NVML"):
        binding.nvmlInit()
    opened: list[NvmlGpu] = []
    matched = sees_host_pids() if host_pids is None else host_pids
    try:
        for handle in _named(binding, select) if select else _permitted(binding):
            opened.append(NvmlGpu(binding, handle, matched))  # noqa: PERF401 - those opened are closed on an error
    except GpuError:
        for gpu in opened:
            gpu.close()
        raise
    finally:
        binding.nvmlShutdown()
    if not opened:
        raise GpuError("the NVIDIA driver tells no GPU that this user may use", hint="see `nvidia-smi -L`")
    return opened


def _permitted(binding: ModuleType) -> Iterator[Any]:
    """Yield every GPU's handle but those of others: NVML counts GPUs that a container or a batch job may not use."""
    with _told_as_gpu_error(binding, "counting GPUs"):
        count = binding.nvmlDeviceGetCount()
    for index in range(count):
        try:
            handle = binding.nvmlDeviceGetHandleByIndex(index)
        except binding.NVMLError as error:
            if error.value != NO_PERMISSION:
                raise gpu_error(error.value, f"GPU {index}") from error
            continue
        yield handle


def _named(binding: ModuleType, select: Sequence[str]) -> Iterator[Any]:
    for name in select:
        if name.startswith("MIG-"):
            raise GpuError(f"{name} is a MIG instance", hint="power is told for a whole GPU only; name that")
        by_index = name.isdigit()
        find = binding.nvmlDeviceGetHandleByIndex if by_index else binding.nvmlDeviceGetHandleByUUID
        try:
            handle = find(int(name) if by_index else name)
        except binding.NVMLError as error:
            if error.value in (INVALID_ARGUMENT, NOT_FOUND):
                raise GpuError(f"there is no GPU {name}", hint="`nvidia-smi -L` lists them") from error
            raise gpu_error(error.value, f"GPU {name}") from error
        yield handle


@contextmanager
def _told_as_gpu_error(binding: ModuleType, what: str) -> Iterator[None]:
    try:
        yield
    except binding.NVMLError as error:
        raise gpu_error(error.value, what) from error
