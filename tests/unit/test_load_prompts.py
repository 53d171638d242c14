"""Prompts of exactly N tokens, each its own."""

from __future__ import annotations

import numpy as np
import pytest

from loadgen.errors import LoadError
from loadgen.prompts import token_ids

VOCABULARY = 32_000


@pytest.mark.parametrize("n_tokens", [1, 2, 17, 4096])
def test_a_prompt_has_exactly_as_many_tokens_as_asked(n_tokens: int) -> None:
    """The length is exact and the ids are plain integers, ready for JSON."""
    ids = token_ids(1, 2, n_tokens, VOCABULARY)
    assert len(ids) == n_tokens
    assert all(type(one) is int for one in ids)


def test_prompts_are_distinct_from_their_first_block_on() -> None:
    """No two of ten thousand prompts share their first 16 tokens, so no prefix cache finds a block twice."""
    firsts = {tuple(token_ids(0, index, 64, VOCABULARY)[:16]) for index in range(10_000)}
    assert len(firsts) == 10_000


def test_a_prompt_depends_on_seed_and_index_only() -> None:
    """The same pair gives the same prompt; another seed, another index or the two exchanged give another."""
    assert token_ids(3, 5, 32, VOCABULARY) == token_ids(3, 5, 32, VOCABULARY)
    others = [token_ids(seed, index, 32, VOCABULARY) for seed, index in [(4, 5), (3, 6), (5, 3)]]
    assert token_ids(3, 5, 32, VOCABULARY) not in others


def test_ids_are_uniform_over_the_ordinary_part_of_the_vocabulary() -> None:
    """Ids reach both ends of the ordinary part evenly and never the reserved ends."""
    ids = np.array(token_ids(0, 0, 200_000, VOCABULARY))
    assert 256 <= ids.min() < 256 + 5
    assert VOCABULARY - 512 - 5 <= ids.max() < VOCABULARY - 512
    counts, _ = np.histogram(ids, bins=100, range=(256, VOCABULARY - 512))
    assert ((counts - 2000) ** 2 / 2000).sum() < 99 + 5 * np.sqrt(2 * 99)


@pytest.mark.parametrize("vocab_size", [1, 2, 3, 10, 300, 1000])
def test_a_small_vocabulary_still_gives_valid_ids(vocab_size: int) -> None:
    """Where the reserved ends do not fit, ids still lie inside the vocabulary."""
    ids = token_ids(0, 0, 1000, vocab_size)
    assert 0 <= min(ids) <= max(ids) < vocab_size


def test_no_vocabulary_is_refused() -> None:
    """A vocabulary of none cannot make a prompt, and the error says so."""
    with pytest.raises(LoadError, match="0 tokens"):
        token_ids(0, 0, 4, 0)
