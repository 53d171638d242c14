"""The simulated device: a directory per GPU that outlives every process that uses it.

    DIR/<index>/device.json         what it is: hardware, uuid, epoch (its "driver load"), phase of its sensors, gain
                state.json          what was set: SM clock lock, memory clock lock, power limit
                faults.json         what is broken, from when on
                holders.json        which processes hold memory on it
                power.bin           power over time, appended by the engine (servers.sim.powerlog)
                steps.bin, step_requests.bin, requests.jsonl   the truth of what each step did (servers.sim.truth)

Small files are replaced atomically under a lock file, so that several processes may read and set. Every instant is the
host's monotonic clock in nanoseconds. Nothing here reads a clock but `create`, which stamps the epoch.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from servers.base import ServerError
from servers.sim.hardware import GpuHardware, find_hardware
from servers.sim.power import OperatingPoint

if TYPE_CHECKING:
    from collections.abc import Iterator

FaultKind = Literal[
    "counter_reset",
    "counter_stuck",
    "counter_missing",
    "power_missing",
    "permission_denied",
    "lost",
    "slow",
    "lock_without_effect",
    "gain",
]


class DeviceError(Exception):
    """A simulated device that refuses or does not answer.

    DeviceError
    ├── DeviceLost              it answered once and no longer does
    ├── DevicePermissionError   setting clocks and limits is not allowed
    └── DeviceValueError        it does not support the value
    """


class DeviceLost(DeviceError):  # noqa: N818 - the field's word: "GPU is lost"
    """The device fell off its bus."""


class DevicePermissionError(DeviceError):
    """The caller may not change this device."""


class DeviceValueError(DeviceError):
    """The value is outside what the device supports."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A defect that begins `at_s` seconds after the device's epoch.

    `value` is the delay per call in seconds for "slow" and the relative error for "gain".
    """

    kind: FaultKind
    at_s: float = 0.0
    value: float | None = None


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What never changes. `phase_ns` places the sensors' publications on their 100 ms grid; `gain` is their error."""

    hardware: str
    uuid: str
    index: int
    epoch_ns: int
    phase_ns: int
    gain: float = 0.0


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What was set; None is not locked."""

    sm_lock_mhz: int | None
    memory_lock_mhz: int | None
    power_limit_w: float


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds memory on the device."""

    pid: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """A small file as last read; a replaced one has another stamp."""

    stamp: tuple[int, int]
    content: Any


