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
from typing import TYPE_CHECKING, Literal

from profiler.gpu.base import Boundary, Reading
from profiler.gpu.nvml_errors import meaning

if TYPE_CHECKING:
    from collections.abc import Callable

    from profiler.gpu.nvml_device import Device

PowerSource = Literal["gpu", "module", "usage"]

# On these the counter covers the whole module, CPU and its memory too, while power may cover the GPU alone.
COUNTER_COVERS_MODULE = ("GH200",)
_POWER_FIELDS = ("NVML_FI_DEV_POWER_INSTANT", "NVML_FI_DEV_POWER_AVERAGE")
_SCOPES = {"gpu": "NVML_POWER_SCOPE_GPU", "module": "NVML_POWER_SCOPE_MODULE"}


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
_FLOATS = tuple(sensor.column for sensor in SENSORS if sensor.column != "event_reasons")


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
        if _value(device, narrowed) is not None:
            return narrowed
    absent.append(f"{sensor.words}: {meaning(device.last_code).words}")
    return None


def _find_power(device: Device, absent: list[str]) -> PowerSource | None:
    sources: tuple[PowerSource, ...] = ("gpu", "module")
    for source in sources:
        instant_w, average_w = _power_w(device, source)
        if instant_w is not None:
            if average_w is None:
                absent.append(f"average power: {meaning(device.last_code).words}")
            return source
    absent.append(f"instantaneous power: {meaning(device.last_code).words}")
    if _power_w(device, "usage")[1] is not None:
        return "usage"
    absent.append(f"average power: {meaning(device.last_code).words}")
    return None


def _value(device: Device, sensor: Sensor) -> float | None:
    arguments = () if sensor.argument is None else (device.constant(sensor.argument),)
    told = device.ask(sensor.functions[0], *arguments)
    if told is None:
        return None
    return float(told if sensor.member is None else getattr(told, sensor.member)) * sensor.scale


def _power_w(device: Device, source: PowerSource) -> tuple[float | None, float | None]:
    """Return instantaneous and average power."""
    if source == "usage":
        return None, _watts(device.ask("nvmlDeviceGetPowerUsage"))
    instant_mw, average_mw = device.fields(_POWER_FIELDS, _SCOPES[source])
    return _watts(instant_mw), _watts(average_mw)


def _watts(power_mw: float | None) -> float | None:
    return None if power_mw is None else power_mw * 1e-3


def read_sensors(device: Device, sensors: Sensors, now_ns: Callable[[], int]) -> Reading | None:
    """Return the present values between two stamps, power and energy first; None when no sensor answered.

    Raises:
        NVMLError: the device is lost.
    """
    before_ns = now_ns()
    instant_w, average_w = (None, None) if sensors.power is None else _power_w(device, sensors.power)
    values = {sensor.column: _value(device, sensor) for sensor in sensors.found}
    after_ns = now_ns()
    if instant_w is None and average_w is None and all(value is None for value in values.values()):
        return None
    reasons = values.pop("event_reasons", None)
    return Reading(
        before_ns=before_ns,
        after_ns=after_ns,
        power_w=_or_nan(instant_w),
        power_average_w=_or_nan(average_w),
        event_reasons=-1 if reasons is None else int(reasons),
        **{column: _or_nan(values.get(column)) for column in _FLOATS},
    )


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
