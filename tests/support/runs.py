"""Manifests and tables of runs, made by hand."""

from __future__ import annotations

from profiler.config import ProfileConfig
from profiler.join import Timeline
from profiler.manifest import ClockPart, Manifest, this_host, this_owner


def config(**fields: object) -> ProfileConfig:
    """Return a configuration with every default but these fields."""
    return ProfileConfig.model_validate({"model": "mistral-7b", **fields})


def manifest(**fields: object) -> Manifest:
    """Return the manifest of a run that has just begun."""
    base = {
        "run_id": "run",
        "jouletrace_version": "0",
        "owner": this_owner(),
        "clock": ClockPart(monotonic_ns=1_000, wall_ns=2_000),
        "host": this_host(),
        "config": config(),
        "simulated": True,
        "model": "mistral-7b",
        "weights": "real",
        "timeline": Timeline(origin_ns=1_000),
    }
    return Manifest.model_validate({**base, **fields})
