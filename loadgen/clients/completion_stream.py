"""Reads the body of a streamed OpenAI completion, after it has ended, into tokens, usage and errors. Pure.

How many tokens an event holds, from the first of these that the engine tells:

1. its `token_ids` (asked for with `return_token_ids`);
2. the growth of `usage.completion_tokens`, when every event that holds a choice carries it (`continuous_usage_stats`).

Never from the number of events or their text: engines put several tokens into one event and some into none. Where an
engine tells neither, counts per event are unknown: `event_tokens` is empty while `event_ends` holds the events with
text, which had at least one token each, so that the first and the last of them still bound the answer in time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from loadgen.sse import decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from loadgen.clients.base import TokenSource
    from loadgen.sse import Event

_DONE = b"[DONE]"
# What vLLM gives as finish_reason when it dropped the request.
_DROPPED = frozenset({"abort", "error"})
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """What a body held. `event_ends` are the body's lengths at which its events with tokens were complete."""

    error: str | None
    prompt_tokens: int | None
    output_tokens: int | None
    token_source: TokenSource | None
    event_ends: NDArray[np.int64]
    event_tokens: NDArray[np.int32]
    text: str


class _Piece(NamedTuple):  # a tuple, being made once a token while other requests wait for the loop
    """One event: what it says of its choice and of usage so far."""

    end: int
    has_choice: bool
    text: str
    token_ids: int | None
    completion_tokens: int | None
    prompt_tokens: int | None
    finish_reason: str | None


class _StreamError(Exception):
    """The engine said that it failed, or said nothing that can be understood."""


def read_answer(body: bytes, *, ended: bool) -> Answer:
    """Return what `body` held. `ended` says that the engine finished the HTTP response itself.

    `error` is the engine's own error, a malformed event, or an end before the answer's; None where the body was cut
    off (`ended` false) without saying more: the caller knows why.
    """
    pieces: list[_Piece] = []
    error, finished = None, False
    try:
        finished = _collect(decode(body, ended=ended), pieces)
    except _StreamError as failure:
        error = str(failure)
    if ended and not finished and error is None:
        error = f"the stream ended before the answer did, after {len(pieces)} events"
    return _answer(pieces, error)


def _collect(events: Iterable[Event], pieces: list[_Piece]) -> bool:
    """Append what each event says to `pieces`; return whether the answer came to its end.

    Raises:
        _StreamError: at the first event that is an error or not understood.
    """
    finished = False
    for event in events:
        if event.data == _DONE:
            return True
        piece = _piece(event)
        pieces.append(piece)
        if piece.finish_reason in _DROPPED:
            raise _StreamError(f"the engine dropped the request: finish_reason {piece.finish_reason}")
        finished = finished or piece.finish_reason is not None
    return finished


def _piece(event: Event) -> _Piece:
    try:
        said = json.loads(event.data)
    except (ValueError, RecursionError):
        raise _StreamError(f"malformed event: {one_line(event.data)}") from None
    if not isinstance(said, dict):
        raise _StreamError(f"malformed event: {one_line(event.data)}")
    if said.get("error") or said.get("object") == "error":
        raise _StreamError(error_message(event.data))
    choice, usage = _choice(said), _mapping(said.get("usage"))
    text, ids, reason = choice.get("text"), choice.get("token_ids"), choice.get("finish_reason")
    return _Piece(
        end=event.end,
        has_choice=bool(choice),
        text=text if isinstance(text, str) else "",
        token_ids=len(ids) if isinstance(ids, list) else None,
        completion_tokens=_count(usage.get("completion_tokens")),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        finish_reason=reason if isinstance(reason, str) else None,
    )


def _choice(said: dict[str, Any]) -> dict[str, Any]:
    """Return the event's choice; one is all that is ever asked for."""
    choices = said.get("choices")
    return _mapping(choices[0]) if isinstance(choices, list) and choices else {}


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**31 else None


def _answer(pieces: Sequence[_Piece], error: str | None) -> Answer:
    ends, tokens = _events(pieces)
    outputs = [piece.completion_tokens for piece in pieces if piece.completion_tokens is not None]
    prompts = [piece.prompt_tokens for piece in pieces if piece.prompt_tokens is not None]
    counted = any(piece.token_ids is not None for piece in pieces)
    source: TokenSource | None = "usage" if outputs else "token_ids" if counted else None
    return Answer(
        error=error,
        prompt_tokens=prompts[-1] if prompts else None,
        output_tokens=outputs[-1] if outputs else int(tokens.sum()) if counted else None,
        token_source=source,
        event_ends=ends,
        event_tokens=tokens,
        text="".join(piece.text for piece in pieces),
    )


def _events(pieces: Sequence[_Piece]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the ends of the events that held a token and how many each held, by the rule at the module's top."""
    choices = [piece for piece in pieces if piece.has_choice]
    ends = np.array([piece.end for piece in choices], np.int64)
    tokens = _tokens_by_ids(choices)
    if tokens is None:
        tokens = _tokens_by_usage(choices)
    if tokens is None:
        return ends[[bool(piece.text) for piece in choices]], np.empty(0, np.int32)
    return ends[tokens > 0], tokens[tokens > 0]


def _tokens_by_ids(choices: Sequence[_Piece]) -> NDArray[np.int32] | None:
    if all(piece.token_ids is None for piece in choices):
        return None
    return np.array([piece.token_ids or 0 for piece in choices], np.int32)


def _tokens_by_usage(choices: Sequence[_Piece]) -> NDArray[np.int32] | None:
    """Return the growth of the usage record; None where an event lacks it or it shrinks."""
    totals = [piece.completion_tokens for piece in choices if piece.completion_tokens is not None]
    if len(totals) < len(choices):
        return None
    growth = np.array(totals, np.int32) - np.array([0, *totals[:-1]], np.int32)
    return None if (growth < 0).any() else growth


def error_message(body: bytes) -> str:
    """Return the message of an error body as vLLM, TGI or a proxy gives it: JSON of several shapes, or plain text."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return one_line(body)
    fields = _mapping(said)
    error = fields.get("error")
    nested = error.get("message") if isinstance(error, dict) else error
    for message in (nested, fields.get("message"), fields.get("detail")):
        if isinstance(message, str) and message:
            return one_line(message.encode())
    return one_line(body)


def one_line(body: bytes) -> str:
    """Return the beginning of `body` as a line of text."""
    words = " ".join(body[: 4 * _SHOWN_CHARACTERS].decode(errors="replace").split())
    return words if len(words) <= _SHOWN_CHARACTERS else f"{words[:_SHOWN_CHARACTERS]}…"
