"""The state directory and the sensors: what was set, what is broken, and each defect of the real sensors."""

from __future__ import annotations

import math
import os
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from servers.base import ServerError
from servers.sim.device import (
    DeviceInfo,
    DeviceLost,
    DevicePermissionError,
    DeviceValueError,
    FaultKind,
    SimDevice,
)
from servers.sim.powerlog import POWER_FORMAT, ForgottenError, PowerLog
from servers.sim.sensors import SensorReading, Sensors, last_publication_ns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SECOND = 1_000_000_000
MS = 1_000_000


@pytest.fixture
def device(tmp_path: Path) -> SimDevice:
    """A bare H100 at 75 W."""
    return SimDevice.create(tmp_path, "h100-sxm", seed=1)


def draw(device: SimDevice, pieces: Sequence[tuple[float, float, int]]) -> None:
    """Append (start after the epoch in s, watts, event bits); each is held until the next, the last one for 1 s."""
    with (device.directory / "power.bin").open("ab") as file:
        for start_s, watts, reasons in pieces:
            start_ns = device.info.epoch_ns + round(start_s * SECOND)
            file.write(struct.pack(POWER_FORMAT, start_ns, 1000 * SECOND, watts, 110.0, 1980, reasons))
    end_s = pieces[-1][0] + 1.0
    with (device.directory / "power.bin").open("ab") as file:
        file.write(struct.pack(POWER_FORMAT, device.info.epoch_ns + round(end_s * SECOND), 0, 75.0, 75.0, 345, 1))


def at(device: SimDevice, seconds: float) -> int:
    """The instant `seconds` after the device's epoch."""
    return device.info.epoch_ns + round(seconds * SECOND)


def published(device: SimDevice, seconds: float) -> float:
    """When, in seconds after the epoch, the sensors that are read at `seconds` were refreshed."""
    return (last_publication_ns(device.info, at(device, seconds)) - device.info.epoch_ns) / SECOND


def test_what_is_set_reads_back_in_another_object(device: SimDevice) -> None:
    """Locks land on the device's grid, and every process sees them."""
    assert device.lock_sm_clock(1000, 0) == 990
    device.lock_memory_clock(2619, 0)
    device.set_power_limit(450, 0)
    other = SimDevice.open(device.directory.parent).state()
    assert (other.sm_lock_mhz, other.memory_lock_mhz, other.power_limit_w) == (990, 2619, 450.0)
    device.lock_sm_clock(None, 0)
    assert device.state().sm_lock_mhz is None


def test_values_beyond_the_hardware_are_refused(device: SimDevice) -> None:
    """Clocks and limits outside the device's range change nothing and say what the range is."""
    before = device.state()
    with pytest.raises(DeviceValueError, match="345 to 1980"):
        device.lock_sm_clock(2000, 0)
    with pytest.raises(DeviceValueError, match="200 to 700"):
        device.set_power_limit(100, 0)
    with pytest.raises(DeviceValueError, match="2619"):
        device.lock_memory_clock(1593, 0)
    assert device.state() == before


def test_a_device_is_made_once_and_found_again(tmp_path: Path) -> None:
    """Identity comes from the seed and index, is marked as simulated, and a second device of that place is refused."""
    made = [SimDevice.create(tmp_path, "h200-sxm", index, seed=5) for index in (0, 1)]
    assert [found.info for found in SimDevice.open_all(tmp_path)] == [one.info for one in made]
    assert made[0].info.uuid != made[1].info.uuid
    assert all(one.info.uuid.startswith("SIM-GPU-") for one in made)
    with pytest.raises(FileExistsError):
        SimDevice.create(tmp_path, "h200-sxm", 0)
    with pytest.raises(ServerError, match="no simulated GPU"):
        SimDevice.open(tmp_path, 7)


