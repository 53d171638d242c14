"""The sensors of one NVIDIA GPU: which of them it has is found once, then each is one NVML call a reading.

    energy    nvmlDeviceGetTotalEnergyConsumption                           mJ since the driver was loaded
    power     nvmlDeviceGetFieldValues POWER_INSTANT and POWER_AVERAGE      mW, scope GPU, else scope MODULE
              nvmlDeviceGetPowerUsage where there are no such fields        mW, a mean over up to 1 s: average only
    others    one function each, `SENSORS`

Sources: nvml.h for functions, field ids, scopes and units; what each covers is in zeus's issues 172 and 181.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from profiler.gpu.base import Boundary, Reading
from profiler.gpu.nvml_errors import is_lost, meaning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType

PowerSource = Literal["gpu", "module", "usage"]

# On these the counter covers the whole module, CPU and its memory too, while power may cover the GPU alone.
COUNTER_COVERS_MODULE = ("GH200",)
# The members of nvmlValue_t in the order of nvmlValueType_t.
_VALUE_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


@dataclass(frozen=True, slots=True)
class Sensor:
    """How one column of a `Reading` is asked for: the first of `functions` that the driver answers, times `scale`."""

    column: str
    words: str
    functions: tuple[str, ...]
    scale: float = 1.0
    argument: str | None = None
    member: str | None = None


ENERGY = Sensor("energy_j", "energy counter", ("nvmlDeviceGetTotalEnergyConsumption",), scale=1e-3)
SENSORS = (
    ENERGY,
    Sensor("sm_mhz", "SM clock", ("nvmlDeviceGetClockInfo",), argument="NVML_CLOCK_SM"),
    Sensor("memory_mhz", "memory clock", ("nvmlDeviceGetClockInfo",), argument="NVML_CLOCK_MEM"),
    Sensor("temperature_c", "temperature", ("nvmlDeviceGetTemperature",), argument="NVML_TEMPERATURE_GPU"),
    Sensor("utilization", "utilization", ("nvmlDeviceGetUtilizationRates",), scale=1e-2, member="gpu"),
    Sensor("memory_used_bytes", "memory in use", ("nvmlDeviceGetMemoryInfo",), member="used"),
    Sensor("power_limit_w", "power limit", ("nvmlDeviceGetEnforcedPowerLimit",), scale=1e-3),
    Sensor(
        "event_reasons",
        "clock event reasons",
        # Drivers before 535 know the second name alone.
        ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"),
    ),
)


@dataclass(frozen=True, slots=True)
class Sensors:
    """What answered when the GPU was opened. `power` is None when nothing tells power."""

    found: tuple[Sensor, ...]
    power: PowerSource | None
    absent: tuple[str, ...]

    @property
    def boundary(self) -> Boundary:
        """What the energy covers."""
        return "gpu-module" if self.power == "module" else "gpu-board"


class Device:
    """NVML calls on one handle. What fails is None and leaves its code in `last_code`; only a lost device raises."""

    def __init__(self, binding: ModuleType, handle: Any) -> None:  # noqa: ANN401 - an opaque ctypes pointer
        self._binding = binding
        self._handle = handle
        self.last_code = 0

    def constant(self, name: str) -> int:
        """Return one of NVML's constants."""
        return int(getattr(self._binding, name))

    def ask(self, function: str, *arguments: object) -> Any | None:  # noqa: ANN401 - every function has its own type
        """Return what the function tells, None when it fails.

        Raises:
            NVMLError: the device is lost.
        """
        try:
            return getattr(self._binding, function)(self._handle, *arguments)
        except self._binding.NVMLError as error:
            self.last_code = int(error.value)
            if is_lost(self.last_code):
                raise
            return None

    def value(self, sensor: Sensor) -> float | None:
        """Return a sensor's present value in the unit of its column, by the first of its functions."""
        arguments = () if sensor.argument is None else (self.constant(sensor.argument),)
        told = self.ask(sensor.functions[0], *arguments)
        if told is None:
            return None
        return float(told if sensor.member is None else getattr(told, sensor.member)) * sensor.scale

    def power_w(self, source: PowerSource) -> tuple[float | None, float | None]:
        """Return instantaneous and average power."""
        if source == "usage":
            usage_mw = self.ask("nvmlDeviceGetPowerUsage")
            return None, None if usage_mw is None else usage_mw * 1e-3
        scope = self.constant("NVML_POWER_SCOPE_MODULE" if source == "module" else "NVML_POWER_SCOPE_GPU")
        ids = (self.constant("NVML_FI_DEV_POWER_INSTANT"), self.constant("NVML_FI_DEV_POWER_AVERAGE"))
        values = self.ask("nvmlDeviceGetFieldValues", [(field_id, scope) for field_id in ids])
        instant_mw, average_mw = (None, None) if values is None else map(self._field, values)
        return (
            None if instant_mw is None else instant_mw * 1e-3,
            None if average_mw is None else average_mw * 1e-3,
        )

    def _field(self, value: Any) -> float | None:  # noqa: ANN401 - a ctypes structure
        # The call as a whole succeeds; each value carries a return code of its own.
        if value.nvmlReturn == 0:
            return float(getattr(value.value, _VALUE_MEMBERS[value.valueType]))
        self.last_code = int(value.nvmlReturn)
        if is_lost(self.last_code):
            raise self._binding.NVMLError(self.last_code)
        return None


