"""Sends a schedule: an open loop by the clock whatever the answers do, a closed one by the answers.

    open      due ────── lag ──→ sent            latency counts from both; the schedule is never moved or thinned
    closed    slot free ─ lag ─→ sent ... end = slot free ─ lag ─→ sent ...

Whatever becomes of a request that was issued, it becomes exactly one record.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loadgen.clients.base import Completion, CompletionRequest
from loadgen.records import RequestRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from loadgen.clients.base import CompletionClient
    from loadgen.plan import Schedule

# A closed loop of equal lengths started at once runs in waves: prefills together, decodes together, ends together.
# Its first starts are spread evenly over this long instead.
STAGGER_NS = 1_000_000_000
# epoll's timeout has a step of 1 ms and asyncio rounds up to it, so a timer is late by up to that. Wake this long
# before a request is due and let the loop turn until it is: at most so much of a core a request, and each turn serves
# others.
_EARLY_NS = 1_250_000


@dataclass(slots=True)
class _Issued:
    """A request on its way. `handed_ns` is when the client got it; None until then."""

    index: int
    scheduled_ns: int
    request: CompletionRequest
    handed_ns: int | None = None


class Dispatcher:
    """Issues a schedule's requests and hands a record of each to `on_record` when it has ended.

    `now_ns` must be the clock of the client's stamps; a virtual one goes with a loop of virtual time.
    """

    def __init__(  # noqa: PLR0913 - collaborators, handed in by the composition root
        self,
        schedule: Schedule,
        client: CompletionClient,
        make_prompt: Callable[[int], Sequence[int] | str],
        *,
        on_record: Callable[[RequestRecord], None],
        now_ns: Callable[[], int] = time.monotonic_ns,
        id_prefix: str = "r",
    ) -> None:
        self._schedule = schedule
        self._client = client
        self._make_prompt = make_prompt
        self._on_record = on_record
        self._now_ns = now_ns
        self._id_prefix = id_prefix
        self._in_flight: dict[asyncio.Task[Completion], _Issued] = {}
        self._next = 0
        self._finished = 0
        self._due_ns: int | None = None
        self._stopped = False
        self._failure: Exception | None = None
        self._sleeper: asyncio.Future[None] | None = None

    @property
    def in_flight(self) -> int:
        """How many requests have been issued and not ended."""
        return len(self._in_flight)

    @property
    def sent(self) -> int:
        """How many requests have been issued."""
        return self._next

    @property
    def finished(self) -> int:
        """How many requests have ended, one record each."""
        return self._finished

    @property
    def oldest_in_flight_ns(self) -> int | None:
        """The earliest scheduled instant of a request that was due and has not ended; None when there is none."""
        instants = [issued.scheduled_ns for issued in self._in_flight.values()]
        if self._due_ns is not None and self._due_ns <= self._now_ns():
            instants.append(self._due_ns)
        return min(instants, default=None)

    async def run(self, start_ns: int) -> None:
        """Issue requests from `start_ns` until the schedule ends or `stop` is called; those in flight go on.

        Raises:
            Exception: whatever the prompt maker or `on_record` raised; nothing is issued after it.
        """
        if self._schedule.offsets_ns is None:
            await self._run_closed(start_ns)
        else:
            await self._run_open(start_ns, self._schedule.offsets_ns)
        self._due_ns = None
        self._raise_failure()

    def stop(self) -> None:
        """Issue no more."""
        self._stopped = True
        self._wake()

    async def drain(self, timeout_s: float) -> None:
        """Stop, wait for those in flight, and cancel what is left after `timeout_s`.

        A cancelled request's record has when it was handed to the client as `sent_ns`, and none of what had arrived.

        Raises:
            Exception: what `on_record` raised.
        """
        self.stop()
        if self._in_flight:
            _, late = await asyncio.wait(self._in_flight, timeout=timeout_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
            await asyncio.sleep(0)  # one that ended at the very timeout has its callback in the loop's next turn
        self._raise_failure()

    async def _run_open(self, start_ns: int, offsets_ns: NDArray[np.int64]) -> None:
        for offset_ns in offsets_ns:
            request = self._next_request()  # made ahead, in the time before it is due
            self._due_ns = due_ns = start_ns + int(offset_ns)
            await self._wait_until(due_ns)
            if self._stopped:
                break
            self._issue(request, due_ns)
            await asyncio.sleep(0)  # when several are overdue, let each be sent before the next is made

    async def _run_closed(self, start_ns: int) -> None:
        slots = self._schedule.spec.concurrency
        assert slots is not None, "a closed loop has a concurrency"
        for slot in range(slots):
            due_ns = start_ns + slot * STAGGER_NS // slots
            await self._wait_until(due_ns)
            if self._stopped or self._exhausted:
                break
            self._issue_next(due_ns)
        while not (self._stopped or self._exhausted):
            await self._sleep(None)

    @property
    def _exhausted(self) -> bool:
        return self._next >= len(self._schedule.prompt_tokens)

    def _issue_next(self, scheduled_ns: int) -> None:
        self._issue(self._next_request(), scheduled_ns)
        if self._exhausted:
            self._wake()

    def _next_request(self) -> CompletionRequest:
        index = self._next
        output_tokens = int(self._schedule.output_tokens[index])
        return CompletionRequest(f"{self._id_prefix}{index}", self._make_prompt(index), output_tokens)

    def _issue(self, request: CompletionRequest, scheduled_ns: int) -> None:
        issued = _Issued(self._next, scheduled_ns, request)
        self._next, self._due_ns = self._next + 1, None
        task = asyncio.get_running_loop().create_task(self._complete(issued))
        self._in_flight[task] = issued
        # Not in the task itself: one that is cancelled before its first step never runs.
        task.add_done_callback(self._end)

    async def _complete(self, issued: _Issued) -> Completion:
        issued.handed_ns = self._now_ns()
        return await self._client.complete(issued.request)

    def _end(self, task: asyncio.Task[Completion]) -> None:
        """Record a request that has ended and, in a closed loop, give its slot to the next."""
        record = self._record(self._in_flight.pop(task), task)
        self._finished += 1
        try:
            self._on_record(record)
            if self._schedule.offsets_ns is None and not (self._stopped or self._exhausted):
                self._issue_next(record.end_ns)
        except Exception as error:  # noqa: BLE001 - a callback has no caller: `run` or `drain` raises it
            self._failure = self._failure or error
            self.stop()

    def _record(self, issued: _Issued, task: asyncio.Task[Completion]) -> RequestRecord:
        answer = self._answer(issued, task)
        counted = len(answer.event_tokens) == len(answer.event_ns)
        return RequestRecord(
            request_id=issued.request.request_id,
            scheduled_ns=issued.scheduled_ns,
            sent_ns=None if issued.handed_ns is None else answer.sent_ns,
            first_token_ns=int(answer.event_ns[0]) if len(answer.event_ns) else None,
            last_token_ns=int(answer.event_ns[-1]) if len(answer.event_ns) else None,
            end_ns=answer.end_ns,
            asked_prompt_tokens=int(self._schedule.prompt_tokens[issued.index]),
            asked_output_tokens=issued.request.output_tokens,
            prompt_tokens=answer.prompt_tokens,
            output_tokens=answer.output_tokens,
            token_source=answer.token_source,
            status=answer.status,
            error=answer.error,
            # A client that could not count tokens per event still knows when the first and the last came.
            event_ns=answer.event_ns if counted else np.empty(0, np.int64),
            event_tokens=answer.event_tokens,
        )

    def _answer(self, issued: _Issued, task: asyncio.Task[Completion]) -> Completion:
        """Return what the client did, or what it amounts to when it did not return."""
        now_ns = self._now_ns()
        sent_ns = now_ns if issued.handed_ns is None else issued.handed_ns
        if task.cancelled():
            return Completion(sent_ns, now_ns, "cancelled", "cancelled before its end")
        error = task.exception()
        if error is not None:  # against the seam's contract, and still no reason to lose a row
            return Completion(sent_ns, now_ns, "error", f"{type(error).__name__}: {error}")
        return task.result()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _wait_until(self, instant_ns: int) -> None:
        """Return at the instant, or as soon as `stop` is called; at once when it has passed."""
        early_ns = instant_ns - self._now_ns() - _EARLY_NS
        if early_ns > 0:
            await self._sleep(early_ns)
        while not self._stopped and (now_ns := self._now_ns()) < instant_ns:
            await asyncio.sleep(0)
            if self._now_ns() == now_ns:  # virtual time stands still while the loop has anything to do
                await self._sleep(instant_ns - now_ns)

    async def _sleep(self, duration_ns: int | None) -> None:
        """Sleep until `_wake`, or for the duration."""
        loop = asyncio.get_running_loop()
        sleeper = self._sleeper = loop.create_future()
        timer = None if duration_ns is None else loop.call_later(duration_ns * 1e-9, self._wake)
        try:
            await sleeper
        finally:
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)
