"""An asyncio event loop whose time jumps to the next timer as soon as nothing else can happen."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class _JumpingSelector(selectors.SelectSelector):
    """Waits for nothing: the time that a wait would have taken has passed when it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now; if nothing is, move time on by `timeout`.

        Raises:
            RuntimeError: nothing is ready and no timer is set, so that nothing would ever happen.
        """
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everything waits and no timer is set")
            self.now_s += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop in virtual time, starting at 0."""

    def __init__(self) -> None:
        self._virtual = _JumpingSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._virtual.now_s

    def now_ns(self) -> int:
        """Return the virtual time in nanoseconds."""
        return round(self._virtual.now_s * 1e9)

    def block(self, duration_s: float) -> None:
        """Let time pass as if a callback had computed for so long."""
        self._virtual.now_s += duration_s


def run_virtual(main: Callable[[VirtualLoop], Awaitable[T]]) -> T:
    """Return what `main` returns when run on a loop of its own."""

    async def call() -> T:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        return await main(loop)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(call())
