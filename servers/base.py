"""The `Server` seam: something that serves a model over HTTP, launched here or found running."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


class ServerError(Exception):
    """An engine that could not be launched, reached or kept alive.

    `hint` says what to do now; `exit_code` is the command line's (1 failed, 2 usage or configuration).
    """

    def __init__(self, message: str, *, hint: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A ready engine: where it listens, what it serves, and what it says of itself."""

    url: str
    model: str
    engine: str
    version: str | None
    max_model_tokens: int | None
    vocab_size: int | None
    simulated: bool
    arguments: dict[str, str] = field(default_factory=dict)


class Server(Protocol):
    """An engine's life. `start` returns only after a real completion; `stop` leaves no process behind."""

    async def start(self) -> Endpoint:
        """Launch or attach, wait until one completion has been answered.

        Raises:
            ServerError: it died, never got ready, or is not an engine.
        """
        ...

    def failure(self) -> str | None:
        """Return why the engine is no longer alive, or None while it is."""
        ...

    def pids(self) -> frozenset[int]:
        """Return the ids of the engine's processes on this host; empty when they are not ours to know."""
        ...

    async def stop(self) -> None:
        """End what `start` began; nothing for an engine that was only attached to. May be called twice."""
        ...
