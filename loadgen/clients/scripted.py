"""A client whose answers are known beforehand: the simulated implementation of the seam, on any loop's own clock."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loadgen.clients.base import Completion

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.clients.base import CompletionRequest, Status

_NS_PER_S = 1e9


@dataclass(frozen=True, slots=True)
class Script:
    """How one answer goes: the first token after `ttft_s`, each further one `itl_s` later.

    `tokens` is how many come before it ends, None for all that were asked; `error` is said when `status` is not ok.
    """

    ttft_s: float
    itl_s: float
    tokens: int | None = None
    status: Status = "ok"
    error: str | None = None


class ScriptedClient:
    """Answers each request by the script that `script` gives for it, sleeping on the running loop."""

    def __init__(self, script: Callable[[CompletionRequest], Script]) -> None:
        self._script = script

    async def complete(self, request: CompletionRequest) -> Completion:
        """Return the scripted answer, one token an event."""
        script = self._script(request)
        loop = asyncio.get_running_loop()
        tokens = request.output_tokens if script.tokens is None else script.tokens
        begin_s = loop.time()
        events_s = begin_s + script.ttft_s + script.itl_s * np.arange(tokens)
        end_s = float(events_s[-1]) if tokens else begin_s + script.ttft_s
        await asyncio.sleep(end_s - begin_s)
        return Completion(
            sent_ns=round(begin_s * _NS_PER_S),
            end_ns=round(end_s * _NS_PER_S),
            status=script.status,
            error=script.error,
            prompt_tokens=None if isinstance(request.prompt, str) else len(request.prompt),
            output_tokens=tokens,
            token_source="usage",  # noqa: S106 - a kind of count, no secret
            event_ns=np.rint(events_s * _NS_PER_S).astype(np.int64),
            event_tokens=np.ones(tokens, np.int32),
        )

    async def close(self) -> None:
        """Release nothing."""
