"""The dispatcher in virtual time: open loops stay open, closed ones stay full, every request becomes one row."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loadgen.clients.scripted import Script, ScriptedClient
from loadgen.dispatch import Dispatcher
from loadgen.lengths import Lengths
from loadgen.plan import LoadSpec, make_schedule
from tests.support.virtual_loop import VirtualLoop, run_virtual

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadgen.clients.base import Completion, CompletionClient, CompletionRequest
    from loadgen.plan import Schedule
    from loadgen.records import RequestRecord

MS = 1_000_000
S = 1_000 * MS
START_NS = 2 * S
OPEN = LoadSpec("constant", 10.0, None, Lengths(8, 8), Lengths(4, 4), horizon_s=2.0, seed=0)
CLOSED = replace(OPEN, arrival="closed", rate_rps=None, concurrency=4, limit=40)
# Virtual instants are exact but for the rounding of floating-point seconds.
ROUNDING_NS = 10


def no_prompt(_index: int) -> Sequence[int]:
    """Return a prompt for requests whose prompt does not matter."""
    return [1]


def dispatcher(
    loop: VirtualLoop,
    schedule: Schedule,
    client: CompletionClient,
    rows: list[RequestRecord],
    prompt: Callable[[int], Sequence[int]] = no_prompt,
) -> Dispatcher:
    """Return a dispatcher in the loop's time."""
    return Dispatcher(schedule, client, prompt, on_record=rows.append, now_ns=loop.now_ns)


def steady(ttft_s: float, itl_s: float = 0.0) -> ScriptedClient:
    """Return a client that answers all requests alike."""
    return ScriptedClient(lambda _: Script(ttft_s, itl_s))


def lag_ns(rows: Sequence[RequestRecord]) -> list[int]:
    """Return how late each request was sent."""
    assert all(row.sent_ns is not None for row in rows)
    return [row.sent_ns - row.scheduled_ns for row in rows if row.sent_ns is not None]


def by_schedule(rows: Sequence[RequestRecord]) -> list[RequestRecord]:
    """Return the rows in the order of their schedule."""
    return sorted(rows, key=lambda row: row.scheduled_ns)


def test_an_open_loop_stays_open_when_nothing_is_answered() -> None:
    """Every request leaves at its own instant although none has ended; all are in flight together."""
    rows: list[RequestRecord] = []

    async def main(loop: VirtualLoop) -> None:
        load = dispatcher(loop, make_schedule(OPEN), steady(100.0), rows)
        await load.run(START_NS)
        assert (load.in_flight, load.sent, load.finished) == (20, 20, 0)
        await load.drain(1000.0)
        assert (load.in_flight, load.sent, load.finished) == (0, 20, 20)

    run_virtual(main)
    assert [row.scheduled_ns for row in by_schedule(rows)] == [START_NS + k * 100 * MS for k in range(20)]
    assert max(map(abs, lag_ns(rows))) <= ROUNDING_NS


def test_a_late_generator_sends_everything_overdue_and_keeps_its_schedule() -> None:
    """After a stall of 450 ms the overdue requests leave at once, their lag is recorded, the rest are on time."""
    rows: list[RequestRecord] = []

    async def main(loop: VirtualLoop) -> None:
        def prompt(index: int) -> Sequence[int]:
            if index == 5:
                loop.block(0.45)  # from 0.4 s, when request 4 was sent, to 0.85 s
            return [1]

        load = dispatcher(loop, make_schedule(OPEN), steady(0.01), rows, prompt)
        await load.run(START_NS)
        await load.drain(10.0)

    run_virtual(main)
    rows = by_schedule(rows)
    assert [row.scheduled_ns for row in rows] == [START_NS + k * 100 * MS for k in range(20)]
    expected = [0] * 5 + [350 * MS, 250 * MS, 150 * MS, 50 * MS] + [0] * 11
    assert np.abs(np.subtract(lag_ns(rows), expected)).max() <= ROUNDING_NS


def test_poisson_arrivals_leave_as_planned() -> None:
    """The instants of sending are the schedule's own, whatever their gaps."""
    rows: list[RequestRecord] = []
    schedule = make_schedule(replace(OPEN, arrival="poisson", rate_rps=300.0))

    async def main(loop: VirtualLoop) -> None:
        load = dispatcher(loop, schedule, steady(0.05, 0.01), rows)
        await load.run(START_NS)
        await load.drain(10.0)

    run_virtual(main)
    assert schedule.offsets_ns is not None
    sent = sorted(row.sent_ns for row in rows if row.sent_ns is not None)
    assert np.abs(np.array(sent) - START_NS - schedule.offsets_ns).max() <= ROUNDING_NS


