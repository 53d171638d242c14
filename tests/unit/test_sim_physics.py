"""Step times and power against published points, and what clocks and limits do to them."""

from __future__ import annotations

import pytest

from servers.base import ServerError
from servers.models import find_model, load_models
from servers.sim.engine import Engine, EngineConfig
from servers.sim.hardware import find_hardware, load_hardware, min_tensor_parallel, require_fit
from servers.sim.power import (
    OperatingPoint,
    StepPower,
    default_point,
    loaded_idle_w,
    power_at,
    step_power,
    voltage_squared,
)
from servers.sim.roofline import Batch, bandwidth_share, step_time, step_work

H100 = find_hardware("h100-sxm")
LLAMA = find_model("llama-3.1-8b")
DECODE = step_work(LLAMA, H100, 1, Batch(tokens=4, kv_tokens=4 * 500, attention_pairs=4 * 500, sequences=4))
PREFILL = step_work(LLAMA, H100, 1, Batch(tokens=4096, kv_tokens=0, attention_pairs=4096 * 2048, sequences=1))


def mixed_step(running: int) -> StepPower:
    """The mean step of a chat: prompts of 300 and answers of 390 tokens, so 0.77 prompt tokens a generated one."""
    prompts = running * 300 / 390
    context = 300 + 195
    batch = Batch(
        tokens=round(running + prompts),
        kv_tokens=running * context,
        attention_pairs=round(running * context + prompts * 150),
        sequences=running,
    )
    return step_power(H100, step_work(LLAMA, H100, 1, batch), default_point(H100))


@pytest.mark.parametrize(("running", "joules"), [(8, 0.455), (64, 0.119), (512, 0.070)])
def test_llama_8b_on_h100_is_near_the_published_points(running: int, joules: float) -> None:
    """Step time is within 15 % of 6.19 + 0.0926 b ms and energy within 25 % of the published J/token (ML.ENERGY v3)."""
    step = mixed_step(running)
    assert step.time.total_s * 1e3 == pytest.approx(6.19 + 0.0926 * running, rel=0.15)
    assert step.watts * step.time.total_s / running == pytest.approx(joules, rel=0.25)


@pytest.mark.parametrize(
    ("model", "gpus", "running", "output", "step_ms", "joules"),
    [
        ("qwen3-32b", 1, 8, 638, 25.6, 1.73),
        ("qwen3-32b", 2, 192, 632, 41.7, 0.248),
        ("qwen3-8b", 1, 192, 659, 27.7, 0.0866),
        ("llama-3.1-70b", 4, 32, 351, 21.4, 1.207),
        ("llama-3.1-70b", 4, 192, 357, 43.0, 0.514),
    ],
)
def test_other_models_are_near_without_a_fit_of_their_own(
    *, model: str, gpus: int, running: int, output: int, step_ms: float, joules: float
) -> None:
    """With the same coefficients other shapes are within 25 % of their published points (ML.ENERGY v3, H100)."""
    spec = find_model(model)
    prompts, context = running * 300 / output, 300 + output // 2
    batch = Batch(round(running + prompts), running * context, round(running * context + prompts * 150), running)
    step = step_power(H100, step_work(spec, H100, gpus, batch), default_point(H100))
    assert step.time.total_s * 1e3 == pytest.approx(step_ms, rel=0.25)
    assert gpus * step.watts * step.time.total_s / running == pytest.approx(joules, rel=0.25)


def test_a_limit_lowers_clock_and_power_and_lengthens_the_step() -> None:
    """Under a lower limit the clock is the highest step whose power fits, and the step takes longer."""
    free = step_power(H100, PREFILL, default_point(H100))
    capped = step_power(H100, PREFILL, OperatingPoint(1980, 2619, 400.0))
    assert capped.clipped
    assert capped.sm_mhz < free.sm_mhz
    assert capped.watts <= 400.0 < power_at(H100, PREFILL, capped.sm_mhz + 15, 2619).watts
    assert capped.time.total_s > free.time.total_s


def test_a_limit_above_the_need_changes_nothing() -> None:
    """A step that fits its limit runs unclipped at the clock that is set."""
    step = step_power(H100, DECODE, OperatingPoint(1500, 2619, 700.0))
    assert (step.sm_mhz, step.clipped) == (1500, False)


def test_power_at_the_lowest_clock_may_exceed_the_limit() -> None:
    """A limit that no clock can keep leaves the device at its lowest clock."""
    step = step_power(H100, PREFILL, OperatingPoint(1980, 2619, 100.0))
    assert (step.sm_mhz, step.clipped) == (345, True)


def test_a_clock_lock_hurts_compute_and_hardly_memory_above_the_knee() -> None:
    """At 70 % of the clock a prefill takes 1/0.7 of its time and a decode step less than 3 % more."""
    locked = 1386
    prefill = step_time(H100, PREFILL, locked, 2619).busy_s / step_time(H100, PREFILL, 1980, 2619).busy_s
    decode = step_time(H100, DECODE, locked, 2619).total_s / step_time(H100, DECODE, 1980, 2619).total_s
    assert prefill == pytest.approx(1980 / locked, rel=1e-6)
    assert 1.0 < decode < 1.03


