"""A `Server` that is launched here from a command line and stopped with everything it started."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from servers.base import Endpoint, ServerError
from servers.http import wait_ready
from servers.process import ManagedProcess

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


# What a dying engine writes, in lower case, and what to do about it.
_REMEDIES = {
    "out of memory": "a smaller context (MAX_LEN=, --max-model-len), more GPUs (--tensor-parallel), or a smaller model",
    "(exit code: -4)": "this processor lacks an instruction that the CPU build uses for this type: try --dtype float32",
}


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one engine: command, environment beyond the inherited one, and what will listen where.

    `arguments` are the effective ones, for the record.
    """

    engine: str
    command: tuple[str, ...]
    url: str
    model: str
    vocab_size: int | None
    env: Mapping[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    grace_s: float = 10.0


class LaunchedServer:
    """An engine in a supervised process tree."""

    def __init__(self, launch: Launch, log: Path, *, start_timeout_s: float) -> None:
        self._launch = launch
        self._log = log
        self._start_timeout_s = start_timeout_s
        self._process: ManagedProcess | None = None

    async def start(self) -> Endpoint:
        """Launch, wait for one real completion.

        Raises:
            ServerError: it died or never got ready; the message carries the log's telling line.
        """
        launch = self._launch
        self._process = ManagedProcess(launch.command, self._log, env=launch.env, grace_s=launch.grace_s)
        try:
            told = await wait_ready(launch.url, launch.model, self._process.failure, self._start_timeout_s)
        except ServerError as error:
            raise self._explained(error) from error
        return Endpoint(
            url=launch.url,
            model=told.model,
            engine=launch.engine,
            version=told.version,
            max_model_tokens=told.max_model_tokens,
            vocab_size=launch.vocab_size,
            simulated=told.simulated,
            arguments=launch.arguments,
        )

    def _explained(self, error: ServerError) -> ServerError:
        """Name the engine, the reason its log gives and the remedy where the log tells one."""
        assert self._process is not None
        log = self._process.tail(400)
        code = 2 if self._process.returncode() == 2 else error.exit_code
        for words, hint in _REMEDIES.items():
            line = next((line for line in log if words in line.lower()), None)
            if line is not None:
                return ServerError(f"{self._launch.engine} failed while loading: {line.strip()[:300]}", hint=hint)
        return ServerError(f"{self._launch.engine}: {error}", hint=error.hint or f"see {self._log}", exit_code=code)

    def failure(self) -> str | None:
        """Return why the engine is no longer alive, or None."""
        return None if self._process is None else self._process.failure()

    def pids(self) -> frozenset[int]:
        """Return the engine's process ids."""
        return frozenset() if self._process is None else self._process.pids()

    async def stop(self) -> None:
        """End the engine and everything it started."""
        if self._process is not None:
            await self._process.stop()
