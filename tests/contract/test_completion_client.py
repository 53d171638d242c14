"""What every `CompletionClient` promises, held against the HTTP client and the scripted one."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from loadgen.clients.base import CompletionRequest
from loadgen.clients.openai import OpenAIClient
from loadgen.clients.scripted import Script, ScriptedClient
from tests.support.byte_server import DONE, HEAD, TAIL, Asked, End, chunk, plain, serving, tokens, usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from loadgen.clients.base import CompletionClient
    from tests.support.byte_server import Step

    Open = Callable[[], AbstractAsyncContextManager[CompletionClient]]

TTFT_S = ITL_S = 0.02
# A request whose id begins with one of these is answered so; any other is answered in full.
FAILS, HANGS = "fail", "hang"


def _http_script(asked: Asked) -> list[Step]:
    request_id, wanted = asked.headers["x-request-id"], asked.body["max_tokens"]
    if request_id.startswith(FAILS):
        return [plain(500, b'{"error": {"message": "no"}}')]
    if request_id.startswith(HANGS):
        return [HEAD, End.HANG]
    steps: list[Step] = [HEAD]
    for count in range(1, wanted + 1):
        steps += [ITL_S, chunk(tokens(1, so_far=count, reason="length" if count == wanted else None))]
    return [*steps, chunk(usage(len(asked.body["prompt"]), wanted) + DONE) + TAIL]


def _script(request: CompletionRequest) -> Script:
    if request.request_id.startswith(FAILS):
        return Script(TTFT_S, ITL_S, tokens=0, status="error", error="HTTP 500: no")
    return Script(1e6 if request.request_id.startswith(HANGS) else TTFT_S, ITL_S)


@asynccontextmanager
async def _openai() -> AsyncIterator[CompletionClient]:
    async with serving(_http_script) as server:
        client = OpenAIClient(server.url, "m", timeout_s=60.0)
        yield client
        await client.close()


@asynccontextmanager
async def _scripted() -> AsyncIterator[CompletionClient]:
    client = ScriptedClient(_script)
    yield client
    await client.close()


@pytest.fixture(params=[_openai, _scripted], ids=["openai", "scripted"])
def opened(request: pytest.FixtureRequest) -> Open:
    """Return what opens a client in the running loop."""
    value: Open = request.param
    return value


def test_an_answer_has_every_token_asked_for_in_order(opened: Open) -> None:
    """Status ok, counts as asked, and sent <= tokens <= end on the monotonic clock."""

    async def main() -> None:
        async with opened() as client:
            before_ns = time.monotonic_ns()
            answer = await client.complete(CompletionRequest("a", [1, 2, 3], 5))
            after_ns = time.monotonic_ns()
        assert (answer.status, answer.error) == ("ok", None)
        assert (answer.prompt_tokens, answer.output_tokens, answer.token_source) == (3, 5, "usage")
        assert answer.event_tokens.tolist() == [1] * 5
        instants = [answer.sent_ns, *answer.event_ns.tolist(), answer.end_ns]
        assert instants == sorted(instants)
        # The loop's clock has a resolution of its own, and the scripted client ends a timer's rounding early.
        assert before_ns - 1000 <= answer.sent_ns
        assert answer.end_ns <= after_ns + 1_000_000
        assert answer.event_ns[0] - answer.sent_ns >= TTFT_S * 0.9e9

    asyncio.run(main())


def test_a_failed_request_is_a_value(opened: Open) -> None:
    """A failure is returned, not raised: status error, a reason, no tokens."""

    async def main() -> None:
        async with opened() as client:
            answer = await client.complete(CompletionRequest(FAILS, [1], 5))
        assert (answer.status, answer.error) == ("error", "HTTP 500: no")
        assert len(answer.event_ns) == 0
        assert answer.end_ns >= answer.sent_ns

    asyncio.run(main())


def test_answers_under_way_together_do_not_mix(opened: Open) -> None:
    """Requests of different lengths at the same time each get their own answer."""

    async def main() -> None:
        async with opened() as client:
            asked = [CompletionRequest(f"q{n}", [1] * n, n) for n in range(1, 9)]
            answers = await asyncio.gather(*map(client.complete, asked))
        for request, answer in zip(asked, answers, strict=True):
            assert answer.prompt_tokens == answer.output_tokens == request.output_tokens
            assert int(answer.event_tokens.sum()) == request.output_tokens

    asyncio.run(main())


def test_cancelling_aborts_the_request(opened: Open) -> None:
    """A cancelled call raises CancelledError at once, and the client goes on working."""

    async def main() -> None:
        async with opened() as client:
            task = asyncio.ensure_future(client.complete(CompletionRequest(HANGS, [1], 5)))
            _, pending = await asyncio.wait({task}, timeout=0.1)
            assert pending == {task}
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=5.0)
            assert done == {task}
            assert task.cancelled()
            answer = await client.complete(CompletionRequest("b", [1], 2))
        assert (answer.status, answer.output_tokens) == ("ok", 2)

    asyncio.run(main())
