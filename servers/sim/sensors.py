"""What a device's sensors show of its true power, with the defects of the real ones.

    true power  ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~
    publication      |         |         |         |         every 100 ms, at the device's own phase
    instant        [--]      [--]      [--]      [--]        mean of the 25 ms before it
    average    [-------]  ... 1 s before it (0.1 s where the part's is short)
    counter    the exact integral up to it, in whole millijoules

Sources: arXiv 2312.02741 for the 25-of-100 ms sampling, NVML's documentation for the 1 s mean.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from servers.sim.device import DeviceLost
from servers.sim.powerlog import ForgottenError, PowerLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from servers.sim.device import DeviceInfo, Fault, SimDevice

PERIOD_NS = 100_000_000
_BOXCAR_NS = 25_000_000
_UTILIZATION_NS = 1_000_000_000
# No window looks back further than this.
_KEEP_NS = 3_000_000_000

_AMBIENT_C = 30.0
_THERMAL_TAU_S = 30.0
_FORGOTTEN_S = 6 * _THERMAL_TAU_S
# An H100 at its 700 W limit settles near 72 C; others are taken to be cooled as well for their own limit.
_RISE_AT_LIMIT_C = 42.0


@dataclass(frozen=True, slots=True)
class SensorReading:
    """What the sensors show; NaN is a missing sensor. `published_ns` is when power and energy were last refreshed."""

    published_ns: int
    instant_w: float
    average_w: float
    energy_j: float
    sm_mhz: int
    memory_mhz: int
    temperature_c: float
    utilization: float
    memory_used_bytes: int
    power_limit_w: float
    event_reasons: int


@dataclass(frozen=True, slots=True)
class _Published:
    """Power and energy as of one publication."""

    instant_ns: int
    instant_w: float
    average_w: float
    energy_j: float


class Sensors:
    """Reads one device. A reading costs a look at what was appended since the last."""

    def __init__(self, device: SimDevice, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._device = device
        self._sleep = sleep
        self._log = PowerLog(device)
        self._published: _Published | None = None
        self._long_past: dict[int, float] = {}
        self._thermal = _Thermal(device, self._log)

    def read(self, now_ns: int) -> SensorReading:
        """Return what the sensors show at `now_ns`, which may not be before the reading before.

        Raises:
            DeviceLost: the device no longer answers.
        """
        device = self._device
        slow = device.fault("slow", now_ns)
        if slow is not None:
            self._sleep(slow.value or 0.0)
        if device.fault("lost", now_ns) is not None:
            raise DeviceLost(f"{device.info.uuid} is lost")
        self._log.refresh()
        published = self._publication(now_ns)
        celsius = self._thermal.read(now_ns)
        self._log.forget(now_ns - _KEEP_NS)
        sm_mhz, reasons = self._log.clock_at(now_ns)
        dark = device.fault("power_missing", now_ns) is not None
        uncounted = device.fault("counter_missing", now_ns) is not None
        busy_s = np.diff(self._log.busy_s(np.array([now_ns - _UTILIZATION_NS, now_ns])))[0]
        return SensorReading(
            published_ns=published.instant_ns,
            instant_w=math.nan if dark else published.instant_w,
            average_w=math.nan if dark else published.average_w,
            energy_j=math.nan if uncounted else published.energy_j,
            sm_mhz=sm_mhz,
            memory_mhz=device.operating_point(now_ns).memory_mhz,
            temperature_c=celsius,
            utilization=min(1.0, float(busy_s)),
            memory_used_bytes=sum(holder.memory_bytes for holder in device.holders()),
            power_limit_w=device.state().power_limit_w,
            event_reasons=reasons,
        )

    def _publication(self, now_ns: int) -> _Published:
        """Return the last publication. What was once published stays, though late records may tell otherwise."""
        instant_ns = last_publication_ns(self._device.info, now_ns)
        if self._published is None or instant_ns > self._published.instant_ns:
            self._published = self._measure(instant_ns)
        return self._published

    def _measure(self, instant_ns: int) -> _Published:
        log, gain = self._log, 1.0 + self._device.info.gain
        if (wrong := self._device.fault("gain", instant_ns)) is not None:
            gain = 1.0 + (wrong.value or 0.0)
        window_ns = round(self._device.hardware.average_window_s * 1e9)
        return _Published(
            instant_ns,
            instant_w=gain * log.mean_power_w(instant_ns - _BOXCAR_NS, instant_ns),
            average_w=gain * log.mean_power_w(instant_ns - window_ns, instant_ns),
            energy_j=self._counter_j(instant_ns),
        )

    def _counter_j(self, instant_ns: int) -> float:
        """Return the counter: the integral since the epoch, or as a fault would have it, in whole millijoules."""
        device = self._device
        stuck = device.fault("counter_stuck", instant_ns)
        if stuck is not None:
            instant_ns = last_publication_ns(device.info, _begin_ns(device.info, stuck))
        counted_j = self._counted_j(instant_ns)
        reset = device.fault("counter_reset", instant_ns)
        if reset is not None:
            counted_j -= self._counted_j(_begin_ns(device.info, reset))
        elif self._published is not None:
            # A step that was recorded late changes the last milliseconds' integral; a counter does not run backwards.
            counted_j = max(counted_j, self._published.energy_j)
        return math.floor(counted_j * 1e3 + 1e-6) / 1e3

    def _counted_j(self, t_ns: int) -> float:
        """Return what the meter has counted at any instant: the integral, with the gain of the time."""
        info = self._device.info
        wrong = self._device.fault("gain", t_ns)
        true_j = self._true_j(t_ns)
        counted_j = (1.0 + info.gain) * true_j
        if wrong is None:
            return counted_j
        return counted_j + ((wrong.value or 0.0) - info.gain) * (true_j - self._true_j(_begin_ns(info, wrong)))

    def _true_j(self, t_ns: int) -> float:
        """Return the integral to any instant; one that the short memory has forgotten is read from the whole log."""
        if t_ns <= self._device.info.epoch_ns:
            return 0.0
        if t_ns in self._long_past:
            return self._long_past[t_ns]
        try:
            return float(self._log.energy_j(t_ns)[0])
        except ForgottenError:
            whole = PowerLog(self._device)
            whole.refresh()
            self._long_past[t_ns] = float(whole.energy_j(t_ns)[0])
            return self._long_past[t_ns]


def last_publication_ns(info: DeviceInfo, now_ns: int) -> int:
    """Return the last instant, not after `now_ns`, at which the device refreshed its sensors."""
    since = now_ns - info.epoch_ns - info.phase_ns
    return info.epoch_ns + info.phase_ns + since // PERIOD_NS * PERIOD_NS


def _begin_ns(info: DeviceInfo, fault: Fault) -> int:
    return info.epoch_ns + round(fault.at_s * 1e9)


class _Thermal:
    """First-order heating: the temperature follows power with one time constant."""

    def __init__(self, device: SimDevice, log: PowerLog) -> None:
        self._device = device
        self._log = log
        self._kelvin_per_watt = _RISE_AT_LIMIT_C / device.hardware.limit_default_w
        self._then_ns = device.info.epoch_ns
        self._celsius = self._settled(device.hardware.idle_w)

    def _settled(self, watts: float) -> float:
        return _AMBIENT_C + self._kelvin_per_watt * watts

    def read(self, now_ns: int) -> float:
        """Return the temperature, advanced from the last reading in pieces of at most a second of mean power."""
        elapsed_s = (now_ns - self._then_ns) * 1e-9
        if elapsed_s > _FORGOTTEN_S:
            self._then_ns, elapsed_s = now_ns - round(_FORGOTTEN_S * 1e9), _FORGOTTEN_S
        if elapsed_s <= 0:
            return self._celsius
        edges = np.linspace(self._then_ns, now_ns, math.ceil(elapsed_s) + 1).astype(np.int64)
        seconds = np.diff(edges) * 1e-9
        for watts, length_s in zip(np.diff(self._energy_j(edges)) / seconds, seconds, strict=True):
            self._celsius += float(self._settled(watts) - self._celsius) * -math.expm1(-length_s / _THERMAL_TAU_S)
        self._then_ns = now_ns
        return self._celsius

    def _energy_j(self, edges: NDArray[np.int64]) -> NDArray[np.float64]:
        try:
            return self._log.energy_j(edges)
        except ForgottenError:  # after a pause between readings
            whole = PowerLog(self._device)
            whole.refresh()
            return whole.energy_j(edges)
