"""What the hardware check learns and records, on cards that answer from a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from profiler.gpu.base import GpuError, GpuProcess
from profiler.gpu.check import check, learnt_from, main, update_period_s
from profiler.gpu.contract import broken_info, broken_processes, broken_readings
from profiler.gpu.nvml import open_gpus
from profiler.gpu.replay import open_replay
from tests.support.nvml_table import NvmlTable, h100
from tests.support.readings import info, reading

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("period_s", [0.02, 0.1, 0.25])
@pytest.mark.parametrize("poll_s", [0.001, 0.003])
def test_the_period_of_a_staircase_is_found(period_s: float, poll_s: float) -> None:
    """A value published every so often and polled faster gives its period within one poll."""
    times = np.arange(0.0, 3.0, poll_s)
    values = np.floor((times + 0.013) / period_s)
    assert update_period_s(times, values) == pytest.approx(period_s, abs=poll_s)


def test_equal_publications_do_not_lengthen_the_period() -> None:
    """A power sensor that now and then publishes the value it had still shows its period."""
    times = np.arange(0.0, 3.0, 0.001)
    step = np.floor(times / 0.1)
    values = np.where(step % 5 == 0, np.maximum(step - 1, 0), step)
    assert update_period_s(times, values) == pytest.approx(0.1, abs=0.002)


@pytest.mark.parametrize("values", [[], [1.0], [5.0] * 100, [1.0, 2.0, 2.0, 3.0]])
def test_a_period_that_is_not_seen_is_unknown(values: list[float]) -> None:
    """Too few changes give NaN, never a guess."""
    assert math.isnan(update_period_s(np.arange(len(values)) * 0.001, values))


def test_missing_values_are_no_publications() -> None:
    """A sensor that fails in between does not shorten the period, and one that is absent has none."""
    rows = [reading(10**9 + n * 10**6, power_w=math.nan if n % 7 == 0 else n // 100) for n in range(1000)]
    learnt = learnt_from([*rows])
    assert learnt.periods_s["power_w"] == pytest.approx(0.1, abs=0.002)
    assert math.isnan(learnt.periods_s["energy_j"])
    assert learnt.read_s == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("later", "words"),
    [
        (reading(2_000, power_w=588_000.0), "power_w is 588000.0"),
        (reading(2_000, power_w=0.0), "power_w is 0.0"),
        (reading(2_000, utilization=97.0), "utilization is 97.0"),
        (reading(2_000, energy_j=999.0), "goes back"),
        (reading(1_000), "stands still"),
        (reading(2_000, before_ns=2_001), "earlier than"),
        (reading(2_000, event_reasons=-2), "event_reasons"),
        (reading(2_000, power_w=math.nan, energy_j=math.nan, power_average_w=math.nan), "neither"),
    ],
)
def test_the_contract_names_what_is_broken(later: object, words: str) -> None:
    """A wrong unit, an invented zero, a counter or a clock that goes back each break the contract by name."""
    assert list(broken_readings([reading(1_000)])) == []
    assert [line for line in broken_readings([reading(1_000), later]) if words in line]  # type: ignore[list-item]


def test_the_contract_covers_description_and_processes() -> None:
    """A nameless meter, an unknown boundary, a limit outside its range and a process told twice break it."""
    assert list(broken_info(info())) == []
    assert len(list(broken_info(info(name="")))) == 1
    assert len(list(broken_info(info(boundary="desk")))) == 1
    assert len(list(broken_info(info(power_limit_w=800.0, power_limit_max_w=700.0)))) == 1
    assert len(list(broken_processes((GpuProcess(1, None, "compute"), GpuProcess(1, None, "graphics"))))) == 1
    assert len(list(broken_processes((GpuProcess(0, None, "compute"),)))) == 1


def test_a_check_records_what_can_be_replayed(tmp_path: Path) -> None:
    """The report names each GPU and its sensors, and the file it leaves opens as as many meters."""
    lines: list[str] = []
    out = tmp_path / "deep" / "gpu.parquet"
    gpus = open_gpus((), NvmlTable(h100(0), h100(1)))
    assert check(gpus, out, lines.append, seconds=0.3, learn_s=0.05)
    report = "\n".join(lines)
    assert [word for word in ("GPU 0", "GPU 1", "energy_j", "counter", "one reading") if word not in report] == []
    assert "BROKEN" not in report
    assert [gpu.info.uuid for gpu in open_replay(out)] == [gpu.info.uuid for gpu in gpus]


def test_a_broken_promise_fails_the_check(tmp_path: Path) -> None:
    """A card that tells its temperature in another unit is reported and fails."""
    card = h100()
    card.answers["nvmlDeviceGetTemperature", 0] = 314
    lines: list[str] = []
    assert not check(open_gpus((), NvmlTable(card)), tmp_path / "g.parquet", lines.append, seconds=0.1, learn_s=0.01)
    assert [line for line in lines if "BROKEN" in line and "temperature_c" in line]


def test_a_recording_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A path below a file is refused with the path in the message."""
    (tmp_path / "file").write_text("")
    with pytest.raises(GpuError, match="cannot write"):
        check(open_gpus((), NvmlTable(h100())), tmp_path / "file" / "g.parquet", [].append, seconds=0.1, learn_s=0.01)


def test_without_a_gpu_the_check_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2 and one line with the reason."""
    table = NvmlTable(init=None)
    assert main(["--out", str(tmp_path / "g.parquet")], binding=table) == 2
    assert "no GPU to check: " in capsys.readouterr().err
