"""Checks this machine's NVIDIA GPUs and records them: what `make gpu-check` runs.

For each GPU: the contract of `profiler.gpu.contract`, which sensors are absent, the update period of each sensor, what
one reading costs, and how far counter and integrated power disagree. The recording is what `--gpu replay:FILE` plays.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from profiler.energy import window_energy
from profiler.gpu.base import GpuError, GpuLostError
from profiler.gpu.contract import violations
from profiler.gpu.nvml import open_gpus
from profiler.gpu.probe import find_nvidia
from profiler.gpu.readings import schema_for, to_batch
from profiler.sampler import Sampler
from profiler.trace import traces

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from numpy.typing import ArrayLike

    from profiler.gpu.base import Gpu, GpuInfo, Reading

LEARN_S = 3.0
RECORD_S = 10.0
RECORD_HZ = 50.0
# A reading in between leaves the driver's lock to others; a period is then known to about 1 ms and a read.
_PAUSE_S = 0.001
_MIN_CHANGES = 3
WATCHED = ("energy_j", "power_w", "power_average_w", "sm_mhz", "utilization", "temperature_c")


def update_period_s(times_s: ArrayLike, values: ArrayLike) -> float:
    """Return the time between two publications of a sensor that was read faster than that.

    The median of the times between changes: a publication that equals the one before it hides one change and
    doubles one gap, which a median bears as long as most publications differ. NaN with fewer than three changes.
    """
    times, held = np.asarray(times_s, np.float64), np.asarray(values, np.float64)
    changed = times[1:][np.diff(held) != 0] if held.size else times[:0]
    return math.nan if changed.size < _MIN_CHANGES else float(np.median(np.diff(changed)))


@dataclass(frozen=True, slots=True)
class Learnt:
    """What fast polling showed of one GPU: seconds between publications by column, and the median cost of a read."""

    periods_s: dict[str, float]
    read_s: float


def learn(gpu: Gpu, seconds: float) -> Learnt:
    """Poll one GPU as fast as it answers.

    Raises:
        GpuLostError: it stopped answering.
    """
    readings: list[Reading] = []
    end_ns = time.monotonic_ns() + int(seconds * 1e9)
    while not readings or readings[-1].after_ns < end_ns:
        readings.append(gpu.read())
        time.sleep(_PAUSE_S)
    return learnt_from(readings)


def learnt_from(readings: Sequence[Reading]) -> Learnt:
    """Return the update periods and the cost that readings show."""
    times_s = np.array([0.5e-9 * (reading.before_ns + reading.after_ns) for reading in readings])
    periods = {name: _period_of([getattr(r, name) for r in readings], times_s) for name in WATCHED}
    return Learnt(periods, float(np.median([(r.after_ns - r.before_ns) * 1e-9 for r in readings])))


def _period_of(values: Sequence[float], times_s: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    held = np.array(values)
    told = ~np.isnan(held)
    return update_period_s(times_s[told], held[told])


def record(gpus: Sequence[Gpu], seconds: float, hz: float) -> pa.Table:
    """Return `seconds` of readings of every GPU.

    Raises:
        GpuLostError: one stopped answering.
    """
    rows: list[tuple[GpuInfo, Reading]] = []
    lost: list[GpuLostError] = []
    sampler = Sampler(gpus, 1.0 / hz, lambda *row: rows.append(row), lambda _, error: lost.append(error))
    sampler.start()
    threading.Event().wait(seconds)
    sampler.stop()
    if lost:
        raise lost[0]
    return pa.Table.from_batches([to_batch(rows, schema_for([gpu.info for gpu in gpus]))])


def check(
    gpus: Sequence[Gpu],
    out: Path,
    tell: Callable[[str], object],
    *,
    seconds: float = RECORD_S,
    learn_s: float = LEARN_S,
) -> bool:
    """Check, learn and record; tell a report line by line; return whether every promise was kept.

    Raises:
        GpuError: a GPU stopped answering, or `out` cannot be written.
    """
    kept = True
    for gpu in gpus:
        broken = violations(gpu)
        kept = kept and not broken
        for line in _described(gpu.info, broken, learn(gpu, learn_s)):
            tell(line)
    table = record(gpus, seconds, RECORD_HZ)
    for line in _compared(table):
        tell(line)
    _write(table, out)
    tell(f"{table.num_rows} readings in {out}; replay them with --gpu replay:{out}")
    return kept


def _write(table: pa.Table, out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, out)
    except OSError as error:
        raise GpuError(f"cannot write {out}: {error.strerror}", hint="choose another place with --out") from error


def _described(info: GpuInfo, broken: Sequence[str], learnt: Learnt) -> list[str]:
    periods = (f"  {name:16} {_milliseconds(period_s)}" for name, period_s in learnt.periods_s.items())
    return [
        f"GPU {info.index}  {info.name}  {info.uuid}  driver {info.driver}  energy of the {info.boundary}",
        *(f"  absent           {line}" for line in info.absent),
        *(f"  BROKEN           {line}" for line in broken),
        *periods,
        f"  one reading      takes {learnt.read_s * 1e3:.2f} ms",
    ]


def _milliseconds(period_s: float) -> str:
    return "not seen to change often enough" if math.isnan(period_s) else f"new every {period_s * 1e3:.0f} ms"


def _compared(table: pa.Table) -> list[str]:
    """Return a line a GPU with the energy of the recording by counter and by integrated power."""
    lines = []
    for trace in traces(table):
        # The counter is known between its publications alone: leave one of them out at either end.
        edge_ns = min(int(0.5e9), int(trace.t_ns[-1] - trace.t_ns[0]) // 4)
        start_ns, end_ns = int(trace.t_ns[0]) + edge_ns, int(trace.t_ns[-1]) - edge_ns
        energy = window_energy(trace, start_ns, end_ns)
        ratio = energy.disagreement_ratio
        lines.append(
            f"GPU {trace.index}  {(end_ns - start_ns) * 1e-9:.1f} s: counter {_joules(energy.counter_j)}, "
            f"power {_joules(energy.integral_j)}" + ("" if ratio is None else f", apart by {ratio:.1%}")
        )
    return lines


def _joules(energy_j: float | None) -> str:
    return "none" if energy_j is None else f"{energy_j:.1f} J"


def main(argv: Sequence[str] | None = None, binding: ModuleType | None = None) -> int:
    """Check the GPUs of this machine; return 0, 1 when a promise is broken, 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="profiler.gpu.check", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-recording.parquet"), help="the recording to write")
    parser.add_argument("--seconds", type=float, default=RECORD_S, help="how long to record")
    options = parser.parse_args(argv)
    reason = find_nvidia(binding).reason
    if reason is not None:
        sys.stderr.write(f"no GPU to check: {reason}\n")
        return 2
    try:
        gpus = open_gpus((), binding)
        try:
            kept = check(gpus, options.out, lambda line: sys.stdout.write(f"{line}\n"), seconds=options.seconds)
        finally:
            for gpu in gpus:
                gpu.close()
    except GpuError as error:
        sys.stderr.write(f"error: {error}. {error.hint}\n")
        return error.exit_code
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