def find_sensors(device: Device, model: str) -> Sensors:
    """Return the sensors that answer and, for each that does not, a line that names it and says why.

    Raises:
        NVMLError: the device is lost.
    """
    absent: list[str] = []
    power = _find_power(device, absent)
    found = [sensor for sensor in (_answering(device, wanted, absent) for wanted in SENSORS) if sensor is not None]
    if power != "module" and any(name in model for name in COUNTER_COVERS_MODULE):
        found = [sensor for sensor in found if sensor.column != ENERGY.column]
        absent.append(f"{ENERGY.words}: covers the whole module on this model, while power covers the GPU alone")
    return Sensors(tuple(found), power, tuple(absent))


def _answering(device: Device, sensor: Sensor, absent: list[str]) -> Sensor | None:
    for function in sensor.functions:
        narrowed = replace(sensor, functions=(function,))
        if device.value(narrowed) is not None:
            return narrowed
    absent.append(f"{sensor.words}: {meaning(device.last_code).words}")
    return None


def _find_power(device: Device, absent: list[str]) -> PowerSource | None:
    sources: tuple[PowerSource, ...] = ("gpu", "module")
    for source in sources:
        instant_w, average_w = device.power_w(source)
        if instant_w is not None:
            if average_w is None:
                absent.append(f"average power: {meaning(device.last_code).words}")
            return source
    absent.append(f"instantaneous power: {meaning(device.last_code).words}")
    if device.power_w("usage")[1] is not None:
        return "usage"
    absent.append(f"average power: {meaning(device.last_code).words}")
    return None


def read_sensors(device: Device, sensors: Sensors, now_ns: Callable[[], int]) -> Reading | None:
    """Return the present values between two stamps, power and energy first; None when no sensor answered.

    Raises:
        NVMLError: the device is lost.
    """
    before_ns = now_ns()
    instant_w, average_w = (None, None) if sensors.power is None else device.power_w(sensors.power)
    values = {sensor.column: device.value(sensor) for sensor in sensors.found}
    after_ns = now_ns()
    if _all_missing((instant_w, average_w, *values.values())):
        return None
    reasons = values.pop("event_reasons", None)
    return Reading(
        before_ns=before_ns,
        after_ns=after_ns,
        power_w=_or_nan(instant_w),
        power_average_w=_or_nan(average_w),
        event_reasons=-1 if reasons is None else int(reasons),
        **{sensor.column: _or_nan(values.get(sensor.column)) for sensor in SENSORS if sensor.column != "event_reasons"},
    )


def _all_missing(values: Iterable[float | None]) -> bool:
    return all(value is None for value in values)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
