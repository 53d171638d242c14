"""Two ways to run the one engine: in real time for whoever talks to it, and in virtual time from a list of requests.

    simulated   |-- step 0 --|-- step 1 --|-- step 2 --|     each starts where the one before it ended
    real             compute, sleep to the end, send |
                     compute, sleep less if late, send |

The simulated clock is not moved by a late sleep or a slow send: lateness is caught up, and accounted for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
from collections import deque
from dataclasses import dataclass
from select import select
from typing import TYPE_CHECKING

import numpy as np

from servers.clock import MonotonicClock, VirtualClock
from servers.sim.engine import Engine
from servers.sim.metrics import Lag
from servers.sim.recorder import IDLE_HEARTBEAT_NS, LOOK_NS, Recorder
from servers.sim.truth import TrueRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from servers.clock import Clock
    from servers.sim.device import SimDevice
    from servers.sim.engine import EngineConfig, StepResult

    # Called with a step when it begins; what it returns is called at the step's end.
    Prepare = Callable[[StepResult], Callable[[], None]]


class Driver:
    """Steps an engine on a clock, records on its devices, and hands each step's tokens out at the step's end."""

    def __init__(self, engine: Engine, clock: Clock, recorder: Recorder | None, prepare: Prepare) -> None:
        self.engine = engine
        self.lag = Lag()
        self._clock = clock
        self._recorder = recorder
        self._prepare = prepare

    async def serve(self, now_ns: int) -> int:
        """Step from the simulated instant `now_ns` until nothing is queued; return the instant of the end."""
        while (ready_ns := self.next_ns(now_ns)) is not None:
            if ready_ns > now_ns:
                self.rest(now_ns, ready_ns)
                await self._clock.sleep_until_ns(ready_ns)
            self.look(ready_ns)
            step = self.engine.step(ready_ns)
            if step is None:  # what was queued was withdrawn while this slept
                now_ns = ready_ns
                continue
            await self._play(step)
            now_ns = step.end_ns
        return now_ns

    def next_ns(self, now_ns: int) -> int | None:
        """Return when the next step can start, None with nothing queued."""
        return self.engine.ready_ns(now_ns)

    async def _play(self, step: StepResult) -> None:
        """Live through a step: everything that can be done before its end is done before its end."""
        if self._recorder is not None:
            self._recorder.step(step)
        send = self._prepare(step)
        await self._clock.sleep_until_ns(step.end_ns)
        begun_ns = self._clock.now_ns()
        send()
        self.lag.note(step, begun_ns, self._clock.now_ns())

    def look(self, now_ns: int) -> bool:
        """Take over what was set on the device since; return whether that changed anything."""
        point = None if self._recorder is None else self._recorder.point(now_ns)
        if point is None or point == self.engine.point:
            return False
        self.engine.point = point
        return True

    def rest(self, now_ns: int, until_ns: int = 0) -> None:
        """Record that nothing is in flight from `now_ns` on, until `until_ns` where that is known."""
        if self._recorder is not None:
            self._recorder.idle(now_ns, self.engine.idle_w, self.engine.point.sm_mhz, until_ns)


class RealTimeDriver(Driver):
    """Runs for ever on the host's clock, resting while nothing is queued."""

    def __init__(
        self, engine: Engine, recorder: Recorder, prepare: Prepare, is_stalled: Callable[[], bool] = lambda: False
    ) -> None:
        super().__init__(engine, PreciseClock(), recorder, prepare)
        self._woken = asyncio.Event()
        self._is_stalled = is_stalled

    def wake(self) -> None:
        """Say that a request was added."""
        self._woken.set()

    async def run(self) -> None:
        """Serve and rest in turns; ends by cancellation only."""
        now_ns = self._clock.now_ns()
        while True:
            now_ns = await self._rest_until_woken(now_ns)
            now_ns = await self.serve(now_ns)

    def next_ns(self, now_ns: int) -> int | None:
        """Return when the next step can start; never, with a fault that hangs the engine."""
        return None if self._is_stalled() else super().next_ns(now_ns)

    async def _rest_until_woken(self, rested_ns: int) -> int:
        """Rest from an instant on; return the instant of the last record, which no later one may precede."""
        self.rest(rested_ns)
        while not self._woken.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_NS * 1e-9):
                    await self._woken.wait()
            now_ns = self._clock.now_ns()
            if self.look(now_ns) or now_ns - rested_ns >= IDLE_HEARTBEAT_NS:
                self.rest(now_ns)
                rested_ns = now_ns
        self._woken.clear()
        return rested_ns


