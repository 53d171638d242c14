"""The OpenAI completions dialect as vLLM speaks it: one streamed completion, stamped, then decoded after its end.

Tokens are counted by `token_ids`, else by continuous usage; never by events or text, of which several tokens may share
one and some have none (seen with vLLM 0.32: up to five tokens an event, events without text).
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np

from loadgen.clients.base import Completion
from loadgen.clients.stamps import StampedResponse, stamped_session
from loadgen.sse import decode, stamps_of

if TYPE_CHECKING:
    from loadgen.clients.base import CompletionRequest, Status, TokenSource
    from loadgen.clients.stamps import Stamps

_SHOWN = 200


class OpenAIClient:
    """Sends completions to one engine. `timeout_s` bounds a request's whole life."""

    def __init__(self, base_url: str, model: str, *, timeout_s: float) -> None:
        self._url = f"{base_url.rstrip('/')}/v1/completions"
        self._model = model
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._session = stamped_session(timeout_s)

    async def complete(self, request: CompletionRequest) -> Completion:
        """Return the timed answer; whatever goes wrong is in its status and error."""
        body = json.dumps(self._body(request)).encode()
        headers = {"Content-Type": "application/json", "X-Request-Id": request.request_id}
        received: list[bytes] = []
        stamps: Stamps | None = None
        started_ns = time.monotonic_ns()
        try:
            async with self._session.post(self._url, data=body, headers=headers) as response:
                assert isinstance(response, StampedResponse)
                stamps = response.stamps
                async for part in response.content.iter_any():
                    received.append(part)  # noqa: PERF401 - what has arrived before a failure is kept
                status = response.status
        except TimeoutError:
            return _cut("timeout", "timeout: no complete answer in time", b"".join(received), stamps, started_ns)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            text = f"{type(error).__name__}: {error}"
            return _cut("error", text[:_SHOWN], b"".join(received), stamps, started_ns)
        if status != 200:
            text = f"HTTP {status}: {_error_text(b''.join(received))}"
            return Completion(stamps.sent_ns, time.monotonic_ns(), "error", text)
        return _read(b"".join(received), stamps, time.monotonic_ns())

    def _body(self, request: CompletionRequest) -> dict[str, Any]:
        return {
            "model": self._model,
            "prompt": request.prompt if isinstance(request.prompt, str) else list(request.prompt),
            "max_tokens": request.output_tokens,
            "min_tokens": request.output_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "return_token_ids": True,
        }

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


@dataclass(slots=True)
class _Stream:
    """What a decoded stream said so far."""

    ends: list[int]
    tokens: list[int]
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    counted: int = 0
    by_ids: bool = False
    finished: bool = False
    done: bool = False
    error: str | None = None


def _cut(status: Status, error: str, body: bytes, stamps: Stamps | None, started_ns: int) -> Completion:
    """Return an answer that broke off, with the tokens that had arrived."""
    end_ns = time.monotonic_ns()
    if stamps is None:
        return Completion(started_ns, end_ns, status, error)
    return _completion(_decoded(body), stamps, end_ns, status, error)


def _read(body: bytes, stamps: Stamps, end_ns: int) -> Completion:
    """Return a whole answer, or what is wrong with it though the engine said 200."""
    stream = _decoded(body)
    error = stream.error
    if error is None and not (stream.finished and stream.done):
        error = "the stream ended without a finish" if body else "the answer was empty"
    if error is None and stream.output_tokens is None and not stream.by_ids:
        error = "the engine reported neither usage nor token ids"
    return _completion(stream, stamps, end_ns, "error" if error else "ok", error)


def _completion(stream: _Stream, stamps: Stamps, end_ns: int, status: Status, error: str | None) -> Completion:
    source: TokenSource | None = "usage" if stream.output_tokens is not None else "token_ids" if stream.by_ids else None
    return Completion(
        sent_ns=stamps.sent_ns,
        end_ns=end_ns,
        status=status,
        error=error,
        prompt_tokens=stream.prompt_tokens,
        output_tokens=stream.counted if source == "token_ids" else stream.output_tokens,
        token_source=source,
        event_ns=stamps_of(stream.ends, stamps.reads),
        event_tokens=np.array(stream.tokens, np.int32),
    )


def _decoded(body: bytes) -> _Stream:
    """Return what the events of a body say, up to the first that cannot be read."""
    stream = _Stream([], [])
    for event in decode(body):
        if event.data == b"[DONE]":
            stream.done = True
            continue
        try:
            message = json.loads(event.data)
            if "error" in message:
                stream.error = f"error in the stream: {_error_text(event.data)}"
                break
            _take(stream, message, event.end)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            stream.error = f"unreadable event: {event.data[:80]!r}"
            break
    return stream


def _take(stream: _Stream, message: dict[str, Any], end: int) -> None:
    """Count one event's tokens: by ids where it has them, else by how far usage has come."""
    usage, choices = message.get("usage"), message["choices"]
    if usage:
        stream.prompt_tokens, stream.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
    if not choices:
        return
    stream.finished = stream.finished or choices[0].get("finish_reason") is not None
    ids = choices[0].get("token_ids")
    if ids is not None:
        new, stream.by_ids = len(ids), True
    else:
        new = (usage["completion_tokens"] if usage else stream.counted) - stream.counted
    if new > 0:
        stream.ends.append(end)
        stream.tokens.append(new)
        stream.counted += new


def _error_text(body: bytes) -> str:
    """Return the message of an error body, whatever its form."""
    try:
        told = json.loads(body)
        error = told.get("error", told)
        text = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        text = body.decode("utf-8", "replace")
    return str(text)[:_SHOWN]
