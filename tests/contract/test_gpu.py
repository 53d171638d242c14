"""The `Gpu` seam's contract, which every implementation runs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from profiler.gpu.base import GpuLostError
from profiler.gpu.contract import violations
from profiler.gpu.nvml import open_gpus
from profiler.gpu.rapl import open_rapl
from profiler.gpu.replay import open_replay
from profiler.gpu.sim import open_simulated
from servers.sim.device import SimDevice
from tests.support.nvml_table import LOST, NvmlTable, gh200, h100, p100, rtx4090
from tests.support.rapl_tree import server
from tests.support.readings import info, reading, write_recording

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from profiler.gpu.base import Gpu


@dataclass(frozen=True, slots=True)
class Rig:
    """Open meters, how many there must be, and what makes the first of them fall silent."""

    gpus: Sequence[Gpu]
    lose: Callable[[], object]


def nvml(_: Path) -> Rig:
    """Cards of several generations, told by a table."""
    cards = (h100(0), rtx4090(1), p100(2), gh200(3))

    def lose() -> None:
        cards[0].everything = LOST

    return Rig(open_gpus((), NvmlTable(*cards), host_pids=True), lose)


def replay(tmp_path: Path) -> Rig:
    """Two recorded GPUs, on a clock that may be set to after their end."""
    rows = [(info(gpu), reading(10**9 * row, energy_j=1000.0 + row)) for row in range(1, 11) for gpu in (0, 1)]
    ahead = [0]
    path = write_recording(tmp_path / "gpu.parquet", rows)
    return Rig(open_replay(path, lambda: time.monotonic_ns() + ahead[0]), lambda: ahead.append(ahead.pop() + 10**10))


def rapl(tmp_path: Path) -> Rig:
    """Two CPU packages in a recorded tree."""
    tree = server(tmp_path)
    return Rig(open_rapl(tree), (tree / "intel-rapl:0" / "energy_uj").unlink)


def simulated(tmp_path: Path) -> Rig:
    """Two simulated GPUs."""
    devices = [SimDevice.create(tmp_path, "h100-sxm", index) for index in (0, 1)]
    return Rig(open_simulated(tmp_path), lambda: devices[0].set_fault("lost"))


IMPLEMENTATIONS = (nvml, replay, rapl, simulated)


@pytest.fixture(params=IMPLEMENTATIONS, ids=lambda make: make.__name__)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    """Every implementation in turn."""
    made: Rig = request.param(tmp_path)
    return made


def test_every_meter_keeps_its_promises(rig: Rig) -> None:
    """Stamps rise, the counter never goes back, values are in their units, what is missing is NaN and never 0."""
    assert {gpu.info.uuid: violations(gpu) for gpu in rig.gpus} == {gpu.info.uuid: [] for gpu in rig.gpus}


def test_meters_are_told_apart(rig: Rig) -> None:
    """Several meters have several uuids."""
    assert len({gpu.info.uuid for gpu in rig.gpus}) == len(rig.gpus) > 1


def test_a_meter_says_that_it_is_lost(rig: Rig) -> None:
    """One that falls silent raises GpuLostError with a hint, each time, and does not disturb the others."""
    rig.gpus[0].read()
    rig.lose()
    for _ in range(2):
        with pytest.raises(GpuLostError) as caught:
            rig.gpus[0].read()
        assert caught.value.hint


def test_closing_twice_is_closing_once(rig: Rig) -> None:
    """Close may be called again."""
    for gpu in (*rig.gpus, *rig.gpus):
        gpu.close()
