"""What can be wrong with a load before it is sent. A request that fails is a row, not an error."""

from __future__ import annotations


class LoadError(Exception):
    """A load that cannot be planned or sent: the message says what and where, `hint` what to do now."""

    exit_code: int = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
