"""What a run shows while it works: a line a phase, and one live line that is rewritten.

Plain writes, no layout: a terminal library would take milliseconds on the event loop that stamps arriving bytes.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

_PLAIN_PERIOD_S = 5.0


class Progress:
    """Writes phases and live figures to a stream; on a terminal the live line is rewritten in place."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._live = self._stream.isatty()
        self._start_s = time.monotonic()
        self._last_plain_s = 0.0
        self._open = False

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self._quiet = True

    def line(self, text: str) -> None:
        """Write a line that stays."""
        if self._quiet:
            return
        self._write(("\r\x1b[K" if self._open else "") + text + "\n")
        self._open = False

    def phase(self, name: str, detail: str) -> None:
        """Announce a phase."""
        self.line(f"{time.monotonic() - self._start_s:6.1f} s  {name:<8} {detail}")

    def live(self, figures: Sequence[str]) -> None:
        """Show how things stand: in place on a terminal, every few seconds elsewhere."""
        if self._quiet or not figures:
            return
        now_s = time.monotonic()
        text = f"{now_s - self._start_s:6.1f} s           {' · '.join(figures)}"
        if self._live:
            self._write("\r\x1b[K" + text[:150])
            self._open = True
        elif now_s - self._last_plain_s >= _PLAIN_PERIOD_S:
            self._last_plain_s = now_s
            self._write(text + "\n")
