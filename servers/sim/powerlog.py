"""Power over time, as a file of records that only grows, and its exact integrals.

    record k     |--- watts_k until the next record ---|
    last record  |--- watts_k ---- until its hold ends ----| bare idle ...

Whoever draws power says for how long at most, so a process that is killed leaves a device that falls to bare idle by
itself. Before the first record the device is bare.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from servers.sim.device import SimDevice

REASON_IDLE = 0x1
REASON_POWER_CAP = 0x4

# `idle_w`: what the engine would draw with nothing in flight; `reasons`: NVML's clock event bits.
POWER_RECORD = np.dtype(
    [
        ("start_ns", "<i8"),
        ("hold_ns", "<i8"),
        ("watts", "<f8"),
        ("idle_w", "<f8"),
        ("sm_mhz", "<i4"),
        ("reasons", "<i4"),
    ]
)
POWER_FORMAT = "<qqddii"


class ForgottenError(LookupError):
    """An instant lies in the part of the log that the reader was told to forget."""


class PowerLog:
    """Reads a device's power log as it grows."""

    def __init__(self, device: SimDevice) -> None:
        self._path: Path = device.directory / "power.bin"
        self._epoch_ns = device.info.epoch_ns
        self._bare_w = device.hardware.idle_w
        self._bare_mhz = device.hardware.sm_min_mhz
        self._read = 0
        # A bare record at the epoch spares every reader the case of an empty log.
        first = np.array([(self._epoch_ns, 0, self._bare_w, self._bare_w, self._bare_mhz, REASON_IDLE)], POWER_RECORD)
        self._records = first
        self._sums = np.zeros((3, 1))

    @property
    def records(self) -> NDArray[np.void]:
        """The records in memory, `POWER_RECORD`; the first may be a stand-in for the bare device."""
        return self._records

    def refresh(self) -> None:
        """Read what was appended since."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = len(data) // POWER_RECORD.itemsize * POWER_RECORD.itemsize
        if whole == 0:
            return
        self._read += whole
        fresh = np.concatenate((self._records[-1:], np.frombuffer(data[:whole], POWER_RECORD)))
        lengths = np.diff(fresh["start_ns"])
        steps = _integrals(fresh[:-1], lengths, self._bare_w)
        sums = self._sums[:, -1:] + np.cumsum(steps, axis=1)
        self._records = np.concatenate((self._records, fresh[1:]))
        self._sums = np.concatenate((self._sums, sums), axis=1)

    def forget(self, before_ns: int) -> None:
        """Drop records that ended before an instant, for readers that look back only a little.

        Integrals from the epoch stay exact, since the dropped part's sum is kept.
        """
        oldest = int(np.searchsorted(self._records["start_ns"], before_ns, side="right")) - 1
        # Copying on every reading would cost more than holding up to twice as much.
        if oldest > len(self._records) // 2:
            self._records = self._records[oldest:].copy()
            self._sums = self._sums[:, oldest:].copy()

    def _at(self, t_ns: NDArray[np.int64] | int, quantity: int) -> NDArray[np.float64]:
        """Return energy (0), idle energy (1) or busy seconds (2) from the epoch to each instant."""
        instants = np.atleast_1d(np.asarray(t_ns, np.int64))
        which = np.searchsorted(self._records["start_ns"], instants, side="right") - 1
        early = which < 0
        if early.any():
            if self._records["start_ns"][0] > self._epoch_ns:
                raise ForgottenError("that part of the log was forgotten")
            which = np.where(early, 0, which)
        lengths = instants - self._records["start_ns"][which]
        rest = _integrals(self._records[which], lengths, self._bare_w)
        total: NDArray[np.float64] = self._sums[quantity, which] + rest[quantity]
        return total

    def energy_j(self, t_ns: NDArray[np.int64] | int) -> NDArray[np.float64]:
        """Return the exact energy drawn from the epoch to each instant; negative before the epoch."""
        return self._at(t_ns, 0)

    def idle_energy_j(self, t_ns: NDArray[np.int64] | int) -> NDArray[np.float64]:
        """Return the energy that would have been drawn with nothing in flight at the same operating points."""
        return self._at(t_ns, 1)

    def busy_s(self, t_ns: NDArray[np.int64] | int) -> NDArray[np.float64]:
        """Return the seconds in steps from the epoch to each instant."""
        return self._at(t_ns, 2)

    def mean_power_w(self, start_ns: int, end_ns: int) -> float:
        """Return the mean power between two instants."""
        start_j, end_j = self.energy_j(np.array([start_ns, end_ns]))
        return float((end_j - start_j) / ((end_ns - start_ns) * 1e-9))

    def clock_at(self, t_ns: int) -> tuple[int, int]:
        """Return the SM clock and the clock event bits at an instant."""
        which = max(0, int(np.searchsorted(self._records["start_ns"], t_ns, side="right")) - 1)
        record = self._records[which]
        if t_ns - record["start_ns"] >= record["hold_ns"]:
            return self._bare_mhz, REASON_IDLE
        return int(record["sm_mhz"]), int(record["reasons"])


def _integrals(records: NDArray[np.void], lengths_ns: NDArray[np.int64], bare_w: float) -> NDArray[np.float64]:
    """Return (joules, idle joules, busy seconds) over `lengths_ns` from each record's start."""
    held = np.minimum(lengths_ns, records["hold_ns"]) * 1e-9
    bare = lengths_ns * 1e-9 - held
    busy = (records["reasons"] & REASON_IDLE) == 0
    return np.stack((records["watts"] * held + bare_w * bare, records["idle_w"] * held + bare_w * bare, busy * held))
