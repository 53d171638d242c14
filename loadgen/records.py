"""One row a request: what was asked, when each thing happened, what came back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from loadgen.clients.base import Status, TokenSource


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A finished request on the monotonic clock, in nanoseconds; None is missing.

    `scheduled_ns` is when the schedule wanted it sent (open loop) or when its slot became free (closed loop).
    `event_ns`/`event_tokens` have one entry per streamed event that held at least one token.
    """

    request_id: str
    scheduled_ns: int
    sent_ns: int | None
    first_token_ns: int | None
    last_token_ns: int | None
    end_ns: int
    asked_prompt_tokens: int
    asked_output_tokens: int
    prompt_tokens: int | None
    output_tokens: int | None
    token_source: TokenSource | None
    status: Status
    error: str | None
    event_ns: NDArray[np.int64]
    event_tokens: NDArray[np.int32]