def test_holders_are_the_living_processes(device: SimDevice) -> None:
    """A process that holds memory is listed until it releases it or dies."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    device.hold(gone.pid, 10)
    device.hold(os.getpid(), 20)
    assert [(holder.pid, holder.memory_bytes) for holder in device.holders()] == [(os.getpid(), 20)]
    device.release(os.getpid())
    assert device.holders() == ()


def test_the_integral_is_exact_between_and_beyond_records(device: SimDevice) -> None:
    """Energy is watts times time within records, and bare idle before the first and after the last one's hold."""
    draw(device, [(1.0, 500.0, 0), (2.0, 300.0, 0)])
    log = PowerLog(device)
    log.refresh()
    energy_j = log.energy_j(np.array([at(device, s) for s in (0.0, 1.0, 1.5, 2.25, 3.0, 5.0)]))
    assert energy_j == pytest.approx([0.0, 75.0, 325.0, 650.0, 875.0, 1025.0])
    assert log.idle_energy_j(at(device, 5.0))[0] == pytest.approx(75 + 2 * 110 + 2 * 75)
    assert log.busy_s(at(device, 5.0))[0] == pytest.approx(2.0)


def test_power_ends_with_its_hold_where_nobody_goes_on(device: SimDevice) -> None:
    """A writer that dies leaves its last power for as long as it promised, and bare idle from then on."""
    path = device.directory / "power.bin"
    path.write_bytes(struct.pack(POWER_FORMAT, at(device, 1.0), SECOND // 2, 600.0, 110.0, 1980, 0))
    log = PowerLog(device)
    log.refresh()
    assert log.mean_power_w(at(device, 1.0), at(device, 1.5)) == pytest.approx(600.0)
    assert log.mean_power_w(at(device, 1.5), at(device, 9.0)) == pytest.approx(75.0)
    assert (log.clock_at(at(device, 1.4)), log.clock_at(at(device, 1.5))) == ((1980, 0), (345, 1))
    with path.open("ab") as file:
        file.write(struct.pack(POWER_FORMAT, at(device, 5.0), SECOND, 110.0, 110.0, 1980, 1))
    log.refresh()
    assert log.energy_j(at(device, 6.0))[0] == pytest.approx(75 + 300 + 3.5 * 75 + 110)


def test_a_log_read_as_it_grows_equals_one_read_whole(device: SimDevice) -> None:
    """Reading after every few bytes, even in the middle of a record, and forgetting, changes no integral."""
    draw(device, [(0.1 * n, 100.0 + n, 0) for n in range(50)])
    path = device.directory / "power.bin"
    data = path.read_bytes()
    whole = PowerLog(device)
    whole.refresh()
    path.write_bytes(b"")
    growing = PowerLog(device)
    for end in range(0, len(data) + 1, 7):
        path.write_bytes(data[:end])
        growing.refresh()
        growing.forget(int(growing.records["start_ns"][-1]) - SECOND)
    path.write_bytes(data)
    growing.refresh()
    instants = np.array([at(device, s) for s in (4.8, 5.05, 7.0)])
    assert growing.energy_j(instants) == pytest.approx(whole.energy_j(instants), rel=1e-12)
    with pytest.raises(ForgottenError):
        growing.energy_j(at(device, 0.2))


def test_the_counter_is_a_staircase_of_the_integral(device: SimDevice) -> None:
    """The counter changes every 100 ms at the device's phase, and shows the integral at that publication, to 1 mJ."""
    draw(device, [(0.0, 500.0, 0)])
    sensors = Sensors(device)
    seen = [(s, sensors.read(at(device, s)).energy_j) for s in np.arange(0.2, 0.9, 0.01)]
    for s, energy_j in seen:
        assert energy_j == pytest.approx(500.0 * published(device, s), abs=1.1e-3)
    steps = np.diff([energy_j for _, energy_j in seen])
    assert set(np.round(steps[steps > 0], 1)) == {50.0}
    assert len(steps[steps > 0]) in (6, 7)


def test_instant_power_is_a_25_ms_mean_and_average_power_a_second_s(device: SimDevice) -> None:
    """After a jump from 100 to 500 W the instant reading is there in 25 ms, the average by its share of the second."""
    jump_s = published(device, 2.0) - 0.010
    draw(device, [(0.0, 100.0, 0), (jump_s, 500.0, 0)])
    sensors = Sensors(device)
    at_jump, later = sensors.read(at(device, 2.0)), sensors.read(at(device, 2.3))
    assert at_jump.instant_w == pytest.approx(100 + 400 * 10 / 25)
    assert at_jump.average_w == pytest.approx(100 + 400 * 0.010)
    assert later.instant_w == pytest.approx(500.0)
    assert later.average_w == pytest.approx(100 + 400 * 0.310)


def test_an_a100_averages_over_a_tenth_of_a_second(tmp_path: Path) -> None:
    """The average reading of an A100 has forgotten what was 100 ms ago."""
    device = SimDevice.create(tmp_path, "a100-sxm-80g", seed=1)
    draw(device, [(0.0, 100.0, 0), (published(device, 2.0) - 0.1, 400.0, 0)])
    assert Sensors(device).read(at(device, 2.0)).average_w == pytest.approx(400.0)


def test_clocks_events_and_utilization_follow_the_log(device: SimDevice) -> None:
    """Readings show the clock and event bits of the moment and the busy share of the last second."""
    draw(device, [(0.0, 110.0, 1), (2.0, 600.0, 4)])
    sensors = Sensors(device)
    idle, half, gone = (sensors.read(at(device, s)) for s in (1.5, 2.5, 4.5))
    assert (idle.event_reasons, half.event_reasons, gone.event_reasons) == (1, 4, 1)
    assert [idle.utilization, half.utilization, gone.utilization] == pytest.approx([0.0, 0.5, 0.0])
    assert (half.sm_mhz, gone.sm_mhz) == (1980, 345)
    assert (half.memory_mhz, half.power_limit_w) == (2619, 700.0)


def test_temperature_follows_power_in_half_a_minute(device: SimDevice) -> None:
    """At 700 W the device nears 72 C with a time constant of 30 s, however often it is looked at."""
    draw(device, [(0.0, 700.0, 0), (300.0, 700.0, 0)])
    often, once = Sensors(device), Sensors(device)
    start_c = once.read(at(device, 0.0)).temperature_c
    for s in np.arange(0.5, 30.0, 0.5):
        often.read(at(device, s))
    warm_c = once.read(at(device, 30.0)).temperature_c
    assert warm_c == pytest.approx(72 - (72 - start_c) / math.e, abs=0.1)
    assert often.read(at(device, 30.0)).temperature_c == pytest.approx(warm_c, abs=0.1)
    assert once.read(at(device, 290.0)).temperature_c == pytest.approx(72, abs=0.2)


def reading(device: SimDevice, seconds: float) -> SensorReading:
    """What fresh sensors show."""
    return Sensors(device, sleep=lambda _: None).read(at(device, seconds))


def test_a_stuck_counter_keeps_its_value_and_a_reset_one_starts_again(device: SimDevice) -> None:
    """From its instant on a stuck counter stands still, and a reset one counts from zero; before it they are right."""
    draw(device, [(0.0, 500.0, 0)])
    device.set_fault("counter_stuck", 0.5)
    assert reading(device, 0.45).energy_j == pytest.approx(500 * published(device, 0.45), abs=2e-3)
    assert reading(device, 0.9).energy_j == pytest.approx(500 * published(device, 0.5), abs=2e-3)
    device.clear_faults()
    device.set_fault("counter_reset", 0.5)
    assert reading(device, 0.9).energy_j == pytest.approx(500 * (published(device, 0.9) - 0.5), abs=2e-3)
    sensors = Sensors(device)
    assert sensors.read(at(device, 0.45)).energy_j > sensors.read(at(device, 0.75)).energy_j


def test_a_counter_never_runs_backwards_when_a_step_is_recorded_late(device: SimDevice) -> None:
    """What a reader was shown stays the least that it is shown later, though a late record lowers the past's power."""
    path = device.directory / "power.bin"
    path.write_bytes(struct.pack(POWER_FORMAT, at(device, 0.0), 60 * SECOND, 600.0, 110.0, 1980, 0))
    sensors = Sensors(device)
    shown_j = sensors.read(at(device, 1.0)).energy_j
    with path.open("ab") as file:
        file.write(struct.pack(POWER_FORMAT, at(device, 0.5), 60 * SECOND, 110.0, 110.0, 1980, 1))
    assert sensors.read(at(device, 1.15)).energy_j == shown_j


@pytest.mark.parametrize(
    ("kind", "missing"), [("counter_missing", ("energy_j",)), ("power_missing", ("instant_w", "average_w"))]
)
def test_a_missing_sensor_is_nan_and_the_others_go_on(
    device: SimDevice, kind: FaultKind, missing: tuple[str, ...]
) -> None:
    """What is missing reads as NaN from its instant on, never as zero, and nothing else changes."""
    draw(device, [(0.0, 500.0, 0)])
    before = reading(device, 0.9)
    device.set_fault(kind, 0.7)
    for name in ("energy_j", "instant_w", "average_w"):
        value = getattr(reading(device, 0.9), name)
        assert math.isnan(value) if name in missing else value == getattr(before, name)
    assert not math.isnan(getattr(reading(device, 0.6), missing[0]))


def test_gain_scales_power_and_counter_from_its_instant_on(device: SimDevice) -> None:
    """A gain error of 5 % that begins at 0.5 s adds 5 % to power and to the energy counted since, without a jump."""
    draw(device, [(0.0, 500.0, 0)])
    device.set_fault("gain", 0.5, 0.05)
    late = reading(device, 0.9)
    assert late.instant_w == pytest.approx(525.0)
    assert late.energy_j == pytest.approx(250 + 525 * (published(device, 0.9) - 0.5), abs=2e-3)


def test_a_device_made_with_a_gain_error_shows_it_from_the_start(tmp_path: Path) -> None:
    """The gain of a device's making is in every reading."""
    device = SimDevice.create(tmp_path, "h100-sxm", seed=1, gain=-0.04)
    assert reading(device, 1.0).average_w == pytest.approx(0.96 * 75.0)
    assert reading(device, 1.0).energy_j == pytest.approx(0.96 * 75.0 * published(device, 1.0), abs=2e-3)


def test_a_lost_device_neither_reads_nor_obeys(device: SimDevice) -> None:
    """After the loss every call fails, and before it none does."""
    device.set_fault("lost", 1.0)
    assert reading(device, 0.9).instant_w == 75.0
    with pytest.raises(DeviceLost, match="is lost"):
        reading(device, 1.1)
    with pytest.raises(DeviceLost):
        device.set_power_limit(500, at(device, 1.1))


def test_a_forbidden_device_reads_and_does_not_obey(device: SimDevice) -> None:
    """Without permission nothing can be set, and reading goes on."""
    device.set_fault("permission_denied")
    with pytest.raises(DevicePermissionError, match="not permitted"):
        device.lock_sm_clock(1000, at(device, 1.0))
    assert device.state().sm_lock_mhz is None
    assert reading(device, 1.0).instant_w == 75.0


def test_a_slow_device_takes_its_time_for_each_reading(device: SimDevice) -> None:
    """The fault's delay is slept once a call."""
    device.set_fault("slow", 0.0, 0.3)
    slept: list[float] = []
    Sensors(device, sleep=slept.append).read(at(device, 1.0))
    assert slept == [0.3]


def test_an_unknown_fault_is_refused(device: SimDevice) -> None:
    """A fault nobody knows names those there are."""
    with pytest.raises(DeviceValueError, match="counter_reset"):
        device.set_fault("counter-rest")  # type: ignore[arg-type]


def test_publications_lie_on_a_grid_of_100_ms() -> None:
    """The last publication is never after the reading nor 100 ms before it."""
    info = DeviceInfo("h100-sxm", "SIM-GPU-x", 0, epoch_ns=123_456_789, phase_ns=37 * MS)
    for now_ns in range(123_456_789, 123_456_789 + SECOND, 7_654_321):
        instant_ns = last_publication_ns(info, now_ns)
        assert 0 <= now_ns - instant_ns < 100 * MS
        assert (instant_ns - info.epoch_ns - info.phase_ns) % (100 * MS) == 0
