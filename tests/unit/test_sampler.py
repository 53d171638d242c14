"""The sampler: every meter each tick, a lost one told once, the others going on."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from profiler.gpu.base import GpuInfo, GpuLostError, Reading
from profiler.sampler import Sampler

READING = Reading(1, 2, 300.0, 290.0, 5.0, 1980.0, 2619.0, 40.0, 0.9, 1e9, 700.0, 0)


@dataclass
class _Gpu:
    """A meter that answers so many times and is then lost."""

    info: GpuInfo
    answers: int
    reads: int = 0
    enough: threading.Event = field(default_factory=threading.Event)

    def read(self) -> Reading:
        self.reads += 1
        if self.reads >= 20:
            self.enough.set()
        if self.reads > self.answers:
            raise GpuLostError("fell off the bus")
        return READING

    def processes(self) -> None:
        return None

    def close(self) -> None:
        return None


def _gpu(index: int, answers: int) -> _Gpu:
    return _Gpu(GpuInfo(uuid=f"{index}", name="H100", index=index, simulated=True, boundary="gpu-board"), answers)


def test_a_lost_meter_is_told_once_and_the_others_go_on() -> None:
    """A meter lost after three readings is not asked again; the other keeps its rate on an absolute schedule."""
    steady, doomed = _gpu(0, 10**9), _gpu(1, 3)
    seen: list[str] = []
    lost: list[str] = []
    sampler = Sampler(
        [steady, doomed], 0.01, lambda info, _: seen.append(info.uuid), lambda info, _: lost.append(info.uuid)
    )
    sampler.start()
    assert steady.enough.wait(10.0)
    sampler.stop()
    assert lost == ["1"]
    assert doomed.reads == 4
    assert seen.count("1") == 3
    assert seen.count("0") == steady.reads
    assert steady.reads == pytest.approx(20, abs=3)
