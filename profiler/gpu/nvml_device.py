"""NVML calls on one device: what fails is None and its reason is kept; and what of a device does not change.

Sources: nvml.h, and the binding for how it wraps it (lists for pairs, ctypes structures, `str` or `bytes` by version).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from profiler.gpu.base import GpuInfo
from profiler.gpu.nvml_errors import NOT_SUPPORTED, gpu_error, is_lost, meaning

if TYPE_CHECKING:
    from types import ModuleType

    from profiler.gpu.base import Boundary

# The members of nvmlValue_t in the order of nvmlValueType_t.
_VALUE_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


class Device:
    """One handle. `last_code` is the return code of the latest call or value that failed."""

    def __init__(self, binding: ModuleType, handle: Any) -> None:  # noqa: ANN401 - an opaque ctypes pointer
        self._binding = binding
        self._handle = handle
        self.last_code = 0

    def constant(self, name: str) -> int:
        """Return one of NVML's constants."""
        return int(getattr(self._binding, name))

    def ask(self, function: str, *arguments: object) -> Any | None:  # noqa: ANN401 - every function has its own type
        """Return what the function tells of the device, None when it fails.

        Raises:
            NVMLError: the device is lost.
        """
        return self._call(function, self._handle, *arguments)

    def ask_system(self, function: str) -> Any | None:  # noqa: ANN401 - as above
        """Return what a function of the system tells, None when it fails."""
        return self._call(function)

    def _call(self, function: str, *arguments: object) -> Any | None:  # noqa: ANN401 - as above
        try:
            told = getattr(self._binding, function)(*arguments)
        except self._binding.NVMLError as error:
            self._note(int(error.value))
            return None
        return told.decode() if isinstance(told, bytes) else told

    def fields(self, names: tuple[str, ...], scope: str) -> list[float | None]:
        """Return the values of field ids in one scope, from one call; None for each that fails.

        Raises:
            NVMLError: the device is lost.
        """
        wanted = [(self.constant(name), self.constant(scope)) for name in names]
        values = self.ask("nvmlDeviceGetFieldValues", wanted)
        return [None] * len(names) if values is None else [self._field(value) for value in values]

    def _field(self, value: Any) -> float | None:  # noqa: ANN401 - a ctypes structure
        # The call as a whole succeeds; each value carries a return code of its own.
        if value.nvmlReturn == 0:
            return float(getattr(value.value, _VALUE_MEMBERS[value.valueType]))
        self._note(int(value.nvmlReturn))
        return None

    def _note(self, code: int) -> None:
        self.last_code = code
        if is_lost(code):
            raise self._binding.NVMLError(code)


def describe(device: Device, name: str, boundary: Boundary, absent: tuple[str, ...]) -> GpuInfo:
    """Return what does not change; `absent` is the sensors', to which it adds what else cannot be told.

    Raises:
        NVMLError: the device is lost.
        GpuError: it does not tell its UUID, by which everything here is bound.
    """
    missing = list(absent)

    def ask(words: str, function: str, *arguments: object) -> Any | None:  # noqa: ANN401 - as `Device.ask`
        told = device.ask(function, *arguments)
        if told is None:
            missing.append(f"{words}: {meaning(device.last_code).words}")
        return told

    uuid = device.ask("nvmlDeviceGetUUID")
    if uuid is None:
        raise gpu_error(device.last_code, f"asking {name} for its UUID")
    clocks = (device.constant("NVML_CLOCK_SM"), device.constant("NVML_CLOCK_MEM"))
    lowest_mw, highest_mw = (
        ask("limits of the power limit", "nvmlDeviceGetPowerManagementLimitConstraints") or (None,) * 2
    )
    memory = device.ask("nvmlDeviceGetMemoryInfo")
    return GpuInfo(
        uuid=uuid,
        name=name,
        index=ask("index", "nvmlDeviceGetIndex") or 0,
        simulated=False,
        boundary=boundary,
        driver=device.ask_system("nvmlSystemGetDriverVersion"),
        vbios=ask("VBIOS version", "nvmlDeviceGetVbiosVersion"),
        power_limit_w=_watts(ask("power limit as set", "nvmlDeviceGetPowerManagementLimit")),
        power_limit_default_w=_watts(ask("default power limit", "nvmlDeviceGetPowerManagementDefaultLimit")),
        power_limit_min_w=_watts(lowest_mw),
        power_limit_max_w=_watts(highest_mw),
        sm_clock_max_mhz=ask("highest SM clock", "nvmlDeviceGetMaxClockInfo", clocks[0]),
        memory_clock_max_mhz=ask("highest memory clock", "nvmlDeviceGetMaxClockInfo", clocks[1]),
        memory_total_bytes=None if memory is None else int(memory.total),
        mig_enabled=_mig(device),
        persistence_mode=_flag(ask("persistence mode", "nvmlDeviceGetPersistenceMode")),
        ecc_enabled=_flag(ask("ECC mode", "nvmlDeviceGetEccMode")),
        display_active=_flag(ask("whether a display is attached", "nvmlDeviceGetDisplayActive")),
        absent=tuple(missing),
    )


def _mig(device: Device) -> bool | None:
    """Return whether MIG is on; a GPU that does not know MIG has it off."""
    mode = _flag(device.ask("nvmlDeviceGetMigMode"))
    return False if mode is None and device.last_code == NOT_SUPPORTED else mode


def _flag(told: int | list[int] | None) -> bool | None:
    """Return a mode as a claim; of the pair (current, after the next reset) the current one."""
    current = told[0] if isinstance(told, list) else told
    return None if current is None else bool(current)


def _watts(power_mw: int | None) -> float | None:
    return None if power_mw is None else power_mw * 1e-3
