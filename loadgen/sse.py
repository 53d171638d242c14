"""Server-sent events from the bytes of a body, wherever its reads were split.

Decoding runs on the whole body after it has ended, with the stamps of the reads beside it: no parser state, nothing on
the path of arriving bytes. Lines end in LF or CRLF. (https://html.spec.whatwg.org/multipage/server-sent-events.html)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray


class Event(NamedTuple):
    """An event's data, and the offset in the body just behind it."""

    data: bytes
    end: int


def decode(body: bytes) -> Iterator[Event]:
    """Yield every event that has data; the lines of one event are joined by LF. An event cut short is not one."""
    lines: list[bytes] = []
    start = 0
    while (stop := body.find(b"\n", start)) >= 0:
        line = body[start : stop - 1] if stop > start and body[stop - 1] == 0x0D else body[start:stop]
        start = stop + 1
        if line.startswith(b"data:"):
            lines.append(line[6:] if line[5:6] == b" " else line[5:])
        elif not line and lines:
            yield Event(b"\n".join(lines), start)
            lines = []
        # Comments, ids, event names and retry hints carry nothing of ours.


def stamps_of(ends: Sequence[int], reads: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Return for each event the stamp of the read that completed it.

    `reads` are (stamp in ns, body bytes so far) per read of the socket, in order; `ends` are `Event.end`.
    """
    if not reads:
        return np.zeros(len(ends), np.int64)
    stamps = np.array([stamp for stamp, _ in reads], np.int64)
    totals = np.array([total for _, total in reads], np.int64)
    return stamps[np.minimum(np.searchsorted(totals, ends, "left"), stamps.size - 1)]
