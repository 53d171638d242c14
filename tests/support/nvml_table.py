"""A table that answers in NVML's place: what each card tells by function, in the official binding's own structures.

The values are what such cards are documented to tell, not a recording of one; what the tests hold is how they are
read. A function or constant that the binding does not have is an error here too, so a misspelt name cannot pass.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pynvml

if TYPE_CHECKING:
    from collections.abc import Callable

GPU_SCOPE, MODULE_SCOPE = pynvml.NVML_POWER_SCOPE_GPU, pynvml.NVML_POWER_SCOPE_MODULE
INSTANT, AVERAGE = pynvml.NVML_FI_DEV_POWER_INSTANT, pynvml.NVML_FI_DEV_POWER_AVERAGE


@dataclass(frozen=True)
class Fails:
    """An answer that is an NVML return code."""

    code: int


NOT_SUPPORTED = Fails(pynvml.NVML_ERROR_NOT_SUPPORTED)
NO_PERMISSION = Fails(pynvml.NVML_ERROR_NO_PERMISSION)
UNKNOWN_FUNCTION = Fails(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
LOST = Fails(pynvml.NVML_ERROR_GPU_IS_LOST)


@dataclass
class Card:
    """One GPU: its answers by function, by (function, first argument) where that matters, and its power fields in mW.

    An answer is a value, a `Fails`, an exception, or a function without arguments that gives one of these.
    """

    answers: dict[Any, Any]
    power_mw: dict[tuple[int, int], Any] = field(default_factory=dict)
    everything: Fails | None = None

    def answer(self, function: str, arguments: tuple[Any, ...]) -> Any:
        """Return or raise what the binding would."""
        if self.everything is not None:
            return _told(self.everything)
        if function == "nvmlDeviceGetFieldValues":
            return [self._field(*wanted) for wanted in arguments[0]]
        key = (function, arguments[0]) if arguments else function
        return _told(self.answers.get(key, NOT_SUPPORTED))

    def _field(self, field_id: int, scope: int) -> Any:
        told = self.power_mw.get((field_id, scope), NOT_SUPPORTED)
        value = pynvml.c_nvmlFieldValue_t(
            fieldId=field_id, scopeId=scope, valueType=pynvml.NVML_VALUE_TYPE_UNSIGNED_INT
        )
        if isinstance(told, Fails):
            value.nvmlReturn = told.code
        else:
            value.value.uiVal = told
        return value


def _told(answer: Any) -> Any:
    answer = answer() if callable(answer) else answer
    if isinstance(answer, Fails):
        raise pynvml.NVMLError(answer.code)
    if isinstance(answer, Exception):
        raise answer
    return answer


class NvmlTable(ModuleType):
    """The binding: `cards` by index; `calls` counts every function called, `references` those holding NVML open."""

    def __init__(self, *cards: Card, init: Fails | None = None) -> None:
        super().__init__("nvml_table")
        self.cards = cards
        self.calls: Counter[str] = Counter()
        self.references = 0
        self._init = init

    def __getattr__(self, name: str) -> Any:
        real = getattr(pynvml, name)
        return self._function(name) if name.startswith("nvmlDevice") else real

    def _function(self, name: str) -> Callable[..., Any]:
        def call(card: Card, *arguments: Any) -> Any:
            self.calls[name] += 1
            return card.answer(name, arguments)

        return call

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's name
        """Open NVML once more."""
        if self._init is not None:
            raise pynvml.NVMLError(self._init.code)
        self.references += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        """Close NVML once."""
        self.references -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        """Tell the driver's version."""
        return "570.86.15"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """Count the cards, those not permitted among them."""
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:  # noqa: N802
        """Find a card; one whose name is refused is not permitted."""
        if index >= len(self.cards):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        _told(self.cards[index].answers.get("handle"))
        return self.cards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Card:  # noqa: N802
        """Find a card."""
        for card in self.cards:
            if card.answers.get("nvmlDeviceGetUUID") == uuid:
                return card
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)


def _utilization(percent: int) -> Any:
    return pynvml.c_nvmlUtilization_t(gpu=percent, memory=10)


def _memory(total: int, used: int) -> Any:
    return pynvml.c_nvmlMemory_t(total=total, free=total - used, used=used)


