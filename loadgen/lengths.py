"""How long prompts and answers are, in tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loadgen.errors import LoadError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FORM = re.compile(r"(\d+)(?::(\d+))?")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Uniform over low..high tokens, both ends included; fixed when they are equal."""

    low: int
    high: int

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[np.int32]:
        """Return `count` lengths."""
        return rng.integers(self.low, self.high, count, dtype=np.int32, endpoint=True)


def parse_lengths(text: str) -> Lengths:
    """Return what `N` or `LOW:HIGH` states.

    Raises:
        LoadError: it is neither, or a length is 0, or low exceeds high.
    """
    match = _FORM.fullmatch(text.strip())
    low = int(match[1]) if match else 0
    high = int(match[2] or match[1]) if match else 0
    if not 1 <= low <= high:
        raise LoadError(f"cannot read the length {text!r}", hint="write tokens as 512, or as a range 128:1024")
    return Lengths(low, high)