def test_bandwidth_falls_below_the_knee() -> None:
    """The measured V100 points lie on the curve, for every GPU at the same share of its clock."""
    v100 = find_hardware("v100-sxm2")
    assert bandwidth_share(v100, 757) == pytest.approx(0.716, abs=0.005)
    assert bandwidth_share(v100, 1080) == pytest.approx(0.983, abs=0.002)
    assert bandwidth_share(v100, 1530) == 1.0
    assert bandwidth_share(H100, 1980 * 0.3) < 0.5


def test_a_slower_memory_clock_slows_reading() -> None:
    """Halving the memory clock of a part that offers it doubles the time of reading, to the measure of the clocks."""
    nvl = find_hardware("h100-nvl")
    work = step_work(LLAMA, nvl, 1, Batch(4, 2000, 2000, 4))
    ratio = step_time(nvl, work, 1785, 1593).busy_s / step_time(nvl, work, 1785, 2619).busy_s
    assert ratio == pytest.approx(2619 / 1593)


@pytest.mark.parametrize("name", list(load_hardware()))
def test_power_rises_with_the_clock_on_every_gpu(name: str) -> None:
    """Voltage, loaded idle and step power never fall as the clock rises, which finding a limit's clock relies on."""
    gpu = load_hardware()[name]
    clocks = range(gpu.sm_min_mhz, gpu.sm_max_mhz + 1, gpu.sm_step_mhz)
    for work in (DECODE, PREFILL):
        watts = [power_at(gpu, work, clock, gpu.memory_mhz[0]).watts for clock in clocks]
        assert watts == sorted(watts)
    assert loaded_idle_w(gpu, gpu.sm_max_mhz) == pytest.approx(gpu.loaded_idle_w)
    assert gpu.idle_w < loaded_idle_w(gpu, gpu.sm_min_mhz) < gpu.loaded_idle_w
    assert voltage_squared(gpu, gpu.sm_max_mhz) == 1.0


def test_tensor_parallelism_splits_the_work_and_pays_for_it() -> None:
    """Four GPUs take a step in more than a quarter of one's time and less than half of it."""
    batch = Batch(32, 32 * 500, 32 * 500, 32)
    one, four = (step_time(H100, step_work(find_model("qwen3-32b"), H100, n, batch), 1980, 2619) for n in (1, 4))
    assert one.busy_s / 4 < four.busy_s < one.busy_s / 2


def test_an_encoder_runs_its_own_weights_over_the_input() -> None:
    """Encoding 400 tokens costs their FLOPs in the encoder once; decoding reads the cached input instead."""
    t5 = find_model("t5-3b")
    first = step_work(t5, H100, 1, Batch(1, 400, 401, 1, encoder_tokens=400, encoder_pairs=160_000))
    later = step_work(t5, H100, 1, Batch(1, 401, 402, 1))
    assert first.matrix_flops > 2.0 * t5.encoder_parameters * 400
    assert later.matrix_flops < 2.0 * t5.parameters
    assert first.matrix_bytes == t5.weight_bytes
    assert later.matrix_bytes == t5.weight_bytes - 2 * t5.encoder_parameters


def test_70b_is_refused_on_one_gpu_with_what_would_do() -> None:
    """Weights that do not fit end in a usage error that says how much, of what, and which size fits."""
    with pytest.raises(ServerError, match=r"141.1 GB for weights.* of 85.5") as caught:
        require_fit(find_model("llama-3.1-70b"), H100, 1, 0.9)
    assert caught.value.exit_code == 2
    assert "--tensor-parallel 2" in caught.value.hint
    assert min_tensor_parallel(find_model("llama-3.1-70b"), H100) == 2


@pytest.mark.parametrize("gpu", list(load_hardware()))
def test_every_model_runs_somewhere_on_every_gpu(gpu: str) -> None:
    """Each model fits one, two, four or eight of each GPU, and an engine starts there with a context of some use."""
    hardware = load_hardware()[gpu]
    for model in load_models().values():
        engine = Engine(EngineConfig(model, hardware, min_tensor_parallel(model, hardware)))
        assert engine.max_model_len >= min(model.context, 2048)


@pytest.mark.parametrize("asked", [2049, 300_000])
def test_a_context_that_is_too_long_is_refused(asked: int) -> None:
    """More than the model's context, or than the cache holds, is a usage error."""
    name = "gpt-j-6b" if asked == 2049 else "llama-3.1-8b"
    with pytest.raises(ServerError, match=str(asked)) as caught:
        Engine(EngineConfig(find_model(name), H100, max_model_len=asked))
    assert caught.value.exit_code == 2