def test_a_closed_loop_keeps_its_concurrency() -> None:
    """N are in flight from the last staggered start to the last issue, and each start is where a slot became free."""
    rows: list[RequestRecord] = []
    seen: list[int] = []

    async def main(loop: VirtualLoop) -> None:
        load = dispatcher(loop, make_schedule(CLOSED), steady(0.3, 0.3), rows)

        async def watch() -> None:
            await asyncio.sleep(START_NS / S + 1.0)
            while load.sent < 40:
                seen.append(load.in_flight)
                await asyncio.sleep(0.0171)

        watching = asyncio.ensure_future(watch())
        await load.run(START_NS)
        await load.drain(10.0)
        await watching

    run_virtual(main)
    rows = by_schedule(rows)
    assert len(rows) == 40
    assert set(seen) == {4}
    first = [START_NS + slot * 250 * MS for slot in range(4)]
    assert [row.scheduled_ns for row in rows[:4]] == first
    assert {row.scheduled_ns for row in rows[4:]} <= {row.end_ns for row in rows}
    assert max(map(abs, lag_ns(rows))) <= ROUNDING_NS


def test_a_closed_loop_of_more_slots_than_requests_ends() -> None:
    """A schedule shorter than its concurrency is sent once and the run returns."""
    rows: list[RequestRecord] = []

    async def main(loop: VirtualLoop) -> None:
        load = dispatcher(loop, make_schedule(replace(CLOSED, limit=2)), steady(5.0), rows)
        await load.run(START_NS)
        await load.drain(10.0)

    run_virtual(main)
    assert [row.status for row in rows] == ["ok", "ok"]


@pytest.mark.parametrize("spec", [OPEN, CLOSED])
def test_stop_ends_the_run_at_once(spec: LoadSpec) -> None:
    """After `stop` nothing is issued and `run` returns without waiting for the next due instant."""
    rows: list[RequestRecord] = []

    async def main(loop: VirtualLoop) -> None:
        load = dispatcher(loop, make_schedule(spec), steady(0.35), rows)
        loop.call_at(START_NS / S + 0.55, load.stop)
        await load.run(START_NS)
        assert abs(loop.now_ns() - (START_NS + 550 * MS)) <= ROUNDING_NS
        sent = load.sent
        await load.drain(10.0)
        assert load.sent == sent == len(rows)

    run_virtual(main)


def test_drain_cancels_what_outlasts_its_timeout() -> None:
    """Those that end in time are ok; the rest are rows with status cancelled, sent but without tokens."""
    rows: list[RequestRecord] = []

    async def main(loop: VirtualLoop) -> None:
        client = ScriptedClient(lambda request: Script(0.1 if request.request_id == "r0" else 1000.0, 0.0))
        load = dispatcher(loop, make_schedule(replace(OPEN, horizon_s=0.5)), client, rows)
        await load.run(START_NS)
        await load.drain(2.0)
        assert abs(loop.now_ns() - (START_NS + 2400 * MS)) <= ROUNDING_NS

    run_virtual(main)
    rows = by_schedule(rows)
    assert [row.status for row in rows] == ["ok"] + ["cancelled"] * 4
    assert max(map(abs, lag_ns(rows))) <= ROUNDING_NS
    for row in rows[1:]:
        assert row.output_tokens is None
        assert row.first_token_ns is None
        assert abs(row.end_ns - (START_NS + 2400 * MS)) <= ROUNDING_NS


def test_a_request_cancelled_before_it_could_start_is_a_row_that_was_never_sent() -> None:
    """Draining at the very moment of issue still gives the row, with `sent_ns` missing."""
    rows: list[RequestRecord] = []

    async def main(loop: VirtualLoop) -> None:
        load = dispatcher(loop, make_schedule(OPEN), steady(1.0), rows)
        load._issue(load._next_request(), START_NS)
        for task in load._in_flight:
            task.cancel()
        await load.drain(0.0)

    run_virtual(main)
    assert [(row.status, row.sent_ns) for row in rows] == [("cancelled", None)]


def test_the_oldest_request_is_the_earliest_due_that_has_not_ended() -> None:
    """It follows the slowest request in flight and is None when all have ended."""
    rows: list[RequestRecord] = []
    seen: list[int | None] = []

    async def main(loop: VirtualLoop) -> None:
        client = ScriptedClient(lambda request: Script(0.55 if request.request_id == "r2" else 0.01, 0.0))
        load = dispatcher(loop, make_schedule(replace(OPEN, horizon_s=1.0)), client, rows)
        for at_s in (0.05, 0.205, 0.5, 0.76, 0.905, 1.5):
            loop.call_at(START_NS / S + at_s, lambda: seen.append(load.oldest_in_flight_ns))
        await load.run(START_NS)
        await load.drain(10.0)
        await asyncio.sleep(2.0)

    run_virtual(main)
    due = [START_NS + k * 100 * MS for k in range(10)]
    assert seen == [None, due[2], due[2], None, due[9], None]


