"""Sends a schedule: each request when it is due, whatever became of the others.

    open loop      due instants are fixed; one that is late is sent at once and its lag is in the data
    closed loop    N slots; a slot sends its next request when its last has ended

Every request that is begun becomes exactly one record.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from loadgen.clients.base import Completion, CompletionRequest
from loadgen.records import RequestRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadgen.clients.base import CompletionClient
    from loadgen.plan import Schedule

# epoll waits in whole milliseconds, rounded up: sleep until shortly before and yield until the instant itself.
SPIN_NS = 1_200_000
# How often a long wait looks whether it should still be waited for.
_LOOK_NS = 100_000_000
# The slots of a closed loop start over this long, or answers of equal length would come and go in waves.
STAGGER_NS = 1_000_000_000


class Dispatcher:
    """One schedule on its way through one client."""

    def __init__(  # noqa: PLR0913 - collaborators, each given by the composition root
        self,
        schedule: Schedule,
        client: CompletionClient,
        make_prompt: Callable[[int], Sequence[int] | str],
        *,
        on_record: Callable[[RequestRecord], None],
        now_ns: Callable[[], int] = time.monotonic_ns,
        spin_ns: int = SPIN_NS,
        id_prefix: str = "r",
    ) -> None:
        self._schedule = schedule
        self._client = client
        self._make_prompt = make_prompt
        self._on_record = on_record
        self._now_ns = now_ns
        self._spin_ns = spin_ns
        self._id_prefix = id_prefix
        self._stopped = False
        self._next = 0
        self._tasks: dict[asyncio.Task[None], int] = {}
        self.sent = 0
        self.finished = 0

    @property
    def in_flight(self) -> int:
        """How many requests have been begun and have not ended."""
        return self.sent - self.finished

    @property
    def oldest_in_flight_ns(self) -> int | None:
        """When the earliest scheduled request that has not ended was due; None when all have ended."""
        return min(self._tasks.values(), default=None)

    async def run(self, start_ns: int) -> None:
        """Send until the schedule ends or `stop`; answers may still be under way then (see `drain`)."""
        if self._schedule.offsets_ns is not None:
            await self._open_loop(start_ns)
            return
        slots = self._schedule.concurrency or 1
        await asyncio.gather(*(self._slot(start_ns + slot * STAGGER_NS // slots) for slot in range(slots)))

    async def _open_loop(self, start_ns: int) -> None:
        assert self._schedule.offsets_ns is not None
        for index, offset_ns in enumerate(self._schedule.offsets_ns.tolist()):
            due_ns = start_ns + offset_ns
            await self._wait_until(due_ns)
            if self._stopped:
                return
            self._begin(index, due_ns)

    async def _slot(self, start_ns: int) -> None:
        await self._wait_until(start_ns)
        while not self._stopped and self._next < len(self._schedule):
            index, self._next = self._next, self._next + 1
            await asyncio.wait({self._begin(index, self._now_ns())})

    async def _wait_until(self, instant_ns: int) -> None:
        while not self._stopped and (left_ns := instant_ns - self._now_ns()) > 0:
            # Yielding lets arriving bytes be stamped while this waits out its last millisecond.
            pause_ns = min(left_ns - self._spin_ns, _LOOK_NS) if left_ns > self._spin_ns else 0
            await asyncio.sleep(pause_ns * 1e-9)

    def _begin(self, index: int, scheduled_ns: int) -> asyncio.Task[None]:
        self.sent += 1
        task = asyncio.get_running_loop().create_task(self._one(index, scheduled_ns))
        self._tasks[task] = scheduled_ns
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self.finished += 1

    async def _one(self, index: int, scheduled_ns: int) -> None:
        request = CompletionRequest(
            request_id=f"{self._id_prefix}{index:07d}",
            prompt=self._make_prompt(index),
            output_tokens=int(self._schedule.output_tokens[index]),
        )
        begun_ns = self._now_ns()
        try:
            answer = await self._client.complete(request)
        except asyncio.CancelledError:
            answer = Completion(begun_ns, self._now_ns(), "cancelled", "cut off at the end of the run")
        except Exception as error:  # noqa: BLE001 - a client's own fault is still this request's row
            answer = Completion(begun_ns, self._now_ns(), "error", f"{type(error).__name__}: {error}")
        self._on_record(self._record(index, scheduled_ns, request.request_id, answer))

    def _record(self, index: int, scheduled_ns: int, request_id: str, answer: Completion) -> RequestRecord:
        seen = answer.event_ns.size > 0
        return RequestRecord(
            request_id=request_id,
            scheduled_ns=scheduled_ns,
            sent_ns=answer.sent_ns,
            first_token_ns=int(answer.event_ns[0]) if seen else None,
            last_token_ns=int(answer.event_ns[-1]) if seen else None,
            end_ns=answer.end_ns,
            asked_prompt_tokens=int(self._schedule.prompt_tokens[index]),
            asked_output_tokens=int(self._schedule.output_tokens[index]),
            prompt_tokens=answer.prompt_tokens,
            output_tokens=answer.output_tokens,
            token_source=answer.token_source,
            status=answer.status,
            error=answer.error,
            event_ns=answer.event_ns,
            event_tokens=answer.event_tokens,
        )

    def stop(self) -> None:
        """Begin no more requests."""
        self._stopped = True

    async def drain(self, timeout_s: float) -> None:
        """Wait for those under way, then cut off the rest; each becomes a record."""
        self.stop()
        await asyncio.sleep(0)  # a task cancelled before its first step would leave no record
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)
        left = set(self._tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
