"""How the simulated engine is started: the same way as any other, as a process behind HTTP."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from servers.launched import Launch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from servers.models import ModelSpec


@dataclass(frozen=True, slots=True)
class SimPlace:
    """On which simulated GPU an engine runs, where that GPU's state lies, and where the engine listens."""

    gpu: str
    state: Path
    host: str
    port: int


def sim_launch(model: ModelSpec, at: SimPlace, options: Mapping[str, str], extra: tuple[str, ...]) -> Launch:
    """Return the launch of a simulated engine; `options` are its arguments by name, `extra` go as they are."""
    arguments = {"model": model.name, "gpu": at.gpu, "state-dir": str(at.state), "host": at.host, **options}
    flags = [part for name, value in arguments.items() for part in (f"--{name}", value)]
    return Launch(
        engine="sim",
        command=(sys.executable, "-P", "-m", "servers.sim", *flags, "--port", str(at.port), *extra),
        url=f"http://{at.host}:{at.port}",
        model=model.name,
        vocab_size=model.vocab_size,
        arguments={**arguments, "extra": " ".join(extra)},
        grace_s=2.0,
    )