def process(pid: int, memory_bytes: int | None) -> Any:
    """Return a row of the running processes."""
    return pynvml.nvmlFriendlyObject({"pid": pid, "usedGpuMemory": memory_bytes})


def h100(index: int = 0) -> Card:
    """Return a data-centre card that tells everything; its counter grows by 70 J a call."""
    counter = itertools.count(1_234_567, 70_000)
    return Card(
        {
            "nvmlDeviceGetName": "NVIDIA H100 80GB HBM3",
            "nvmlDeviceGetUUID": f"GPU-00000000-0000-0000-0000-00000000000{index}",
            "nvmlDeviceGetIndex": index,
            "nvmlDeviceGetVbiosVersion": "96.00.74.00.01",
            "nvmlDeviceGetTotalEnergyConsumption": lambda: next(counter),
            "nvmlDeviceGetPowerUsage": 629_000,
            ("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM): 1_755,
            ("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_MEM): 2_619,
            ("nvmlDeviceGetMaxClockInfo", pynvml.NVML_CLOCK_SM): 1_980,
            ("nvmlDeviceGetMaxClockInfo", pynvml.NVML_CLOCK_MEM): 2_619,
            ("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU): 41,
            "nvmlDeviceGetUtilizationRates": _utilization(97),
            "nvmlDeviceGetMemoryInfo": _memory(85_520_809_984, 70_000_000_000),
            "nvmlDeviceGetEnforcedPowerLimit": 700_000,
            "nvmlDeviceGetPowerManagementLimit": 700_000,
            "nvmlDeviceGetPowerManagementDefaultLimit": 700_000,
            "nvmlDeviceGetPowerManagementLimitConstraints": [200_000, 700_000],
            "nvmlDeviceGetCurrentClocksEventReasons": pynvml.nvmlClocksEventReasonSwPowerCap,
            "nvmlDeviceGetMigMode": [0, 0],
            "nvmlDeviceGetPersistenceMode": 1,
            "nvmlDeviceGetEccMode": [1, 1],
            "nvmlDeviceGetDisplayActive": 0,
            "nvmlDeviceGetComputeRunningProcesses": [process(4242, 69_000_000_000)],
            "nvmlDeviceGetGraphicsRunningProcesses": [],
        },
        {(INSTANT, GPU_SCOPE): 588_000, (AVERAGE, GPU_SCOPE): 629_000},
    )


def gh200(index: int = 0) -> Card:
    """Return a Grace Hopper module that tells power in the module's scope alone."""
    card = h100(index)
    card.answers["nvmlDeviceGetName"] = "NVIDIA GH200 480GB"
    card.power_mw = {(INSTANT, MODULE_SCOPE): 812_000, (AVERAGE, MODULE_SCOPE): 803_000}
    return card


def p100(index: int = 0) -> Card:
    """Return a card from before counters and power fields, with a driver that knows the old names alone."""
    card = h100(index)
    card.answers |= {
        "nvmlDeviceGetName": "Tesla P100-PCIE-16GB",
        "nvmlDeviceGetTotalEnergyConsumption": NOT_SUPPORTED,
        "nvmlDeviceGetPowerUsage": 31_500,
        "nvmlDeviceGetMigMode": NOT_SUPPORTED,
        "nvmlDeviceGetCurrentClocksEventReasons": UNKNOWN_FUNCTION,
        "nvmlDeviceGetCurrentClocksThrottleReasons": pynvml.nvmlClocksEventReasonGpuIdle,
    }
    card.power_mw = {}
    return card


def rtx4090(index: int = 0) -> Card:
    """Return a desktop's card, with a display on it and a browser drawing and computing."""
    card = h100(index)
    card.answers |= {
        "nvmlDeviceGetName": b"NVIDIA GeForce RTX 4090",
        "nvmlDeviceGetMigMode": NOT_SUPPORTED,
        "nvmlDeviceGetDisplayActive": 1,
        "nvmlDeviceGetGraphicsRunningProcesses": [process(11, 90_000_000), process(12, None)],
        "nvmlDeviceGetComputeRunningProcesses": [process(12, None), process(13, 5_000_000_000)],
    }
    return card
