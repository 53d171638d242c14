"""What can be wrong with a load before it is sent."""

from __future__ import annotations


class LoadError(Exception):
    """A load that cannot be planned or sent. `hint` says what to do now; `exit_code` is the command line's."""

    def __init__(self, message: str, *, hint: str = "", exit_code: int = 2) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code
