"""The `Gpu` seam's contract on this machine's NVIDIA GPUs. Run by `make gpu-check`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from profiler.gpu.check import learn, record
from profiler.gpu.contract import violations
from profiler.gpu.nvml import open_gpus
from profiler.gpu.readings import gpu_infos

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from profiler.gpu.nvml import NvmlGpu

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def gpus() -> Iterator[Sequence[NvmlGpu]]:
    """Every NVIDIA GPU."""
    opened = open_gpus()
    yield opened
    for gpu in opened:
        gpu.close()


def test_every_gpu_keeps_its_promises(gpus: Sequence[NvmlGpu]) -> None:
    """What NVML tells of real hardware keeps the contract."""
    assert {gpu.info.uuid: violations(gpu) for gpu in gpus} == {gpu.info.uuid: [] for gpu in gpus}


def test_a_gpu_is_found_again_by_its_uuid(gpus: Sequence[NvmlGpu]) -> None:
    """Opening by UUID gives the same GPU as opening by index."""
    again = open_gpus([gpu.info.uuid for gpu in gpus])
    assert [gpu.info.index for gpu in again] == [gpu.info.index for gpu in gpus]
    for gpu in again:
        gpu.close()


def test_energy_is_published_at_least_every_half_second(gpus: Sequence[NvmlGpu]) -> None:
    """Counter or power is new often enough for a window of seconds."""
    for gpu in gpus:
        periods_s = learn(gpu, 3.0).periods_s
        known = [p for p in (periods_s["energy_j"], periods_s["power_w"], periods_s["power_average_w"]) if p > 0]
        assert known, gpu.info.name
        assert min(known) < 0.5, gpu.info.name


def test_a_recording_holds_every_gpu(gpus: Sequence[NvmlGpu]) -> None:
    """A second of recording has most of its readings, for each GPU, and energy in each."""
    table = record(gpus, 1.0, 50.0)
    assert gpu_infos(table.schema) == tuple(gpu.info for gpu in gpus)
    for gpu in gpus:
        rows = [row for row in table.to_pylist() if row["uuid"] == gpu.info.uuid]
        assert len(rows) > 25
        assert not all(math.isnan(row["energy_j"]) and math.isnan(row["power_average_w"]) for row in rows)
