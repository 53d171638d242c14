"""NVML's answers become readings in SI units, absences become reasons, and failures become typed errors."""

from __future__ import annotations

import math
from dataclasses import fields

import pynvml
import pytest

from profiler.gpu.base import GpuError, GpuLostError, GpuProcess, Reading
from profiler.gpu.nvml import open_gpus
from profiler.gpu.nvml_errors import MEANINGS, gpu_error
from tests.support.nvml_table import (
    AVERAGE,
    GPU_SCOPE,
    INSTANT,
    LOST,
    NO_PERMISSION,
    NOT_SUPPORTED,
    Card,
    Fails,
    NvmlTable,
    gh200,
    h100,
    p100,
    rtx4090,
)

TRANSIENT = Fails(pynvml.NVML_ERROR_TIMEOUT)


def read(card: Card) -> Reading:
    """Open the card and read it once."""
    return open_gpus((), NvmlTable(card))[0].read()


def test_every_sensor_is_told_in_its_unit() -> None:
    """Millijoules, milliwatts and percent are converted once; clocks stay MHz and bits stay bits."""
    reading = read(h100())
    assert reading.energy_j % 70 == pytest.approx(1_234.567 % 70)
    assert (reading.power_w, reading.power_average_w, reading.power_limit_w) == (588.0, 629.0, 700.0)
    assert (reading.sm_mhz, reading.memory_mhz, reading.temperature_c) == (1755.0, 2619.0, 41.0)
    assert (reading.utilization, reading.memory_used_bytes) == (pytest.approx(0.97), 70e9)
    assert reading.event_reasons == 0x4
    assert reading.before_ns <= reading.after_ns


def test_what_does_not_change_is_told_once() -> None:
    """Identity, limits, modes and versions are in the description, and a card with everything lacks nothing."""
    info = open_gpus((), NvmlTable(h100()))[0].info
    assert (info.name, info.driver, info.vbios) == ("NVIDIA H100 80GB HBM3", "570.86.15", "96.00.74.00.01")
    limits_w = (info.power_limit_min_w, info.power_limit_default_w, info.power_limit_w, info.power_limit_max_w)
    assert limits_w == (200.0, 700.0, 700.0, 700.0)
    assert (info.sm_clock_max_mhz, info.memory_clock_max_mhz, info.memory_total_bytes) == (1980, 2619, 85_520_809_984)
    modes = (info.mig_enabled, info.persistence_mode, info.ecc_enabled, info.display_active)
    assert modes == (False, True, True, False)
    assert (info.boundary, info.simulated, info.absent) == ("gpu-board", False, ())


def test_mig_is_told() -> None:
    """A card in MIG mode says so, by the mode it is in now and not the one after a reset."""
    card = h100()
    card.answers["nvmlDeviceGetMigMode"] = [1, 0]
    assert open_gpus((), NvmlTable(card))[0].info.mig_enabled is True


def test_bytes_are_text() -> None:
    """A binding that tells names in bytes is understood too."""
    assert open_gpus((), NvmlTable(rtx4090()))[0].info.name == "NVIDIA GeForce RTX 4090"


def test_a_card_that_does_not_know_mig_has_it_off() -> None:
    """Not supported means off for MIG, unknown for a mode that was refused."""
    card = h100()
    card.answers["nvmlDeviceGetMigMode"] = NOT_SUPPORTED
    card.answers["nvmlDeviceGetPersistenceMode"] = NO_PERMISSION
    info = open_gpus((), NvmlTable(card))[0].info
    assert (info.mig_enabled, info.persistence_mode) == (False, None)
    assert info.absent == ("persistence mode: no permission",)


def test_an_old_card_tells_average_power_alone() -> None:
    """Without power fields the driver's mean is average power, never instantaneous, and both absences have a reason."""
    gpu = open_gpus((), NvmlTable(p100()))[0]
    reading = gpu.read()
    assert math.isnan(reading.energy_j)
    assert math.isnan(reading.power_w)
    assert reading.power_average_w == 31.5
    assert reading.event_reasons == 0x1
    assert gpu.info.absent == (
        "instantaneous power: not supported by this GPU",
        "energy counter: not supported by this GPU",
    )


