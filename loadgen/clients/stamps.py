"""aiohttp connections that stamp bytes where they leave and enter the socket, before anything parses them."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

if TYPE_CHECKING:
    import asyncio

    from aiohttp.connector import Connection


class Stamps:
    """One request's stamps: when it was handed over, and per read of the socket (ns, body bytes so far)."""

    __slots__ = ("reads", "sent_ns")

    def __init__(self) -> None:
        self.sent_ns = time.monotonic_ns()
        self.reads: list[tuple[int, int]] = []


class StampedHandler(ResponseHandler):
    """aiohttp's protocol, with a stamp before the parser sees the bytes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.stamps = Stamps()

    def set_response_params(self, **params: Any) -> None:  # noqa: ANN401 - passed on as they are
        """Begin a request: aiohttp calls this once the connection is there and before it writes.

        Serialising the head is thereby inside TTFT, some tens of microseconds; resolving and connecting are not.
        """
        self._payload = None
        self.stamps = Stamps()
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Stamp, parse, note how far the body has come."""
        now_ns = time.monotonic_ns()
        super().data_received(data)
        if self._payload is not None:
            self.stamps.reads.append((now_ns, self._payload.total_bytes))


class StampedResponse(aiohttp.ClientResponse):
    """A response that keeps hold of its own stamps when the connection goes on to the next request."""

    stamps: Stamps

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Begin reading the answer."""
        protocol = connection.protocol
        assert isinstance(protocol, StampedHandler)
        self.stamps = protocol.stamps
        return await super().start(connection)


def stamped_session(timeout_s: float, *, max_connections: int = 0) -> aiohttp.ClientSession:
    """Return a session whose responses are `StampedResponse`; 0 connections is no limit."""
    connector = aiohttp.TCPConnector(limit=max_connections, keepalive_timeout=60.0)
    # The only hook aiohttp has for a protocol of one's own.
    connector._factory = functools.partial(StampedHandler, loop=connector._loop)  # type: ignore[assignment]  # noqa: SLF001
    return aiohttp.ClientSession(
        connector=connector,
        response_class=StampedResponse,
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        # Large enough that a slow reader never stops the socket: a paused socket would date later bytes wrongly.
        read_bufsize=1 << 22,
    )
