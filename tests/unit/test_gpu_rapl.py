"""The host's energy counters: what is counted once, wrap-around, and why they cannot be read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from profiler.gpu.base import GpuError, GpuLostError
from profiler.gpu.rapl import open_rapl
from tests.support.rapl_tree import RANGE_UJ, server

if TYPE_CHECKING:
    from pathlib import Path


def test_each_package_is_a_meter_with_its_memory(tmp_path: Path) -> None:
    """Package and memory add up; cores, the whole board and the second way to a package are not counted again."""
    meters = open_rapl(server(tmp_path))
    told = [(m.info.uuid, m.info.name, m.info.index, m.read().energy_j) for m in meters]
    assert told == [
        ("rapl:package-0", "CPU package-0 + dram", 0, pytest.approx(10.5)),
        ("rapl:package-1", "CPU package-1", 1, pytest.approx(20.0)),
    ]
    assert {meter.info.boundary for meter in meters} == {"host"}


def test_energy_is_all_there_is(tmp_path: Path) -> None:
    """Power is missing, not zero, and who draws on a package cannot be told."""
    meter = open_rapl(server(tmp_path))[0]
    assert math.isnan(meter.read().power_w)
    assert meter.read().event_reasons == -1
    assert meter.processes() is None


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    """Going below the last value adds the counter's range, for each counter by itself."""
    meter = open_rapl(server(tmp_path))[0]
    before_j = meter.read().energy_j
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("1000000")
    assert meter.read().energy_j - before_j == pytest.approx(RANGE_UJ * 1e-6 - 9.0)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("3000000")
    assert meter.read().energy_j - before_j == pytest.approx(RANGE_UJ * 1e-6 - 7.0)


def test_counters_for_root_alone_say_how_to_allow_them(tmp_path: Path) -> None:
    """A refusal names root and gives the command that opens the counters."""

    def refused(path: Path) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return path.read_text()

    with pytest.raises(GpuError, match="root alone") as caught:
        open_rapl(server(tmp_path), refused)
    assert "chmod" in caught.value.hint


def test_a_machine_without_counters_says_so(tmp_path: Path) -> None:
    """No directory, and a directory without a package, are both a machine that shows none."""
    for root in (tmp_path / "none", tmp_path):
        with pytest.raises(GpuError, match="shows no energy counters"):
            open_rapl(root)


def test_a_counter_that_goes_away_is_lost(tmp_path: Path) -> None:
    """A file that vanishes in mid-run is a lost meter."""
    meter = open_rapl(server(tmp_path))[0]
    (tmp_path / "intel-rapl:0:1" / "energy_uj").unlink()
    with pytest.raises(GpuLostError, match="gone"):
        meter.read()