class PreciseClock(MonotonicClock):
    """The host's clock for steps of about a millisecond: sleeps to shortly before the instant, then yields until it.

    A sleep alone ends 60 to 200 us late on a busy machine, which a step of a small model cannot afford.
    """

    _SPIN_NS = 250_000

    async def sleep_until_ns(self, instant_ns: int) -> None:
        """Return at the instant, or after one turn for others when it has passed."""
        await super().sleep_until_ns(instant_ns - self._SPIN_NS)
        while self.now_ns() < instant_ns:  # noqa: ASYNC110 - no event tells the time
            await asyncio.sleep(0)


class _PreciseSelector(selectors.EpollSelector):
    """Epoll whose timeout is not rounded up to a whole millisecond: waits on the epoll descriptor itself."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait up to `timeout` seconds."""
        if timeout is not None and 0 < timeout < 0.1:
            select((self.fileno(),), (), (), timeout)
            timeout = 0
        return super().select(timeout)


def precise_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop whose timers are good to tens of microseconds where the system's are to a millisecond."""
    if os.name == "posix" and hasattr(selectors, "EpollSelector"):
        return asyncio.SelectorEventLoop(_PreciseSelector())
    return asyncio.new_event_loop()


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request for virtual time."""

    arrival_ns: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class VirtualRun:
    """What came of a list of requests: the instants of each one's tokens, in the order of the list.

    `end_ns` is when the last one was done; `energy_j` that of all steps on all GPUs, idle gaps not included.
    """

    token_ns: tuple[NDArray[np.int64], ...]
    end_ns: int
    steps: int
    energy_j: float
    preemptions: int


def simulate(config: EngineConfig, arrivals: Sequence[Arrival], devices: Sequence[SimDevice] = ()) -> VirtualRun:
    """Run requests, in the order of their arrival, in virtual time; with devices, their power and truth is recorded.

    Not for use inside a running event loop.
    """
    driver = _VirtualDriver(Engine(config), arrivals, Recorder(devices) if devices else None)
    return asyncio.run(driver.run())


class _VirtualDriver(Driver):
    """Feeds requests as their time comes, and collects token times and totals."""

    def __init__(self, engine: Engine, arrivals: Sequence[Arrival], recorder: Recorder | None) -> None:
        self._start_ns = min((arrival.arrival_ns for arrival in arrivals), default=0)
        super().__init__(engine, VirtualClock(self._start_ns), recorder, self._note)
        self._coming = deque(enumerate(arrivals))
        self._token_ns: list[list[int]] = [[] for _ in arrivals]
        self._energy_j = 0.0
        self._preemptions = 0

    async def run(self) -> VirtualRun:
        end_ns = await self.serve(self._start_ns)
        self.rest(end_ns)
        if self._recorder is not None:
            self._recorder.close()
        times = tuple(np.array(instants, np.int64) for instants in self._token_ns)
        return VirtualRun(times, end_ns, self.lag.steps, self._energy_j, self._preemptions)

    def next_ns(self, now_ns: int) -> int | None:
        """Return when the next step can start, after queueing what has arrived or, with nothing queued, comes next."""
        while self._coming and (self._coming[0][1].arrival_ns <= now_ns or self.engine.ready_ns(now_ns) is None):
            self._add(*self._coming.popleft())
        return self.engine.ready_ns(now_ns)

    def _add(self, sequence: int, arrival: Arrival) -> None:
        asked = (arrival.arrival_ns, arrival.prompt_tokens, arrival.output_tokens)
        self.engine.scheduler.add(sequence, *asked)
        if self._recorder is not None:
            self._recorder.accepted(TrueRequest(sequence, f"virtual-{sequence}", *asked))

    def _note(self, step: StepResult) -> Callable[[], None]:
        self._energy_j += step.energy_j * self.engine.config.tensor_parallel
        self._preemptions += len(step.preempted)
        for part in step.slices:
            if part.produced:
                self._token_ns[part.sequence].append(step.end_ns)
        return _nothing


def _nothing() -> None:
    """Do nothing: virtual tokens are sent to nobody."""
