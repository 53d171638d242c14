"""`jouletrace serve`."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from servers.models import find_model
from servers.process import claim_port
from servers.sim.hardware import find_hardware, min_tensor_parallel
from servers.simulated import SimPlace, sim_launch

if TYPE_CHECKING:
    import argparse


def run(arguments: argparse.Namespace) -> int:
    """Become the simulated engine; does not return."""
    model = find_model(arguments.model)
    gpu = arguments.gpu.removeprefix("sim:")
    width = arguments.tensor_parallel or min_tensor_parallel(model, find_hardware(gpu))
    state = arguments.state or Path(tempfile.mkdtemp(prefix="jouletrace-sim-"))
    at = SimPlace(gpu=gpu, state=state, host="127.0.0.1", port=claim_port("127.0.0.1", arguments.port))
    launch = sim_launch(model, at, {"tensor-parallel": str(width)}, ())
    sys.stderr.write(f"SIMULATED {model.name} on {gpu} at {launch.url}\n")
    sys.stderr.write(f"profile it: jouletrace profile --url {launch.url} --gpu simdir:{state}\n")
    sys.stderr.flush()
    os.execv(launch.command[0], launch.command)