class SimDevice:
    """One simulated GPU, as every process sees it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._seen: dict[str, _Seen] = {}
        self.info = DeviceInfo(**json.loads((directory / "device.json").read_text("utf-8")))
        self.hardware: GpuHardware = find_hardware(self.info.hardware)

    @classmethod
    def create(cls, state_dir: Path, hardware: str, index: int = 0, *, seed: int = 0, gain: float = 0.0) -> SimDevice:
        """Make the device `state_dir/<index>`, whose epoch is now.

        Raises:
            FileExistsError: there is one.
        """
        gpu = find_hardware(hardware)
        directory = state_dir / str(index)
        directory.mkdir(parents=True)
        draw = random.Random(f"device {seed} {index}")
        identity = uuid.UUID(int=draw.getrandbits(128), version=4)
        info = DeviceInfo(
            hardware=hardware,
            uuid=f"SIM-GPU-{identity}",
            index=index,
            epoch_ns=time.monotonic_ns(),
            phase_ns=draw.randrange(100_000_000),
            gain=gain,
        )
        _replace(directory / "faults.json", [])
        _replace(directory / "holders.json", [])
        _replace(directory / "state.json", asdict(DeviceState(None, None, gpu.limit_default_w)))
        (directory / "power.bin").touch()
        _replace(directory / "device.json", asdict(info))
        return cls(directory)

    @classmethod
    def open(cls, state_dir: Path, index: int = 0) -> SimDevice:
        """Return the device `state_dir/<index>`.

        Raises:
            ServerError: there is none.
        """
        directory = state_dir / str(index)
        if not (directory / "device.json").is_file():
            raise ServerError(f"no simulated GPU in {directory}", hint="create it first", exit_code=2)
        return cls(directory)

    @classmethod
    def open_all(cls, state_dir: Path) -> list[SimDevice]:
        """Return every device below `state_dir`, by index."""
        found = [int(path.parent.name) for path in state_dir.glob("*/device.json") if path.parent.name.isdecimal()]
        return [cls.open(state_dir, index) for index in sorted(found)]

    def state(self) -> DeviceState:
        """Return what was set."""
        return DeviceState(**self._read("state.json"))

    def operating_point(self, now_ns: int) -> OperatingPoint:
        """Return what the hardware will really allow, which a fault may make other than what was set."""
        state = self.state()
        deaf = self.fault("lock_without_effect", now_ns) is not None
        return OperatingPoint(
            sm_mhz=self.hardware.sm_max_mhz if deaf or state.sm_lock_mhz is None else state.sm_lock_mhz,
            memory_mhz=self.hardware.memory_mhz[0] if deaf or state.memory_lock_mhz is None else state.memory_lock_mhz,
            limit_w=state.power_limit_w,
        )

    def lock_sm_clock(self, mhz: float | None, now_ns: int) -> int | None:
        """Hold the SM clock at the highest step not above `mhz`, or release it; return what is held.

        Raises:
            DevicePermissionError: a fault forbids it.
            DeviceValueError: outside the device's range.
        """
        lowest, highest = self.hardware.sm_min_mhz, self.hardware.sm_max_mhz
        if mhz is not None and not lowest <= mhz <= highest:
            raise DeviceValueError(f"SM clock {mhz:g} MHz is outside {lowest} to {highest} MHz")
        held = None if mhz is None else self.hardware.sm_grid_mhz(mhz)
        self._change(now_ns, sm_lock_mhz=held)
        return held

    def lock_memory_clock(self, mhz: int | None, now_ns: int) -> int | None:
        """Hold the memory clock at `mhz`, or release it; return what is held.

        Raises:
            DevicePermissionError: a fault forbids it.
            DeviceValueError: not a clock of this memory.
        """
        if mhz is not None and mhz not in self.hardware.memory_mhz:
            supported = ", ".join(map(str, self.hardware.memory_mhz))
            raise DeviceValueError(f"memory clock {mhz} MHz is not supported; supported: {supported} MHz")
        self._change(now_ns, memory_lock_mhz=mhz)
        return mhz

    def set_power_limit(self, watts: float, now_ns: int) -> float:
        """Set the power limit; return it.

        Raises:
            DevicePermissionError: a fault forbids it.
            DeviceValueError: outside the device's range.
        """
        lowest, highest = self.hardware.limit_min_w, self.hardware.limit_max_w
        if not lowest <= watts <= highest:
            raise DeviceValueError(f"power limit {watts:g} W is outside {lowest:g} to {highest:g} W")
        self._change(now_ns, power_limit_w=float(watts))
        return float(watts)

    def _change(self, now_ns: int, **fields: float | None) -> None:
        if self.fault("lost", now_ns) is not None:
            raise DeviceLost(f"{self.info.uuid} is lost")
        if self.fault("permission_denied", now_ns) is not None:
            raise DevicePermissionError(f"changing {', '.join(fields)} of {self.info.uuid} is not permitted")
        with self._locked():
            _replace(self.directory / "state.json", asdict(replace(self.state(), **fields)))  # type: ignore[arg-type]

    def set_fault(self, kind: FaultKind, at_s: float = 0.0, value: float | None = None) -> None:
        """Break something from `at_s` seconds after the epoch on.

        Raises:
            DeviceValueError: there is no such fault.
        """
        if kind not in get_args(FaultKind):
            raise DeviceValueError(f"no fault is called {kind!r}; known: {', '.join(get_args(FaultKind))}")
        with self._locked():
            _replace(self.directory / "faults.json", [asdict(f) for f in (*self.faults(), Fault(kind, at_s, value))])

    def clear_faults(self) -> None:
        """Repair everything."""
        with self._locked():
            _replace(self.directory / "faults.json", [])

    def faults(self) -> tuple[Fault, ...]:
        """Return every fault, begun or not."""
        return tuple(Fault(**fields) for fields in self._read("faults.json"))

    def fault(self, kind: FaultKind, now_ns: int) -> Fault | None:
        """Return the fault of this kind if it has begun."""
        since_s = (now_ns - self.info.epoch_ns) * 1e-9
        return next((found for found in self.faults() if found.kind == kind and found.at_s <= since_s), None)

    def hold(self, pid: int, memory_bytes: int) -> None:
        """Note that a process holds memory, in place of what it held before; forget processes that are gone."""
        with self._locked():
            others = [asdict(holder) for holder in self.holders() if holder.pid != pid]
            kept = [asdict(Holder(pid, memory_bytes))] if memory_bytes else []
            _replace(self.directory / "holders.json", others + kept)

    def release(self, pid: int) -> None:
        """Note that a process holds nothing any more."""
        self.hold(pid, 0)

    def holders(self) -> tuple[Holder, ...]:
        """Return the living processes that hold memory."""
        noted = [Holder(**fields) for fields in self._read("holders.json")]
        return tuple(holder for holder in noted if _is_alive(holder.pid))

    def _read(self, name: str) -> Any:  # noqa: ANN401 - JSON has no narrower type
        """Return a small file's content, parsed again only when the file was replaced."""
        path = self.directory / name
        found = path.stat()
        stamp = (found.st_ino, found.st_mtime_ns)
        seen = self._seen.get(name)
        if seen is None or seen.stamp != stamp:
            seen = self._seen[name] = _Seen(stamp, json.loads(path.read_text("utf-8")))
        return seen.content

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.directory / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _is_alive(pid: int) -> bool:
    """Tell whether a process runs; a killed one whose parent has not yet collected it does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except FileNotFoundError:
        return not Path("/proc/self").exists() and _answers(pid)
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def _answers(pid: int) -> bool:
    """Tell whether a process takes signals, for hosts without /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _replace(path: Path, value: object) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(value), "utf-8")
    fresh.replace(path)
