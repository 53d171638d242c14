"""The engine's hand on its devices: appends power and truth, and looks for changed clocks and limits.

Every record reaches the file in one unbuffered write, so a reader in another process sees it whole and a killed engine
loses none.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import asdict
from typing import TYPE_CHECKING

from servers.sim.powerlog import POWER_FORMAT, REASON_IDLE, REASON_POWER_CAP
from servers.sim.truth import STEP_FORMAT, STEP_REQUEST_FORMAT, TrueRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from servers.sim.device import SimDevice
    from servers.sim.engine import StepResult
    from servers.sim.power import OperatingPoint

# A step's power is held this much beyond its end, so that a driver that is late with the next leaves no hole.
_STEP_SLACK_NS = 200_000_000
# An idle engine says again that it is there each second, and is believed for two.
IDLE_HEARTBEAT_NS = 1_000_000_000
_IDLE_HOLD_NS = 2 * IDLE_HEARTBEAT_NS
# How often what was set is looked for; a real clock change takes 50 to 200 ms.
LOOK_NS = 50_000_000

_POWER = struct.Struct(POWER_FORMAT)
_STEP = struct.Struct(STEP_FORMAT)


class Recorder:
    """Writes to the devices of one engine; all of them do the same."""

    def __init__(self, devices: Sequence[SimDevice]) -> None:
        self._devices = devices
        self._power = self._open("power.bin")
        self._steps = self._open("steps.bin")
        self._step_requests = self._open("step_requests.bin")
        self._requests = self._open("requests.jsonl")
        self._looked_ns: int | None = None

    def _open(self, name: str) -> list[int]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return [os.open(device.directory / name, flags, 0o644) for device in self._devices]

    def close(self) -> None:
        """Release the files. May be called twice."""
        for group in (self._power, self._steps, self._step_requests, self._requests):
            while group:
                os.close(group.pop())

    def point(self, now_ns: int) -> OperatingPoint | None:
        """Return what the first device allows, or None when the last look is too recent to look again.

        Devices of one engine work in step, so the first one's settings hold for all.
        """
        if self._looked_ns is not None and now_ns - self._looked_ns < LOOK_NS:
            return None
        self._looked_ns = now_ns
        return self._devices[0].operating_point(now_ns)

    def idle(self, now_ns: int, watts: float, sm_mhz: int, until_ns: int) -> None:
        """Note that nothing is in flight from `now_ns` on, until at least `until_ns` if no heartbeat comes."""
        hold_ns = max(_IDLE_HOLD_NS, until_ns - now_ns + _STEP_SLACK_NS)
        self._append(self._power, _POWER.pack(now_ns, hold_ns, watts, watts, sm_mhz, REASON_IDLE))

    def gone(self, now_ns: int, bare_w: float, bare_mhz: int) -> None:
        """Note that the engine has left the devices."""
        self._append(self._power, _POWER.pack(now_ns, 0, bare_w, bare_w, bare_mhz, REASON_IDLE))

    def accepted(self, request: TrueRequest) -> None:
        """Note which request a sequence number is."""
        self._append(self._requests, json.dumps(asdict(request)).encode() + b"\n")

    def step(self, step: StepResult) -> None:
        """Note a step when it begins."""
        reasons = REASON_POWER_CAP if step.clipped else 0
        hold_ns = step.end_ns - step.start_ns + _STEP_SLACK_NS
        self._append(self._power, _POWER.pack(step.start_ns, hold_ns, step.watts, step.idle_w, step.sm_mhz, reasons))
        prefill = decode = encoder = 0
        rows: list[int] = []
        for part in step.slices:
            prefill += part.prefill
            decode += part.decode
            encoder += part.encoder
            rows += (step.index, part.sequence, part.prefill, part.decode, part.encoder, part.cached)
        counts = (prefill, decode, encoder, step.running, step.waiting, len(step.preempted), step.sm_mhz, reasons)
        self._append(
            self._steps, _STEP.pack(step.index, step.start_ns, step.end_ns, step.energy_j, step.idle_w, *counts)
        )
        self._append(self._step_requests, struct.pack("<" + STEP_REQUEST_FORMAT * step.running, *rows))

    @staticmethod
    def _append(files: list[int], data: bytes) -> None:
        for file in files:
            os.write(file, data)
