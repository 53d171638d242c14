"""`jouletrace profile`."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from profiler.config import FULL_IDLE_S, FULL_WINDOW_S, QUICK_IDLE_S, QUICK_WINDOW_S, ProfileConfig
from profiler.errors import ExitCode, UsageError
from profiler.report.progress import Progress
from profiler.report.terminal import render
from profiler.run import profile
from servers.models import load_models

if TYPE_CHECKING:
    import argparse


def config_from(arguments: argparse.Namespace) -> ProfileConfig:
    """Return the configuration that the flags state.

    Raises:
        UsageError: a value is out of range, or neither a model nor a URL was given.
    """
    if arguments.model is None and arguments.url is None:
        raise UsageError(
            "no model was named",
            hint=f"type MODEL=mistral-7b behind make profile, or another of: {', '.join(load_models())}",
        )
    full = arguments.full
    fields: dict[str, Any] = {
        "model": arguments.model,
        "server": arguments.server,
        "url": arguments.url,
        "gpu": arguments.gpu,
        "exporter": arguments.exporter,
        "arrival": arguments.arrival,
        "rate_rps": arguments.rate,
        "concurrency": arguments.concurrency,
        "input": arguments.input,
        "output": arguments.output,
        "duration_s": _given(arguments.duration, FULL_WINDOW_S if full else QUICK_WINDOW_S),
        "requests": arguments.requests,
        "warmup_s": None if arguments.warmup == "auto" else arguments.warmup,
        "idle_s": _given(arguments.idle, FULL_IDLE_S if full else QUICK_IDLE_S),
        "full": full,
        "weights": arguments.weights,
        "dtype": arguments.dtype,
        "tensor_parallel": arguments.tensor_parallel,
        "max_model_len": arguments.max_model_len,
        "prefix_caching": arguments.prefix_caching,
        "engine_args": tuple(arguments.engine_arg),
        "port": arguments.port,
        "start_timeout_s": arguments.start_timeout,
        "request_timeout_s": arguments.request_timeout,
        "slo": tuple(arguments.slo),
        "seed": arguments.seed,
        "out": arguments.out,
    }
    try:
        return ProfileConfig(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).removesuffix("_s").removesuffix("_rps").replace("_", "-")
        raise UsageError(f"--{name} {first['input']}: {first['msg']}", hint="jouletrace profile --help") from error


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def run(arguments: argparse.Namespace) -> int:
    """Profile, print the result, return the exit status."""
    config = config_from(arguments)
    progress = Progress(quiet=arguments.quiet)
    outcome = asyncio.run(profile(config, progress))
    progress.line("")
    summary = outcome.summary
    assert summary is not None, "a run that completed has passed its window"
    if arguments.json:
        sys.stdout.write(json.dumps(summary.model_dump(mode="json"), indent=2) + "\n")
    else:
        sys.stdout.write(render(summary, outcome.run_dir))
    code = ExitCode.OK if summary.validity.valid else ExitCode.UNTRUSTWORTHY
    if code is ExitCode.UNTRUSTWORTHY:
        codes = ", ".join(r.code for r in summary.validity.reasons if r.severity == "invalid")
        sys.stderr.write(f"not trustworthy (exit status 3): {codes}\n")
    return code
