"""The `CompletionClient` seam: one request out, one timed answer back.

    sent_ns          first event with a token            last token   end_ns
      |----- TTFT ------------|-- ITL --|-- ITL --| ... ----|----------|

All stamps are monotonic nanoseconds, taken where bytes leave the socket, before any parsing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Status = Literal["ok", "error", "timeout", "cancelled"]
TokenSource = Literal["usage", "token_ids"]


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """What to ask: a prompt (token ids, or text where the engine takes only text) and the exact output length."""

    request_id: str
    prompt: Sequence[int] | str
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back, failed or not.

    `event_ns` and `event_tokens` have one entry per streamed event that held at least one token, in order.
    `prompt_tokens` and `output_tokens` come from the engine's own usage record when `token_source` is "usage",
    from counted token ids otherwise; None when the engine told neither.
    """

    sent_ns: int
    end_ns: int
    status: Status
    error: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    token_source: TokenSource | None = None
    event_ns: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    event_tokens: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    text: str | None = None


class CompletionClient(Protocol):
    """Sends one request and returns its timed answer. A failed request is a value here, never an exception."""

    async def complete(self, request: CompletionRequest) -> Completion:
        """Return the answer. Cancelling the task aborts the request; the caller records it as cancelled."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
