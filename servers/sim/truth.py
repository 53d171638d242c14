"""What the simulation knows and a measurement can only estimate: each step's energy and content. For checking."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from servers.sim.powerlog import PowerLog

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from servers.sim.device import SimDevice

# A step on this GPU. `energy_j` is this GPU's; `idle_w` what it would have drawn with nothing in flight.
STEP_RECORD = np.dtype(
    [
        ("step", "<i8"),
        ("start_ns", "<i8"),
        ("end_ns", "<i8"),
        ("energy_j", "<f8"),
        ("idle_w", "<f8"),
        ("prefill_tokens", "<i4"),
        ("decode_tokens", "<i4"),
        ("encoder_tokens", "<i4"),
        ("running", "<i4"),
        ("waiting", "<i4"),
        ("preempted", "<i4"),
        ("sm_mhz", "<i4"),
        ("reasons", "<i4"),
    ]
)
STEP_FORMAT = "<qqqddiiiiiiii"

# A request's part of a step. `cached` tokens were there before; `sequence` is named in requests.jsonl.
STEP_REQUEST_RECORD = np.dtype(
    [
        ("step", "<i8"),
        ("sequence", "<i8"),
        ("prefill_tokens", "<i4"),
        ("decode_tokens", "<i4"),
        ("encoder_tokens", "<i4"),
        ("cached_tokens", "<i4"),
    ]
)
STEP_REQUEST_FORMAT = "qqiiii"


@dataclass(frozen=True, slots=True)
class TrueEnergy:
    """Energy over a window, exactly: all of it, what an idle engine would have drawn, and the rest."""

    total_j: float
    idle_j: float
    active_j: float


@dataclass(frozen=True, slots=True)
class TrueRequest:
    """Which request a sequence number is, and what was asked of it."""

    sequence: int
    request_id: str
    arrival_ns: int
    prompt_tokens: int
    output_tokens: int


def read_steps(device: SimDevice) -> NDArray[np.void]:
    """Return every step the device has run, `STEP_RECORD`; engines in turn number their steps from 0."""
    return _read(device, "steps.bin", STEP_RECORD)


def read_step_requests(device: SimDevice) -> NDArray[np.void]:
    """Return every request's part of every step, `STEP_REQUEST_RECORD`."""
    return _read(device, "step_requests.bin", STEP_REQUEST_RECORD)


def read_requests(device: SimDevice) -> list[TrueRequest]:
    """Return every request that was accepted, in order."""
    path = device.directory / "requests.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [TrueRequest(**json.loads(line)) for line in lines]


def true_energy(device: SimDevice, start_ns: int, end_ns: int) -> TrueEnergy:
    """Return the energy the device drew between two instants."""
    log = PowerLog(device)
    log.refresh()
    edges = np.array([start_ns, end_ns], np.int64)
    total_j, idle_j = float(np.diff(log.energy_j(edges))[0]), float(np.diff(log.idle_energy_j(edges))[0])
    return TrueEnergy(total_j, idle_j, total_j - idle_j)


def _read(device: SimDevice, name: str, record: np.dtype[np.void]) -> NDArray[np.void]:
    path = device.directory / name
    data = path.read_bytes() if path.exists() else b""
    return np.frombuffer(data[: len(data) // record.itemsize * record.itemsize], record)