def test_power_of_the_module_alone_makes_the_module_the_boundary() -> None:
    """Where only the module's scope answers, that is used, counter included, and the boundary says so."""
    gpu = open_gpus((), NvmlTable(gh200()))[0]
    assert gpu.info.boundary == "gpu-module"
    assert (gpu.read().power_w, gpu.info.absent) == (812.0, ())
    assert not math.isnan(gpu.read().energy_j)


def test_a_counter_of_another_boundary_is_left_out() -> None:
    """A module's counter beside the GPU's own power would compare two things: the counter goes, with a reason."""
    card = gh200()
    card.power_mw |= {(INSTANT, GPU_SCOPE): 500_000, (AVERAGE, GPU_SCOPE): 500_000}
    gpu = open_gpus((), NvmlTable(card))[0]
    assert gpu.info.boundary == "gpu-board"
    assert math.isnan(gpu.read().energy_j)
    assert [line for line in gpu.info.absent if "whole module" in line]


def test_nothing_is_asked_that_did_not_answer_at_opening() -> None:
    """A reading asks the sensors found, each once, and power in one call."""
    table = NvmlTable(p100())
    gpu = open_gpus((), table)[0]
    table.calls.clear()
    gpu.read()
    assert table.calls == {
        "nvmlDeviceGetPowerUsage": 1,
        "nvmlDeviceGetClockInfo": 2,
        "nvmlDeviceGetTemperature": 1,
        "nvmlDeviceGetUtilizationRates": 1,
        "nvmlDeviceGetMemoryInfo": 1,
        "nvmlDeviceGetEnforcedPowerLimit": 1,
        "nvmlDeviceGetCurrentClocksThrottleReasons": 1,
    }


def test_a_sensor_that_fails_once_is_missing_once() -> None:
    """A timeout makes that value NaN and that one alone, and the next reading has it again."""
    card = h100()
    gpu = open_gpus((), NvmlTable(card))[0]
    card.answers["nvmlDeviceGetEnforcedPowerLimit"] = TRANSIENT
    card.power_mw[INSTANT, GPU_SCOPE] = TRANSIENT
    reading = gpu.read()
    missing = {f.name for f in fields(Reading) if math.isnan(getattr(reading, f.name))}
    assert missing == {"power_limit_w", "power_w"}
    card.answers["nvmlDeviceGetEnforcedPowerLimit"] = 300_000
    assert gpu.read().power_limit_w == 300.0


@pytest.mark.parametrize("where", ["call", "field"])
def test_a_lost_gpu_is_an_error_of_its_own(where: str) -> None:
    """Falling off the bus raises GpuLostError with what to do, whether a call or a single field value tells it."""
    card = h100()
    gpu = open_gpus((), NvmlTable(card))[0]
    if where == "call":
        card.everything = LOST
    else:
        card.power_mw[INSTANT, GPU_SCOPE] = LOST
    with pytest.raises(GpuLostError, match=r"GPU 0 .*H100.*fell off the bus") as caught:
        gpu.read()
    assert "reset" in caught.value.hint


def test_a_gpu_none_of_whose_sensors_answers_is_lost() -> None:
    """A driver that answers every question with unknown error is not read as a GPU with nothing to tell."""
    card = h100()
    gpu = open_gpus((), NvmlTable(card))[0]
    card.everything = Fails(pynvml.NVML_ERROR_UNKNOWN)
    with pytest.raises(GpuLostError, match="none of its sensors"):
        gpu.read()


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (pynvml.NVML_ERROR_NO_PERMISSION, GpuError, "no permission"),
        (pynvml.NVML_ERROR_NOT_SUPPORTED, GpuError, "not supported"),
        (pynvml.NVML_ERROR_GPU_IS_LOST, GpuLostError, "fell off the bus"),
        (pynvml.NVML_ERROR_RESET_REQUIRED, GpuLostError, "needs a reset"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, GpuLostError, "different versions"),
        (pynvml.NVML_ERROR_UNKNOWN, GpuError, "NVML failed"),
        (12345, GpuError, "code 12345"),
    ],
)
def test_a_return_code_says_what_failed_and_what_to_do(code: int, kind: type[GpuError], words: str) -> None:
    """One table gives each code its error, its words and a hint; a new code is named by its number."""
    error = gpu_error(code, "GPU 3")
    assert isinstance(error, GpuLostError) == (kind is GpuLostError)
    assert str(error).startswith("GPU 3: ")
    assert words in str(error)
    assert error.hint


