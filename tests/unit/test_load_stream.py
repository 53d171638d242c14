"""Tokens of a streamed completion: counted from what the engine tells, never from events or text."""

from __future__ import annotations

import json

import pytest

from loadgen.clients.completion_stream import error_message, read_answer
from tests.support.byte_server import DONE, event, tokens, usage


def test_token_ids_count_before_anything_else() -> None:
    """Several tokens in one event, none in another and empty text are counted by their ids."""
    parts = [tokens(1), tokens(3, text=""), tokens(0, text=""), tokens(2, reason="length"), usage(3, 6), DONE]
    answer = read_answer(b"".join(parts), ended=True)
    assert answer.error is None
    assert answer.event_tokens.tolist() == [1, 3, 2]
    lengths = [sum(map(len, parts[: k + 1])) for k in (0, 1, 3)]
    assert answer.event_ends.tolist() == lengths
    assert (answer.prompt_tokens, answer.output_tokens, answer.token_source) == (3, 6, "usage")
    assert answer.text == "xx"


def test_continuous_usage_counts_where_there_are_no_ids() -> None:
    """The growth of the usage record is what an event held; the closing record adds none."""
    parts = [tokens(None, so_far=2), tokens(None, so_far=2), tokens(None, so_far=5, reason="stop"), usage(3, 5), DONE]
    answer = read_answer(b"".join(parts), ended=True)
    assert answer.event_tokens.tolist() == [2, 3]
    assert (answer.output_tokens, answer.token_source) == (5, "usage")


def test_ids_without_usage_count_the_answer() -> None:
    """Without any usage record the output is the sum of ids, and the source says so; the prompt is unknown."""
    answer = read_answer(tokens(1) + tokens(4, reason="length") + DONE, ended=True)
    assert (answer.prompt_tokens, answer.output_tokens, answer.token_source) == (None, 5, "token_ids")


@pytest.mark.parametrize(
    "middle",
    [
        tokens(None) + tokens(None, text="") + tokens(None, reason="stop"),
        tokens(None, so_far=4) + tokens(None, so_far=2) + tokens(None, so_far=6, text="", reason="stop"),
    ],
    ids=["usage only at the end", "usage that shrinks"],
)
def test_counts_per_event_are_unknown_where_the_engine_does_not_tell(middle: bytes) -> None:
    """Only events with text are known to hold a token; how many is left open, the total is the usage record's."""
    answer = read_answer(middle + usage(3, 9) + DONE, ended=True)
    assert answer.error is None
    assert len(answer.event_ends) == 2
    assert answer.event_tokens.tolist() == []
    assert (answer.output_tokens, answer.token_source) == (9, "usage")


def test_an_answer_that_tells_nothing_has_no_count() -> None:
    """Neither ids nor usage: the count is missing, not zero."""
    answer = read_answer(tokens(None) + tokens(None, reason="stop") + DONE, ended=True)
    assert (answer.error, answer.output_tokens, answer.token_source) == (None, None, None)


@pytest.mark.parametrize(
    ("tail", "error"),
    [
        (event({"error": {"message": "out of memory", "code": 500}}), "out of memory"),
        (event({"error": "overloaded", "error_type": "overloaded"}), "overloaded"),
        (event({"object": "error", "message": "bad luck"}), "bad luck"),
        (b"data: {oops\n\n", "malformed event: {oops"),
        (b"data: [1]\n\n", "malformed event: [1]"),
        (b"data: \xff\n\n", "malformed event: \ufffd"),
        (tokens(0, text="", reason="abort"), "the engine dropped the request: finish_reason abort"),
        (b"", "the stream ended before the answer did, after 1 events"),
    ],
)
def test_what_goes_wrong_in_a_stream_is_said_and_what_came_before_is_kept(tail: bytes, error: str) -> None:
    """An error inside a 200 stream, an unreadable event or a missing end fails the answer but keeps its tokens."""
    answer = read_answer(tokens(2, so_far=2) + tail, ended=True)
    assert answer.error == error
    assert answer.event_tokens.tolist() == [2]
    assert answer.output_tokens == 2


def test_a_body_cut_off_keeps_its_whole_events_and_blames_nobody() -> None:
    """The half event at the end is neither counted nor called malformed: the caller knows what happened."""
    body = tokens(1, so_far=1) + tokens(1, so_far=2)
    answer = read_answer(body[:-5], ended=False)
    assert answer.error is None
    assert answer.event_tokens.tolist() == [1]


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"choices": None},
        {"choices": [None]},
        {"choices": [{"text": None, "token_ids": "no", "finish_reason": 3}]},
        {"choices": [], "usage": {"completion_tokens": "7", "prompt_tokens": -1}},
        {"choices": [], "usage": {"completion_tokens": True, "prompt_tokens": 2**40}},
        {"usage": 5},
    ],
)
def test_odd_fields_are_unknown_not_fatal(odd: object) -> None:
    """Fields of another type than the protocol's are as good as absent."""
    answer = read_answer(event(odd) + tokens(2, reason="length") + DONE, ended=True)
    assert (answer.error, answer.output_tokens, answer.token_source) == (None, 2, "token_ids")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (json.dumps({"error": {"message": "too\nlong", "type": "BadRequestError"}}).encode(), "too long"),
        (json.dumps({"error": "overloaded"}).encode(), "overloaded"),
        (json.dumps({"message": "no"}).encode(), "no"),
        (json.dumps({"detail": "Not Found"}).encode(), "Not Found"),
        (json.dumps({"detail": [{"loc": 1}]}).encode(), '{"detail": [{"loc": 1}]}'),
        (b"Internal Server Error\n", "Internal Server Error"),
        (b"", ""),
        (b"<html>" + b"x" * 1000, "<html>" + "x" * 194 + "…"),
    ],
)
def test_error_bodies_become_one_line(body: bytes, message: str) -> None:
    """vLLM's, TGI's, FastAPI's and a proxy's error bodies give their message, in one line of bounded length."""
    assert error_message(body) == message