def test_what_the_recorder_raises_ends_the_run() -> None:
    """A recorder that fails is not silently dropped by the loop: `run` stops issuing and raises it."""

    async def main(loop: VirtualLoop) -> None:
        def refuse(_row: RequestRecord) -> None:
            raise OSError("disk full")

        load = Dispatcher(make_schedule(OPEN), steady(0.15), no_prompt, on_record=refuse, now_ns=loop.now_ns)
        with pytest.raises(OSError, match="disk full"):
            await load.run(START_NS)
        assert load.sent == 2

    run_virtual(main)


class _Moody:
    """A client that answers, fails, raises or lets itself be cancelled, as drawn."""

    def __init__(self, moods: Sequence[tuple[str, float]]) -> None:
        self._moods = moods
        self._calls = 0

    async def complete(self, request: CompletionRequest) -> Completion:
        mood, delay_s = self._moods[self._calls % len(self._moods)]
        self._calls += 1
        if mood == "raise":
            await asyncio.sleep(delay_s)
            raise KeyError(request.request_id)
        if mood == "cancel":
            await asyncio.sleep(delay_s)
            raise asyncio.CancelledError
        status = "ok" if mood == "ok" else "error"
        script = Script(delay_s, 0.01, tokens=None if mood == "ok" else 1, status=status, error=None)  # type: ignore[arg-type]
        return await ScriptedClient(lambda _: script).complete(request)

    async def close(self) -> None:
        """Nothing to release."""


@given(
    spec=st.sampled_from([OPEN, replace(OPEN, arrival="poisson", rate_rps=40.0), CLOSED]),
    moods=st.lists(
        st.tuples(st.sampled_from(["ok", "error", "raise", "cancel"]), st.sampled_from([0.0, 0.02, 0.3, 3.0])),
        min_size=1,
        max_size=6,
    ),
    stop_s=st.floats(0.0, 4.0),
    patience_s=st.sampled_from([0.0, 0.1, 5.0]),
)
@example(spec=OPEN, moods=[("ok", 0.0), ("ok", 0.0), ("error", 0.3)], stop_s=1.0, patience_s=0.1)  # at the timeout
def test_every_request_becomes_exactly_one_row(
    spec: LoadSpec, moods: list[tuple[str, float]], stop_s: float, patience_s: float
) -> None:
    """Whatever clients do and whenever the run is stopped, rows and issued requests match one to one."""
    rows: list[RequestRecord] = []
    schedule = make_schedule(spec)

    async def main(loop: VirtualLoop) -> None:
        load = dispatcher(loop, schedule, _Moody(moods), rows)
        loop.call_at(START_NS / S + stop_s, load.stop)
        await load.run(START_NS)
        await load.drain(patience_s)
        assert load.in_flight == 0
        assert load.sent == load.finished == len(rows)
        assert load.oldest_in_flight_ns is None

    run_virtual(main)
    assert Counter(row.request_id for row in rows) == Counter(f"r{index}" for index in range(len(rows)))
    for row in rows:
        index = int(row.request_id[1:])
        assert row.asked_prompt_tokens == schedule.prompt_tokens[index]
        assert row.asked_output_tokens == schedule.output_tokens[index]
        assert (row.first_token_ns is None) == (len(row.event_ns) == 0)
        assert row.scheduled_ns <= (row.sent_ns or row.end_ns) + ROUNDING_NS
        assert row.status in {"ok", "cancelled"} or row.error is not None or row.output_tokens == 1


def test_times_of_tokens_survive_where_their_counts_are_unknown() -> None:
    """An answer with event times but no counts keeps its first and last token and has no events."""
    rows: list[RequestRecord] = []

    class Uncounted(ScriptedClient):
        async def complete(self, request: CompletionRequest) -> Completion:
            answer = await super().complete(request)
            return replace(answer, event_tokens=np.empty(0, np.int32), output_tokens=None, token_source=None)

    async def main(loop: VirtualLoop) -> None:
        load = dispatcher(
            loop, make_schedule(replace(OPEN, horizon_s=0.1)), Uncounted(lambda _: Script(0.5, 0.1)), rows
        )
        await load.run(START_NS)
        await load.drain(10.0)

    run_virtual(main)
    (row,) = rows
    assert row.first_token_ns == pytest.approx(START_NS + 500 * MS, abs=ROUNDING_NS)
    assert row.last_token_ns == pytest.approx(START_NS + 800 * MS, abs=ROUNDING_NS)
    assert (len(row.event_ns), len(row.event_tokens)) == (0, 0)
