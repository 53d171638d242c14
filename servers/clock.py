"""The `Clock` seam: what time it is and how to wait, real or virtual."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic time in integer nanoseconds."""

    def now_ns(self) -> int:
        """Return the present instant."""
        ...

    async def sleep_until_ns(self, instant_ns: int) -> None:
        """Return at `instant_ns` or, when that has passed, as soon as others have had their turn."""
        ...


class MonotonicClock:
    """The host's monotonic clock."""

    def now_ns(self) -> int:
        """Return `time.monotonic_ns()`."""
        return time.monotonic_ns()

    async def sleep_until_ns(self, instant_ns: int) -> None:
        """Sleep on the running event loop."""
        await asyncio.sleep(max(0, instant_ns - time.monotonic_ns()) * 1e-9)


class VirtualClock:
    """A clock that stands still until someone sleeps, then jumps to the instant asked for."""

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        """Return the virtual instant."""
        return self._now_ns

    async def sleep_until_ns(self, instant_ns: int) -> None:
        """Jump forward; never back."""
        self._now_ns = max(self._now_ns, instant_ns)
