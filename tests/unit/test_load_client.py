"""The HTTP client against scripted bytes: stamps taken at the socket, and every way an answer can go wrong."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from loadgen.clients.base import CompletionRequest
from loadgen.clients.openai import OpenAIClient
from tests.support.byte_server import (
    DONE,
    HEAD,
    TAIL,
    Asked,
    End,
    chunk,
    closed_port,
    event,
    plain,
    serving,
    tokens,
    whole,
)
from tests.support.byte_server import usage as usage_event

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadgen.clients.base import Completion
    from tests.support.byte_server import ByteServer, Step

MS = 1_000_000
# The machine that runs the tests may be busy with anything else.
SLACK_NS = 500 * MS
REQUEST = CompletionRequest("r7", [5, 6, 7], 4)
FOUR = [tokens(1, so_far=1), tokens(2, so_far=3), tokens(1, so_far=4, reason="length"), usage_event(3, 4)]


def ask(script: Sequence[Step], *, times: int = 1, timeout_s: float = 20.0) -> tuple[list[Completion], ByteServer]:
    """Return the answers to so many requests, one after the other, and what the server saw."""

    async def main() -> tuple[list[Completion], ByteServer]:
        async with serving(lambda _: script) as server:
            client = OpenAIClient(server.url, "m", timeout_s=timeout_s)
            answers = [await client.complete(REQUEST) for _ in range(times)]
            await client.close()
            return answers, server

    return asyncio.run(main())


def test_the_request_asks_for_exactly_so_many_tokens() -> None:
    """The body pins the output length and asks for usage and ids; the request's id travels in a header."""
    _, server = ask(whole(*FOUR))
    (asked,) = server.asked
    assert asked.headers["x-request-id"] == "r7"
    assert asked.headers["accept-encoding"] == "identity"
    assert asked.body == {
        "model": "m",
        "prompt": [5, 6, 7],
        "max_tokens": 4,
        "min_tokens": 4,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "return_token_ids": True,
    }


def test_each_event_has_the_stamp_of_the_read_that_completed_it() -> None:
    """Stamps follow the server's writes: never before them, close after, with the pauses between."""
    pause_s = 0.06
    script: list[Step] = [
        HEAD,
        pause_s,
        chunk(FOUR[0]),
        pause_s,
        chunk(FOUR[1]),
        pause_s,
        chunk(FOUR[2] + FOUR[3] + DONE) + TAIL,
    ]
    (answer,), server = ask(script)
    assert answer.status == "ok"
    assert answer.event_tokens.tolist() == [1, 2, 1]
    written = server.written_ns[1:]
    for stamp, write in zip(answer.event_ns, written, strict=True):
        assert 0 <= stamp - write < SLACK_NS
    assert answer.sent_ns <= server.asked[0].received_ns
    assert answer.event_ns[0] - answer.sent_ns >= pause_s * 1e9
    assert answer.end_ns == answer.event_ns[-1]


def test_an_event_split_over_two_reads_has_the_later_stamp() -> None:
    """Half an event is no token yet: it counts when its last byte has been read."""
    half = len(FOUR[0]) // 2
    script: list[Step] = [
        HEAD,
        chunk(FOUR[0][:half]),
        0.06,
        chunk(FOUR[0][half:]),
        chunk(b"".join(FOUR[1:]) + DONE) + TAIL,
    ]
    (answer,), server = ask(script)
    assert answer.status == "ok"
    assert answer.event_ns[0] >= server.written_ns[2]


def test_events_of_one_read_share_a_stamp() -> None:
    """Several events and tokens that came in one read came at one instant."""
    (answer,), _ = ask([HEAD, 0.02, chunk(b"".join(FOUR) + DONE) + TAIL])
    assert answer.event_tokens.tolist() == [1, 2, 1]
    assert len(set(answer.event_ns.tolist())) == 1


