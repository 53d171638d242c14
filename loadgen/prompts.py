"""Prompts of an exact number of tokens, all distinct, reproducible from (seed, index)."""

from __future__ import annotations

import numpy as np

# Byte tokens and control tokens live at the bottom of most vocabularies, added special tokens at the top.
_BOTTOM, _TOP = 256, 512


def token_ids(seed: int, index: int, count: int, vocab_size: int) -> list[int]:
    """Return the `index`-th prompt: `count` ids, uniform over the vocabulary's ordinary part.

    Distinct from index to index, so that no prefix cache can serve it.
    """
    low, high = (_BOTTOM, vocab_size - _TOP) if vocab_size > 2 * (_BOTTOM + _TOP) else (vocab_size // 4, vocab_size)
    # A counter-based generator: prompt 9,999 costs no more than prompt 0, and no order of making them matters.
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))
    ids: list[int] = rng.integers(low, high, count).tolist()
    return ids
