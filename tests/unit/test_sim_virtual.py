"""The engine in virtual time: token times, energy that adds up, clocks and limits that act."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from servers.models import find_model
from servers.sim.device import SimDevice
from servers.sim.drivers import Arrival, simulate
from servers.sim.engine import Engine, EngineConfig, _batch
from servers.sim.hardware import find_hardware
from servers.sim.powerlog import PowerLog
from servers.sim.roofline import Batch
from servers.sim.scheduler import Slice
from servers.sim.truth import read_requests, read_step_requests, read_steps, true_energy

if TYPE_CHECKING:
    from pathlib import Path

H100 = find_hardware("h100-sxm")
CONFIG = EngineConfig(find_model("mistral-7b"), H100)
SECOND = 1_000_000_000


def arrivals(start_ns: int, count: int = 20, gap_ns: int = SECOND // 10) -> list[Arrival]:
    """Requests at a constant rate, a gap of 3 s after half of them."""
    return [Arrival(start_ns + n * gap_ns + (n >= count // 2) * 3 * SECOND, 200 + n, 20 + n) for n in range(count)]


def test_every_request_gets_its_tokens_after_it_arrived() -> None:
    """Virtual time gives each request exactly its tokens, in order, the first after its arrival plus a step."""
    asked = arrivals(7)
    run = simulate(CONFIG, asked)
    assert [len(times) for times in run.token_ns] == [arrival.output_tokens for arrival in asked]
    assert all((np.diff(times) > 0).all() for times in run.token_ns)
    assert all(times[0] > arrival.arrival_ns + 5_000_000 for times, arrival in zip(run.token_ns, asked, strict=True))
    assert run.end_ns == max(times[-1] for times in run.token_ns)


def test_the_same_requests_give_the_same_times() -> None:
    """The engine draws nothing: two runs are equal to the nanosecond."""
    first, second = simulate(CONFIG, arrivals(0)), simulate(CONFIG, arrivals(0))
    assert all((a == b).all() for a, b in zip(first.token_ns, second.token_ns, strict=True))
    assert first.energy_j == second.energy_j


def test_steps_and_idle_add_up_to_the_power_log(tmp_path: Path) -> None:
    """The sum of the steps' energies and the idle energy between them is the power log's integral, to 1e-9."""
    device = SimDevice.create(tmp_path, "h100-sxm")
    start_ns = device.info.epoch_ns + SECOND
    run = simulate(CONFIG, arrivals(start_ns), [device])
    steps = read_steps(device)
    gaps_ns = steps["start_ns"][1:] - steps["end_ns"][:-1]
    assert (gaps_ns >= 0).all()
    assert gaps_ns.max() > 2 * SECOND
    expected_j = steps["energy_j"].sum() + gaps_ns.sum() * 1e-9 * H100.loaded_idle_w
    log = PowerLog(device)
    log.refresh()
    integral_j = np.diff(log.energy_j(np.array([start_ns, run.end_ns])))[0]
    assert integral_j == pytest.approx(expected_j, rel=1e-9)
    assert run.energy_j == pytest.approx(steps["energy_j"].sum(), rel=1e-12)


def test_truth_splits_a_window_into_idle_and_active(tmp_path: Path) -> None:
    """Over a busy window the idle part is loaded idle power times its length, and the active part is the rest."""
    device = SimDevice.create(tmp_path, "h100-sxm")
    start_ns = device.info.epoch_ns
    simulate(CONFIG, [Arrival(start_ns, 100, 300)], [device])
    truth = true_energy(device, start_ns, start_ns + SECOND)
    assert truth.idle_j == pytest.approx(H100.loaded_idle_w, rel=1e-9)
    assert truth.total_j == pytest.approx(truth.idle_j + truth.active_j, rel=1e-12)
    assert 200 < truth.active_j < 500


def test_truth_names_what_each_step_did(tmp_path: Path) -> None:
    """The rows of steps and of requests in steps count the same tokens, and name every request."""
    device = SimDevice.create(tmp_path, "h100-sxm")
    asked = arrivals(device.info.epoch_ns)
    simulate(CONFIG, asked, [device])
    steps, parts = read_steps(device), read_step_requests(device)
    for column in ("prefill_tokens", "decode_tokens"):
        by_step = np.bincount(parts["step"], parts[column], len(steps))
        assert (by_step == steps[column]).all()
    assert steps["prefill_tokens"].sum() == sum(arrival.prompt_tokens for arrival in asked)
    assert steps["decode_tokens"].sum() == sum(arrival.output_tokens - 1 for arrival in asked)
    assert (np.bincount(parts["step"]) == steps["running"]).all()
    assert [request.output_tokens for request in read_requests(device)] == [a.output_tokens for a in asked]


def test_a_clock_lock_acts_on_time_and_power(tmp_path: Path) -> None:
    """A locked SM clock shows in the log, prefill takes longer, and idle power with the model loaded is lower."""
    device = SimDevice.create(tmp_path, "h100-sxm")
    asked = [Arrival(device.info.epoch_ns, 4000, 2)]
    free = simulate(CONFIG, asked)
    device.lock_sm_clock(1000, device.info.epoch_ns)
    locked = simulate(CONFIG, asked, [device])
    steps = read_steps(device)
    assert set(steps["sm_mhz"]) == {990}
    assert (steps["idle_w"] < H100.loaded_idle_w).all()
    assert locked.token_ns[0][0] > 1.2 * (free.token_ns[0][0] - asked[0].arrival_ns) + asked[0].arrival_ns
    assert locked.energy_j < free.energy_j


def test_a_power_limit_is_kept_in_every_step(tmp_path: Path) -> None:
    """Under a limit of 350 W no step draws more, those that would are marked, and the work takes longer."""
    device = SimDevice.create(tmp_path, "h100-sxm")
    asked = [Arrival(device.info.epoch_ns, 3000, 50)] * 8
    device.set_power_limit(350, device.info.epoch_ns)
    run, free = simulate(CONFIG, asked, [device]), simulate(CONFIG, asked)
    log = PowerLog(device)
    log.refresh()
    assert log.records["watts"].max() <= 350.0
    assert (read_steps(device)["reasons"] == 0x4).all()
    assert run.end_ns > free.end_ns


def test_a_deaf_device_ignores_its_lock(tmp_path: Path) -> None:
    """With the fault of a lock without effect the setting reads back and the clock stays where it was."""
    device = SimDevice.create(tmp_path, "h100-sxm")
    device.set_fault("lock_without_effect")
    device.lock_sm_clock(1000, device.info.epoch_ns)
    simulate(CONFIG, [Arrival(device.info.epoch_ns, 100, 5)], [device])
    assert device.state().sm_lock_mhz == 990
    assert set(read_steps(device)["sm_mhz"][1:]) == {1980}


def test_settings_change_between_steps() -> None:
    """A step uses the operating point of its start: the same decode step is slower at half the clock."""
    engine = Engine(CONFIG)
    engine.scheduler.add(0, 0, 4000, 5)
    engine.scheduler.add(1, 0, 4000, 5)
    first = engine.step(0)
    assert first is not None
    engine.point = replace(engine.point, sm_mhz=600)
    second = engine.step(first.end_ns)
    assert second is not None
    assert (first.sm_mhz > 1000, second.sm_mhz) == (True, 600)


def test_two_gpus_draw_the_same_and_are_faster(tmp_path: Path) -> None:
    """With tensor parallelism every GPU's log is the same, the step is shorter, and the run's energy counts both."""
    devices = [SimDevice.create(tmp_path, "h100-sxm", index) for index in (0, 1)]
    config = replace(CONFIG, model=find_model("qwen3-32b"))
    asked = [Arrival(devices[1].info.epoch_ns, 500, 30)]
    one, two = simulate(config, asked), simulate(replace(config, tensor_parallel=2), asked, devices)
    logs = [(device.directory / "power.bin").read_bytes() for device in devices]
    assert logs[0] == logs[1]
    assert two.end_ns < one.end_ns
    assert two.energy_j == pytest.approx(2 * read_steps(devices[0])["energy_j"].sum())


def test_an_encoder_decoder_encodes_once_and_decodes(tmp_path: Path) -> None:
    """T5 encodes its whole input in the first step and afterwards only decodes."""
    device = SimDevice.create(tmp_path, "h100-sxm")
    run = simulate(replace(CONFIG, model=find_model("t5-3b")), [Arrival(device.info.epoch_ns, 300, 20)], [device])
    steps = read_steps(device)
    assert steps["encoder_tokens"].tolist() == [300] + [0] * 19
    assert steps["decode_tokens"].tolist() == [0] + [1] * 19
    assert len(run.token_ns[0]) == 20


def test_a_step_counts_who_attends_to_what() -> None:
    """A chunk scores all cached and, causally, itself; cross-attention reads the input; an encoder squares it."""
    chunk = Slice(0, prefill=10, decode=0, encoder=0, cached=100, cross=0, produced=False, finished=False)
    decode = Slice(1, prefill=0, decode=1, encoder=0, cached=7, cross=50, produced=True, finished=False)
    first = Slice(2, prefill=1, decode=0, encoder=50, cached=0, cross=50, produced=True, finished=False)
    assert _batch((chunk,)) == Batch(tokens=10, kv_tokens=100, attention_pairs=1000 + 55, sequences=0)
    assert _batch((decode,)) == Batch(tokens=1, kv_tokens=57, attention_pairs=58, sequences=1)
    assert _batch((first,)) == Batch(1, 50, 51, 1, encoder_tokens=50, encoder_pairs=2500)


def test_more_requests_than_the_cache_holds_all_complete() -> None:
    """GPT-J on a 40 GB card, far over its cache: requests are preempted and still get every token."""
    config = EngineConfig(find_model("gpt-j-6b"), find_hardware("a100-pcie-40g"))
    asked = [Arrival(0, 700, 300) for _ in range(60)]
    run = simulate(config, asked)
    assert run.preemptions > 0
    assert {len(times) for times in run.token_ns} == {300}


def test_waiting_counts_only_who_has_arrived(tmp_path: Path) -> None:
    """Requests of the list whose time has not come are not in the queue."""
    device = SimDevice.create(tmp_path, "h100-sxm")
    simulate(CONFIG, arrivals(device.info.epoch_ns, gap_ns=SECOND), [device])
    assert read_steps(device)["waiting"].max() == 0
