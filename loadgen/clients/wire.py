"""When bytes crossed the socket, stamped below aiohttp's HTTP parser.

    task            session.post ──→ write ──────────────── iter_any ── iter_any ─→ body
    Exchange                     sent_ns     (stamp, length)  (stamp, length)
    event loop      ─────────────────────── data_received ── data_received ───────────→
                                            1. stamp  2. let aiohttp parse  3. note the body's new length

What is relied on of aiohttp 3.14 (a contract test fails when one of them goes): `set_response_params` is called once a
request, in the requesting task, before it is written; `feed_data` hands over the response with its body's stream, and
bytes of that stream are counted in `total_bytes`, free of HTTP's chunk framing; a TCPConnector makes its connections by
`_factory`; a POST is never sent twice (only idempotent methods are).
"""

from __future__ import annotations

import functools
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

if TYPE_CHECKING:
    from types import SimpleNamespace

    from aiohttp import StreamReader, TraceRequestChunkSentParams
    from aiohttp.http import RawResponseMessage

# uvicorn, under vLLM and others, closes a connection idle for 5 s; a request written in that instant would fail.
_KEEPALIVE_S = 3.0
# aiohttp stops reading a socket whose body is not consumed; far above any answer, so that no read ever waits for us.
_READ_BUFFER_BYTES = 8 * 1024**2


class Exchange:
    """What happened on the wire for one request: `upto[i]` bytes of body had been read at `stamps_ns[i]`.

    `sent_ns` is None until the request is written; `last_ns` is the last read, framing included.
    """

    __slots__ = ("last_ns", "sent_ns", "stamps_ns", "upto")

    def __init__(self) -> None:
        self.sent_ns: int | None = None
        self.last_ns: int | None = None
        self.stamps_ns: list[int] = []
        self.upto: list[int] = []

    def sent(self) -> None:
        """Note the first write."""
        if self.sent_ns is None:
            self.sent_ns = time.monotonic_ns()

    def read(self, stamp_ns: int, length: int) -> None:
        """Note that the body had `length` bytes after the read at `stamp_ns`."""
        self.last_ns = stamp_ns
        if length > (self.upto[-1] if self.upto else 0):
            self.stamps_ns.append(stamp_ns)
            self.upto.append(length)


# The exchange of the request that the running task is making; aiohttp calls back in that task or in a copy of its
# context.
CURRENT: ContextVar[Exchange] = ContextVar("exchange")


class _StampedHandler(ResponseHandler):
    """aiohttp's connection, noting each read with the exchange of the request it serves at the time."""

    _exchange: Exchange | None = None
    _body: StreamReader | None = None
    _stamp_ns: int = 0

    def set_response_params(self, **params: Any) -> None:  # noqa: ANN401 - passed through
        """Take the exchange of the request that begins; reads belong to it from here."""
        self._exchange, self._body = CURRENT.get(None), None
        super().set_response_params(**params)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Keep the stream that the response's body will go to."""
        self._body = data[1]
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        """Stamp, then parse, then note how long the body is now."""
        if data:  # none: the consumer resumes a parser that was paused, and what it yields came with the last read
            self._stamp_ns = time.monotonic_ns()
        super().data_received(data)
        if self._exchange is not None and self._body is not None:
            self._exchange.read(self._stamp_ns, self._body.total_bytes)


class _StampedConnector(aiohttp.TCPConnector):
    """A pool of stamped connections."""

    def __init__(self, max_connections: int) -> None:
        # One look-up a run: aiohttp's default asks again every 10 s, in the way of a request.
        super().__init__(limit=max_connections, keepalive_timeout=_KEEPALIVE_S, ttl_dns_cache=None)
        self._factory = functools.partial(_StampedHandler, loop=self._loop)  # type: ignore[assignment]


async def _note_sent(
    _session: aiohttp.ClientSession, _ctx: SimpleNamespace, _params: TraceRequestChunkSentParams
) -> None:
    CURRENT.get().sent()


def stamped_session(max_connections: int) -> aiohttp.ClientSession:
    """Return a session whose exchanges are stamped; the running loop owns it. 0 connections is no limit.

    The send stamp comes from aiohttp's trace of the body's write: it runs directly before the one `transport.write` of
    headers and body, after connecting and queueing, where no other public hook is (`headers_sent` fires while they
    are only buffered).
    """
    trace = aiohttp.TraceConfig()
    trace.on_request_chunk_sent.append(_note_sent)
    return aiohttp.ClientSession(
        connector=_StampedConnector(max_connections),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        read_bufsize=_READ_BUFFER_BYTES,
        trace_configs=[trace],
    )
