"""What `--gpu` may say to an exporter, and the meters it opens.

nvml            every NVIDIA GPU          nvml:0,1 or nvml:UUID,UUID    these
simdir:DIR      the simulated GPUs whose state lies under DIR
replay:FILE     a recording               rapl                          the host's energy counters
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from profiler.gpu.base import GpuError
from profiler.gpu.nvml import open_gpus
from profiler.gpu.rapl import open_rapl
from profiler.gpu.replay import open_replay
from profiler.gpu.sim import open_simulated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from profiler.gpu.base import Gpu


def open_meters(spec: str) -> Sequence[Gpu]:
    """Return the meters that `spec` names, open.

    Raises:
        GpuError: there are none, or it cannot be read.
    """
    kind, _, rest = spec.partition(":")
    if kind == "nvml":
        return open_gpus([part for part in rest.split(",") if part])
    if kind == "rapl":
        return open_rapl()
    if kind == "simdir" and rest:
        return open_simulated(Path(rest))
    if kind == "replay" and rest:
        return open_replay(Path(rest))
    raise GpuError(f"cannot read --gpu {spec}", hint="use nvml, nvml:0,1, nvml:UUID, replay:FILE or rapl")
