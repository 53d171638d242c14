"""A client of /v1/completions in vLLM's dialect: streamed, exact output length, stamped at the socket.

Bytes are only collected while an answer comes in; decoding and counting wait until it has ended, and the bytes are
dropped with it.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from loadgen.clients.base import Completion
from loadgen.clients.completion_stream import error_message, one_line, read_answer
from loadgen.clients.wire import CURRENT, Exchange, stamped_session
from loadgen.sse import stamp_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadgen.clients.base import CompletionRequest, Status

_OK = 200


@dataclass(slots=True)
class _Reply:
    """What came back over HTTP so far."""

    exchange: Exchange
    began_ns: int
    http_status: int | None = None
    body: bytearray | None = None
    # Why it did not come to its end; None when it did.
    broken: tuple[Status, str] | None = None


class OpenAIClient:
    """The real implementation of `CompletionClient`; made inside the running loop that will use it."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        timeout_s: float = 120.0,
        max_connections: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`timeout_s` is for a request's whole life, connecting included; `max_connections` 0 is no limit."""
        self._url = f"{base_url.rstrip('/')}/v1/completions"
        self._model = model
        self._timeout_s = timeout_s
        # Identity: a compressed stream would be stamped by the read that completed a block, not a token.
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **(headers or {})}
        self._session = stamped_session(max_connections)
        # Answers that end together are decoded one a turn of the loop, which stamps arriving bytes in between.
        self._decoding = asyncio.Lock()

    async def complete(self, request: CompletionRequest) -> Completion:
        """Return the answer, stamped. `sent_ns` is when it was tried where nothing could be sent."""
        payload = self._payload(request)
        reply = _Reply(Exchange(), time.monotonic_ns())
        CURRENT.set(reply.exchange)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._exchange(request.request_id, payload, reply)
        except TimeoutError:
            reply.broken = ("timeout", f"no end within {self._timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reply.broken = ("error", one_line(f"{type(error).__name__}: {error}".encode()))
        ended_ns = time.monotonic_ns()
        async with self._decoding:
            return _completion(reply, ended_ns)

    def _payload(self, request: CompletionRequest) -> bytes:
        asked = {
            "model": self._model,
            "prompt": request.prompt if isinstance(request.prompt, str) else list(request.prompt),
            "max_tokens": request.output_tokens,
            "min_tokens": request.output_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "return_token_ids": True,
        }
        return json.dumps(asked, separators=(",", ":")).encode()

    async def _exchange(self, request_id: str, payload: bytes, reply: _Reply) -> None:
        headers = {**self._headers, "X-Request-Id": request_id}
        async with self._session.post(self._url, data=payload, headers=headers, allow_redirects=False) as response:
            reply.http_status, reply.body = response.status, bytearray()
            async for read in response.content.iter_any():
                reply.body += read

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


def _completion(reply: _Reply, now_ns: int) -> Completion:
    """Return the answer that a reply amounts to: what came in is counted however it ended."""
    exchange = reply.exchange
    streamed = reply.http_status == _OK
    body = bytes(reply.body or b"")
    answer = read_answer(body if streamed else b"", ended=streamed and reply.broken is None)
    status, error = _verdict(reply, body, answer.error)
    return Completion(
        sent_ns=reply.began_ns if exchange.sent_ns is None else exchange.sent_ns,
        end_ns=now_ns if reply.broken is not None or exchange.last_ns is None else exchange.last_ns,
        status=status,
        error=error,
        prompt_tokens=answer.prompt_tokens,
        output_tokens=answer.output_tokens,
        token_source=answer.token_source,
        event_ns=stamp_of(answer.event_ends, exchange.upto, exchange.stamps_ns),
        event_tokens=answer.event_tokens,
        text=answer.text,
    )


def _verdict(reply: _Reply, body: bytes, answer_error: str | None) -> tuple[Status, str | None]:
    """Return how the request ended: a timeout is one, else what the engine said explains more than how it hung up."""
    if reply.broken is not None and (reply.broken[0] == "timeout" or answer_error is None):
        return reply.broken
    if reply.http_status != _OK:
        return "error", f"HTTP {reply.http_status}: {error_message(body)}"
    return ("ok", None) if answer_error is None else ("error", answer_error)