def test_the_body_may_come_with_the_head() -> None:
    """A whole response in one read, head included, is stamped like any other."""
    (answer,), server = ask([b"".join([HEAD, *map(chunk, FOUR), chunk(DONE), TAIL])])
    assert answer.status == "ok"
    assert 0 <= answer.event_ns[0] - server.written_ns[0] < SLACK_NS


def test_stamps_of_a_reused_connection_belong_to_their_own_request() -> None:
    """Successive requests share a connection, and none has a stamp from before it was sent."""
    answers, server = ask(whole(*FOUR), times=3)
    assert {asked.connection for asked in server.asked} == {1}
    for earlier, later in pairwise(answers):
        assert earlier.end_ns <= later.sent_ns <= later.event_ns[0]
        assert later.event_tokens.tolist() == [1, 2, 1]


def test_a_head_in_two_reads_does_not_borrow_the_stamps_of_the_answer_before() -> None:
    """On a reused connection, what is read before the body begins stamps nothing."""
    script: list[Step] = [HEAD[:20], 0.03, HEAD[20:], 0.03, *map(chunk, FOUR), chunk(DONE) + TAIL]
    answers, server = ask(script, times=2)
    assert [answer.status for answer in answers] == ["ok", "ok"]
    first_events = server.written_ns[2], server.written_ns[len(server.written_ns) // 2 + 2]
    for answer, write in zip(answers, first_events, strict=True):
        assert answer.event_ns[0] >= write


def test_waiting_for_a_connection_is_not_time_to_first_token() -> None:
    """With one connection, the second request's `sent_ns` is when its bytes left: after the first one's end."""

    async def main() -> list[Completion]:
        async with serving(lambda _: [0.05, *whole(*FOUR)]) as server:
            client = OpenAIClient(server.url, "m", max_connections=1)
            answers = await asyncio.gather(client.complete(REQUEST), client.complete(REQUEST))
            await client.close()
            return list(answers)

    first, second = sorted(asyncio.run(main()), key=lambda answer: answer.sent_ns)
    assert second.sent_ns >= first.end_ns


def test_a_long_answer_is_stamped_while_it_comes() -> None:
    """Ten thousand events are all counted, and their reads keep their order."""
    events = [tokens(1, so_far=k + 1, text="word " * 20) for k in range(10_000)]
    (answer,), _ = ask(
        [HEAD, *(chunk(b"".join(events[k : k + 500])) for k in range(0, 10_000, 500)), chunk(DONE) + TAIL]
    )
    assert answer.output_tokens == int(answer.event_tokens.sum()) == 10_000
    assert (answer.event_ns[1:] >= answer.event_ns[:-1]).all()


CHUNK = chunk(FOUR[0])
FAILURES: list[tuple[str, list[Step], str, int]] = [
    ("400 JSON", [plain(400, b'{"error": {"message": "too long", "code": 400}}')], "HTTP 400: too long", 0),
    ("404 JSON", [plain(404, b'{"error": {"message": "no model"}}')], "HTTP 404: no model", 0),
    ("500 text", [plain(500, b"Internal Server Error", "text/plain")], "HTTP 500: Internal Server Error", 0),
    ("redirect", [b"HTTP/1.1 307 X\r\nLocation: /v2\r\nContent-Length: 0\r\n\r\n"], "HTTP 307: ", 0),
    ("close before the first byte", [End.CLOSE], "ServerDisconnectedError", 0),
    ("reset before the first byte", [End.RESET], "", 0),
    ("close after the head", [HEAD, End.CLOSE], "ClientPayloadError", 0),
    ("close in the stream", [HEAD, CHUNK, End.CLOSE], "ClientPayloadError", 1),
    ("reset in the stream", [HEAD, CHUNK, 0.05, End.RESET], "", 1),
    ("end without [DONE]", [HEAD, CHUNK, TAIL], "the stream ended before the answer did, after 1 events", 1),
    ("empty stream", [HEAD, TAIL], "the stream ended before the answer did, after 0 events", 0),
    ("JSON, no stream", [plain(200, b'{"choices": []}')], "the stream ended before the answer did, after 0 events", 0),
    ("error in the stream", [HEAD, CHUNK, chunk(event({"error": {"message": "OOM"}})) + TAIL], "OOM", 1),
    ("error, then close", [HEAD, CHUNK, chunk(event({"error": {"message": "OOM"}})), End.CLOSE], "OOM", 1),
    ("malformed JSON", [HEAD, CHUNK, chunk(b"data: {oops\n\n") + TAIL], "malformed event: {oops", 1),
    ("no HTTP at all", [b"220 smtp ready\r\n\r\n"], "ClientResponseError", 0),
]


@pytest.mark.parametrize(
    ("script", "error", "arrived"), [failure[1:] for failure in FAILURES], ids=[failure[0] for failure in FAILURES]
)
def test_a_failure_is_an_answer(script: list[Step], error: str, arrived: int) -> None:
    """Every failure gives status error with its reason in one line, and keeps the tokens that had arrived."""
    (answer,), server = ask(script)
    assert answer.status == "error"
    assert answer.error is not None
    assert answer.error.startswith(error)
    assert answer.error.strip()
    assert "\n" not in answer.error
    assert answer.event_tokens.tolist() == [1] * arrived
    assert answer.sent_ns <= server.asked[0].received_ns
    assert answer.end_ns >= answer.sent_ns
    assert len(server.asked) == 1  # never retried


@pytest.mark.parametrize("script", [[End.HANG], [HEAD, End.HANG], [HEAD, CHUNK, End.HANG]])
def test_a_hang_is_a_timeout(script: list[Step]) -> None:
    """An answer that does not end in time is a timeout with what had come, and the engine sees the client leave."""

    async def main() -> Completion:
        async with serving(lambda _: script) as server:
            client = OpenAIClient(server.url, "m", timeout_s=0.2)
            answer = await client.complete(REQUEST)
            await asyncio.wait_for(server.hung_up.wait(), timeout=5.0)
            await client.close()
            return answer

    answer = asyncio.run(main())
    assert (answer.status, answer.error) == ("timeout", "no end within 0.2 s")
    assert answer.event_tokens.tolist() == [1] * (CHUNK in script)
    assert answer.end_ns - answer.sent_ns < 200 * MS + SLACK_NS


def test_a_refused_connection_is_an_answer() -> None:
    """Nobody listening is an error that names the address, and the instant it was tried stands in for sending."""

    async def main() -> Completion:
        client = OpenAIClient(f"http://127.0.0.1:{closed_port()}", "m")
        answer = await client.complete(REQUEST)
        await client.close()
        return answer

    answer = asyncio.run(main())
    assert answer.status == "error"
    assert "127.0.0.1" in (answer.error or "")
    assert answer.end_ns >= answer.sent_ns


def test_a_failure_leaves_the_next_request_unharmed() -> None:
    """After a stream broke off, the client takes a fresh connection and answers as usual."""
    scripts: Iterator[list[Step]] = iter([[HEAD, CHUNK, End.CLOSE], whole(*FOUR)])

    async def main() -> list[Completion]:
        async with serving(lambda _: next(scripts)) as server:
            client = OpenAIClient(server.url, "m")
            answers = [await client.complete(REQUEST), await client.complete(REQUEST)]
            await client.close()
            return answers

    assert [answer.status for answer in asyncio.run(main())] == ["error", "ok"]


def test_text_prompts_and_headers_pass_through() -> None:
    """A text prompt is sent as text, and the caller's headers (a key, say) with every request."""

    async def main() -> Asked:
        async with serving(lambda _: whole(*FOUR)) as server:
            client = OpenAIClient(f"{server.url}/", "m", headers={"Authorization": "Bearer k"})
            await client.complete(CompletionRequest("r0", "once upon", 4))
            await client.close()
            return server.asked[0]

    asked = asyncio.run(main())
    assert asked.body["prompt"] == "once upon"
    assert asked.headers["authorization"] == "Bearer k"
