r"""Server-sent events from a whole body, and the instant at which each was complete.

The body is decoded after the answer has ended, so how the network split it cannot change what is read; the split
lives on only in the stamps:

    body     data: {"a"}\n\n | da | ta: {"b"}\n\ndata: [DONE]\n\n
    stamps                   t0   t1                             t2
    events   {"a"} at t0            {"b"} at t2    [DONE] at t2

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html, with lines ended by LF or CRLF; a lone CR, which
it also allows, ends no line here. Only `data` is kept: no engine's completions use `event`, `id` or `retry`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event's data and the length of the body at which it was complete, its blank line included."""

    data: bytes
    end: int


def decode(body: bytes, *, ended: bool = True) -> Iterator[Event]:
    """Yield the events of `body` that carry data, in order.

    A last event without its blank line counts when the answer `ended`, since some servers leave it out; what was cut
    off in the middle of an answer does not.
    """
    data: list[bytes] = []
    start = len(_BYTE_ORDER_MARK) if body.startswith(_BYTE_ORDER_MARK) else 0
    while (line_end := body.find(b"\n", start)) >= 0:
        line, start = body[start:line_end].removesuffix(b"\r"), line_end + 1
        if line:
            data += _data(line)
        elif data:
            yield Event(b"\n".join(data), start)
            data = []
    if ended:
        data += _data(body[start:].removesuffix(b"\r"))
        if data:
            yield Event(b"\n".join(data), len(body))


def _data(line: bytes) -> tuple[bytes, ...]:
    """Return what a line adds to its event's data."""
    name, _, value = line.partition(b":")
    return (value.removeprefix(b" "),) if name == b"data" else ()


def stamp_of(
    ends: Sequence[int] | NDArray[np.int64], upto: Sequence[int], stamps_ns: Sequence[int]
) -> NDArray[np.int64]:
    """Return for each end offset the instant of the read that brought the body to at least that length.

    `upto[i]` is the body's length after the read stamped `stamps_ns[i]`, ascending; it covers every end.
    """
    if not len(ends):
        return np.empty(0, np.int64)
    return np.asarray(stamps_ns, np.int64)[np.searchsorted(np.asarray(upto, np.int64), ends, side="left")]
