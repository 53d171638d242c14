"""An HTTP server that answers each request with scripted bytes at scripted times, and stamps what it does."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence


class End(Enum):
    """How a script may end other than by leaving the connection open for the next request."""

    CLOSE = "close"
    RESET = "reset"
    HANG = "hang"


# Bytes are written at once, a number is a pause in seconds.
Step = bytes | float | End


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it arrived."""

    received_ns: int
    connection: int
    headers: dict[str, str]
    body: Any


@dataclass(slots=True)
class ByteServer:
    """What a server has seen and done; `hung_up` is set once a client closed its connection."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    written_ns: list[int] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TAIL = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def chunk(data: bytes) -> bytes:
    """Return `data` as a chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def plain(status: int, body: bytes, kind: str = "application/json") -> bytes:
    """Return a whole response that is no stream."""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def event(value: object) -> bytes:
    """Return an event with JSON data."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def tokens(count: int | None, *, so_far: int | None = None, text: str = "x", reason: str | None = None) -> bytes:
    """Return an event of a choice with `count` token ids (None: not told) and usage `so_far` (None: not told)."""
    choice: dict[str, object] = {"index": 0, "text": text, "finish_reason": reason}
    if count is not None:
        choice["token_ids"] = [7] * count
    value: dict[str, object] = {"choices": [choice]}
    if so_far is not None:
        value["usage"] = {"prompt_tokens": 3, "completion_tokens": so_far}
    return event(value)


def usage(prompt_tokens: int, completion_tokens: int) -> bytes:
    """Return the closing usage record."""
    return event({"choices": [], "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}})


def whole(*events: bytes) -> list[Step]:
    """Return a complete response of these events, each in a chunk and a write of its own, and [DONE]."""
    return [HEAD, *(chunk(one) for one in events), chunk(DONE) + TAIL]


@asynccontextmanager
async def serving(script: Callable[[Asked], Sequence[Step]]) -> AsyncIterator[ByteServer]:
    """Serve on a free loopback port while the context lasts."""
    state = ByteServer(url="")
    handlers: set[asyncio.Task[None]] = set()
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            await _converse(state, connections, script, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            state.hung_up.set()
        finally:
            handlers.discard(task)
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    state.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield state
    finally:
        server.close()
        if handlers:  # a closed client ends them
            await asyncio.wait(handlers, timeout=5.0)


async def _converse(
    state: ByteServer,
    connection: int,
    script: Callable[[Asked], Sequence[Step]],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    while True:
        asked = await _read(reader, connection)
        state.asked.append(asked)
        for step in script(asked):
            if isinstance(step, bytes):
                state.written_ns.append(time.monotonic_ns())
                writer.write(step)
                await writer.drain()
            elif isinstance(step, float):
                await asyncio.sleep(step)
            elif step is End.CLOSE:
                return
            elif step is End.RESET:
                writer.transport.abort()
                return
            else:
                await reader.readexactly(1)


async def _read(reader: asyncio.StreamReader, connection: int) -> Asked:
    head = await reader.readuntil(b"\r\n\r\n")
    received_ns = time.monotonic_ns()
    lines = head.decode().split("\r\n")[1:-2]
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers["content-length"]))
    return Asked(received_ns, connection, headers, json.loads(body))


def closed_port() -> int:
    """Return a port of the loopback interface that refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
