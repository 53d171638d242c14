"""Server-sent events: however the network splits a body, the same events with the right stamps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.sse import decode, stamp_of

LINES = st.lists(st.binary(max_size=12).map(lambda raw: raw.translate(None, b"\r\n")), min_size=1, max_size=3)
NOISE = st.sampled_from([b"", b": keep-alive", b"event: message", b"id: 4", b"retry: 10", b"database: no", b"data_x"])


@st.composite
def bodies(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """Return the data of some events and a body that holds them, dressed in any way the format allows."""
    events, body = [], b""
    for lines in draw(st.lists(LINES, max_size=6)):
        newline = draw(st.sampled_from([b"\n", b"\r\n"]))
        body += draw(NOISE) + newline
        for line in lines:
            # A space after the colon is not data; without it, data must not begin with one.
            space = b"" if draw(st.booleans()) and not line.startswith(b" ") else b" "
            body += b"data:" + space + line + newline
        body += newline
        events.append(b"\n".join(lines))
    return events, body


@given(made=bodies(), cuts=st.lists(st.integers(0, 400), max_size=20))
def test_any_split_gives_the_same_events_and_the_read_that_completed_each(
    made: tuple[list[bytes], bytes], cuts: list[int]
) -> None:
    """An event's stamp is that of the first read after which a reader of the bytes so far would have it."""
    events, body = made
    upto = sorted({cut for cut in cuts if 0 < cut < len(body)} | {len(body)} - {0})
    stamps = [1000 + 10 * i for i in range(len(upto))]
    decoded = list(decode(body))
    assert [event.data for event in decoded] == events
    known = [len(list(decode(body[:length], ended=False))) for length in upto]
    expected = [stamps[next(i for i, count in enumerate(known) if count > k)] for k in range(len(events))]
    assert stamp_of([event.end for event in decoded], upto, stamps).tolist() == expected


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b"", []),
        (b"\n\n\n", []),
        (b"data\n\n", [b""]),
        (b"data:\n\n", [b""]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data:  a\n\n", [b" a"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b": ping\n\ndata: a\n\n: ping\n\n", [b"a"]),
        (b"event: x\nid: 1\n\ndata: a\n\n", [b"a"]),
        (b"data: a\n\ndata: b", [b"a", b"b"]),
        (b"data: a\n\ndata: b\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r", [b"a", b"b"]),
    ],
)
def test_decoding(body: bytes, data: list[bytes]) -> None:
    """Comments, unknown fields, empty data and a missing last newline are read as the format says."""
    assert [event.data for event in decode(body)] == data


def test_an_event_cut_off_is_not_an_event() -> None:
    """Of a body that broke off, only events whose blank line arrived count."""
    assert [event.data for event in decode(b"data: a\n\ndata: b\n", ended=False)] == [b"a"]


def test_events_of_one_read_share_its_stamp_and_a_split_one_has_the_later() -> None:
    """Two events in one read have one stamp; an event spread over two reads has the second's."""
    body = b"data: a\n\ndata: b\n\ndata: c\n\n"
    ends = [event.end for event in decode(body)]
    assert stamp_of(ends, [20, len(body)], [5, 9]).tolist() == [5, 5, 9]
    assert stamp_of([], [], []).tolist() == []
