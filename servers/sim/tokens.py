"""Token ids to text and back, for every vocabulary size, with no vocabulary file.

The first 256 ids are bytes; then come all pairs, then all triples, of the letters a to z and the space, as far as the
vocabulary reaches; an id beyond them is written `<id>`. Generated text uses triples only, so it encodes back to the ids
it was made of, and a prompt has about one token for three characters.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

_ALPHABET = " abcdefghijklmnopqrstuvwxyz"
_BYTES = 256
_PAIRS = tuple("".join(letters) for letters in product(_ALPHABET, repeat=2))
_TRIPLES = tuple("".join(letters) for letters in product(_ALPHABET, repeat=3))
_WORDS = _PAIRS + _TRIPLES
_IDS = {word: _BYTES + index for index, word in enumerate(_WORDS)}
_FIRST_TRIPLE = _BYTES + len(_PAIRS)
_PIECES = re.compile(r"<(\d{1,9})>|([ a-z]{1,3})|(.)", re.DOTALL)


class Tokenizer:
    """Encodes and decodes for one vocabulary size."""

    def __init__(self, vocab_size: int) -> None:
        if vocab_size <= _FIRST_TRIPLE:
            raise ValueError(f"a vocabulary of {vocab_size} is too small for the simulated tokenizer")
        self.vocab_size = vocab_size
        self._last_word = min(vocab_size, _BYTES + len(_WORDS))
        # By convention, since no text needs it: the last id ends a sequence.
        self.eos = vocab_size - 1

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ids: list[int] = []
        for number, word, other in _PIECES.findall(text):
            if number and self._last_word <= int(number) < self.vocab_size:
                ids.append(int(number))
            elif len(word) > 1 and _IDS[word] < self._last_word:
                ids.append(_IDS[word])
            else:
                ids.extend((word or other or f"<{number}>").encode())
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some ids; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self._bytes(token) for token in ids).decode("utf-8", "replace")

    def _bytes(self, token: int) -> bytes:
        if token < _BYTES:
            return bytes((token,))
        return (_WORDS[token - _BYTES] if token < self._last_word else f"<{token}>").encode()

    def generate(self, count: int, seed: int) -> list[int]:
        """Return `count` ids whose text encodes back to them, the same for the same seed."""
        draw = np.random.Generator(np.random.Philox(seed))
        ids: list[int] = draw.integers(_FIRST_TRIPLE, self._last_word, count).tolist()
        return ids


@lru_cache(maxsize=1 << 15)
def json_text(tokenizer: Tokenizer, token: int) -> str:
    """Return one token's text as a JSON string, quotes included."""
    return json.dumps(tokenizer.decode([token]))
