"""Every `Clock` keeps the same promises."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from servers.clock import MonotonicClock, VirtualClock
from servers.sim.drivers import PreciseClock, precise_loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers.clock import Clock

CLOCKS = [MonotonicClock, VirtualClock, PreciseClock]


@pytest.mark.parametrize("make", CLOCKS)
def test_a_sleep_never_ends_early(make: Callable[[], Clock]) -> None:
    """After sleeping until an instant the clock shows that instant or a later one."""

    async def sleeps() -> list[int]:
        clock, late = make(), []
        for ahead_ns in (1, 1_000, 300_000, 2_000_000):
            instant_ns = clock.now_ns() + ahead_ns
            await clock.sleep_until_ns(instant_ns)
            late.append(clock.now_ns() - instant_ns)
        return late

    # The usual loop rounds up to a millisecond, which would hide a clock that wakes too soon.
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        assert min(runner.run(sleeps())) >= 0


@pytest.mark.parametrize("make", CLOCKS)
def test_a_past_instant_does_not_turn_time_back(make: Callable[[], Clock]) -> None:
    """Sleeping until an instant that has passed returns, and time has not gone back."""

    async def sleeps() -> tuple[int, int]:
        clock = make()
        await clock.sleep_until_ns(clock.now_ns() + 1_000)
        before_ns = clock.now_ns()
        await clock.sleep_until_ns(before_ns - 1_000_000_000)
        return before_ns, clock.now_ns()

    before_ns, after_ns = asyncio.run(sleeps())
    assert after_ns >= before_ns


@pytest.mark.parametrize("make", [MonotonicClock, PreciseClock])
def test_a_real_clock_lets_others_run(make: Callable[[], Clock]) -> None:
    """While one task sleeps on a real clock, even until the past, another one runs."""

    async def race() -> list[str]:
        clock, order = make(), []

        async def other() -> None:
            order.append("other")

        task = asyncio.create_task(other())
        await clock.sleep_until_ns(clock.now_ns() - 1)
        order.append("sleeper")
        await task
        return order

    assert asyncio.run(race()) == ["other", "sleeper"]


def test_a_virtual_hour_costs_nothing() -> None:
    """A virtual clock jumps to the instant asked for, exactly."""
    clock = VirtualClock(5)
    asyncio.run(clock.sleep_until_ns(3_600_000_000_000))
    assert clock.now_ns() == 3_600_000_000_000
