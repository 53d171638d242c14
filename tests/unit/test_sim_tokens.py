"""Text and token ids lead to each other."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers.models import load_models
from servers.sim.tokens import Tokenizer, json_text

SIZES = sorted({model.vocab_size for model in load_models().values()} | {1200})


@given(text=st.text(), size=st.sampled_from(SIZES))
def test_any_text_comes_back(text: str, size: int) -> None:
    """Encoding and decoding returns the text, and every id is in the vocabulary."""
    tokenizer = Tokenizer(size)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= token < size for token in ids)


@given(seed=st.integers(0, 2**62), count=st.integers(0, 50), size=st.sampled_from(SIZES))
def test_generated_ids_come_back_and_depend_on_the_seed_alone(seed: int, count: int, size: int) -> None:
    """Generated ids survive a way through text, so counting by text or by ids gives the same."""
    tokenizer = Tokenizer(size)
    ids = tokenizer.generate(count, seed)
    assert len(ids) == count
    assert tokenizer.encode(tokenizer.decode(ids)) == ids
    assert Tokenizer(size).generate(count, seed) == ids


@pytest.mark.parametrize("token", [0, 34, 92, 255, 300, 5000, 31999])
def test_every_token_has_a_json_text(token: int) -> None:
    """A token's prepared JSON is valid and says what decoding says, quotes and broken bytes included."""
    tokenizer = Tokenizer(32000)
    assert json.loads(json_text(tokenizer, token)) == tokenizer.decode([token])


def test_english_has_about_three_characters_a_token() -> None:
    """A text prompt costs tokens on the scale of a real tokenizer's, not one a byte."""
    text = "the energy of a request is the sum over the steps in which it took part " * 10
    assert 2.5 < len(text) / len(Tokenizer(32000).encode(text)) <= 3.0


def test_words_beyond_the_vocabulary_are_spelled() -> None:
    """The last word of a vocabulary is one token, and the first that it lacks is spelled in bytes."""
    tokenizer = Tokenizer(1200)
    last, beyond = Tokenizer(1201).decode([1199]), Tokenizer(1201).decode([1200])
    assert tokenizer.encode(last) == [1199]
    assert tokenizer.encode(beyond) == list(beyond.encode())


def test_a_vocabulary_without_words_is_refused() -> None:
    """A vocabulary too small to generate text from is an error, not silence."""
    with pytest.raises(ValueError, match="too small"):
        Tokenizer(500)