def test_the_table_of_codes_is_the_bindings() -> None:
    """No code in the table is one that the binding does not have."""
    known = {value for name, value in vars(pynvml).items() if name.startswith("NVML_ERROR_")}
    assert set(MEANINGS) <= known


def test_gpus_are_named_by_index_or_uuid_in_the_order_given() -> None:
    """The order of the names is the order of the meters."""
    table = NvmlTable(h100(0), h100(1), h100(2))
    uuid = str(h100(2).answers["nvmlDeviceGetUUID"])
    assert [gpu.info.index for gpu in open_gpus((uuid, "0"), table)] == [2, 0]


@pytest.mark.parametrize("name", ["7", "GPU-none"])
def test_a_gpu_that_is_not_there_is_refused(name: str) -> None:
    """The error names the GPU asked for."""
    with pytest.raises(GpuError, match=f"no GPU {name}"):
        open_gpus((name,), NvmlTable(h100()))


def test_a_mig_instance_is_refused() -> None:
    """Power is told for a whole GPU, so a slice of one cannot be a meter."""
    with pytest.raises(GpuError, match="MIG instance"):
        open_gpus(("MIG-1",), NvmlTable(h100()))


def test_gpus_of_others_are_passed_over() -> None:
    """NVML counts every GPU of the host; those a batch job may not use do not keep the others from being opened."""
    hidden = h100(0)
    hidden.answers["handle"] = NO_PERMISSION
    assert [gpu.info.index for gpu in open_gpus((), NvmlTable(hidden, h100(1)))] == [1]
    with pytest.raises(GpuError, match="no GPU that this user may use"):
        open_gpus((), NvmlTable(hidden))


def test_every_reference_to_nvml_is_given_back() -> None:
    """Open GPUs hold one reference each, closing twice gives back one, and a failed opening keeps none."""
    table = NvmlTable(h100(0), h100(1))
    gpus = open_gpus((), table)
    assert table.references == 2
    for gpu in (*gpus, *gpus):
        gpu.close()
    assert table.references == 0
    broken = NvmlTable(h100(0), Card({"nvmlDeviceGetName": LOST}))
    with pytest.raises(GpuLostError):
        open_gpus((), broken)
    assert broken.references == 0


def test_processes_are_told_once_each() -> None:
    """A process that draws and computes is a computing one, and memory that is not told is None."""
    gpu = open_gpus((), NvmlTable(rtx4090()), host_pids=True)[0]
    assert gpu.processes() == (
        GpuProcess(11, 90_000_000, "graphics"),
        GpuProcess(12, None, "compute"),
        GpuProcess(13, 5_000_000_000, "compute"),
    )


@pytest.mark.parametrize(
    "answer", [NO_PERMISSION, LOST, pynvml.NVMLLibraryMismatchError("old library")], ids=["refused", "lost", "mismatch"]
)
def test_processes_that_cannot_be_told_are_unknown(answer: object) -> None:
    """A refusal is not an empty list."""
    card = h100()
    card.answers["nvmlDeviceGetComputeRunningProcesses"] = answer
    assert open_gpus((), NvmlTable(card), host_pids=True)[0].processes() is None


def test_host_process_ids_mean_nothing_in_a_namespace_of_ones_own() -> None:
    """In a container NVML tells the host's ids: who holds the GPU is unknown rather than wrong."""
    assert open_gpus((), NvmlTable(h100()), host_pids=False)[0].processes() is None
