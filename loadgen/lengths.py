"""How long prompts and answers are: one number, or uniform between two."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loadgen.errors import LoadError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Above any model's context: what lies beyond is a slip of the keyboard.
MAX_LENGTH_TOKENS = 10_000_000

_PATTERN = re.compile(r"(\d+)(?::(\d+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Token counts drawn uniformly from `low_tokens` to `high_tokens`, both included; a fixed length has them equal."""

    low_tokens: int
    high_tokens: int

    @property
    def maximum(self) -> int:
        """The longest length that can be drawn, in tokens."""
        return self.high_tokens

    def sample(self, n: int, rng: np.random.Generator) -> NDArray[np.int32]:
        """Return `n` lengths in tokens."""
        return rng.integers(self.low_tokens, self.high_tokens, n, dtype=np.int32, endpoint=True)


def parse_lengths(text: str) -> Lengths:
    """Return the lengths that `text` names: "512", or "128:1024" for uniform with both ends included.

    Raises:
        LoadError: anything else.
    """
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise LoadError(f"length {text!r} is neither N nor LOW:HIGH", hint="write tokens as 512 or 128:1024")
    low, high = int(match[1]), int(match[2] or match[1])
    if not 1 <= low <= high <= MAX_LENGTH_TOKENS:
        raise LoadError(
            f"length {text!r} is out of range", hint=f"1 <= LOW <= HIGH <= {MAX_LENGTH_TOKENS} tokens, e.g. 128:1024"
        )
    return Lengths(low, high)
