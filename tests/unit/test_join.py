"""Request rows on the run's clock, and the tokens of the window."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from profiler import join
from profiler.join import Timeline
from profiler.tables import EVENTS, REQUESTS

S = 1_000_000_000
TIMELINE = Timeline(origin_ns=100 * S, window_ns=(110 * S, 120 * S))


def _request(name: str, at_s: float, *, status: str = "ok", tokens: int | None = 5) -> dict[str, object]:
    start = int((100 + at_s) * S)
    answered = status == "ok"
    return {
        "request_id": name,
        "scheduled_ns": start,
        "sent_ns": start + S // 10,
        "first_token_ns": start + S // 2 if answered else None,
        "last_token_ns": start + 5 * S // 2 if answered else None,
        "end_ns": start + 3 * S,
        "asked_prompt_tokens": 7,
        "asked_output_tokens": 5,
        "prompt_tokens": 7 if answered else None,
        "output_tokens": tokens if answered else None,
        "token_source": "usage" if answered else None,
        "status": status,
        "error": None if answered else "HTTP 500",
    }


def _frame(*rows: dict[str, object]):  # noqa: ANN202 - a frame
    return join.request_frame(pa.Table.from_pylist(list(rows), schema=REQUESTS), TIMELINE)


def _events(*rows: tuple[str, float, int]) -> pa.Table:
    found = [{"request_id": name, "t_ns": int((100 + at_s) * S), "tokens": tokens} for name, at_s, tokens in rows]
    return pa.Table.from_pylist(found, schema=EVENTS)


def test_rows_have_seconds_since_second_0_and_the_latencies() -> None:
    """Stamps become seconds; TTFT counts from sending and from schedule; TPOT = (E2E - TTFT) / (n - 1)."""
    row = _frame(_request("a", 12.0)).iloc[0]
    assert row["scheduled_s"] == pytest.approx(12.0)
    assert row["ttft_s"] == pytest.approx(0.4)
    assert row["ttft_scheduled_s"] == pytest.approx(0.5)
    assert row["e2e_s"] == pytest.approx(2.4)
    assert row["tpot_s"] == pytest.approx((row["e2e_s"] - row["ttft_s"]) / 4)


def test_the_cohort_is_what_was_scheduled_in_the_window() -> None:
    """The window's start belongs to it, its end does not; when an answer ended does not matter."""
    frame = _frame(_request("a", 9.99), _request("b", 10.0), _request("c", 19.99), _request("d", 20.0))
    assert frame.set_index("request_id")["in_window"].to_dict() == {"a": False, "b": True, "c": True, "d": False}


def test_a_failure_has_nulls_not_zeros() -> None:
    """A request without an answer has no first token, no latency and no count."""
    row = _frame(_request("a", 12.0, status="error")).iloc[0]
    assert row[["first_token_s", "ttft_s", "tpot_s", "e2e_s", "output_tokens"]].isna().all()


def test_output_tokens_count_when_they_arrive() -> None:
    """Tokens of an answer that began before the window count from the window's start on, whatever the cohort."""
    frame = _frame(_request("a", 8.0), _request("b", 12.0))
    events = _events(("a", 9.0, 2), ("a", 10.5, 3), ("b", 12.5, 1), ("b", 14.5, 4), ("b", 20.0, 1))
    tokens = join.window_tokens(frame, events, TIMELINE)
    assert tokens.output_tokens == 3 + 1 + 4
    assert tokens.prompt_tokens == 7


def test_answers_counted_only_in_sum_are_spread_evenly() -> None:
    """An answer of 5 tokens from 18.5 to 20.5 s whose events told no counts has 3.75 of them before second 20."""
    frame = _frame(_request("a", 18.0), _request("b", 12.0))
    events = _events(("b", 12.5, 5))
    assert join.uncounted(frame, events).tolist() == [False, True]
    assert join.window_tokens(frame, events, TIMELINE).output_tokens == 5 + 4


def test_gaps_of_an_event_of_many_tokens_are_shared() -> None:
    """An event of 4 tokens 0.4 s behind the last is four gaps of 0.1 s; gaps never cross from one answer to another."""
    frame = _frame(_request("a", 12.0), _request("b", 13.0))
    events = _events(("a", 12.5, 1), ("a", 12.9, 4), ("b", 13.5, 1), ("b", 13.7, 1))
    assert join.cohort_gaps(frame, events) == pytest.approx(np.array([0.1, 0.1, 0.1, 0.1, 0.2]))


def test_work_of_a_failed_request_is_its_prompt_until_it_ended() -> None:
    """For the attribution a failure was worked on from sending to its end, with the prompt that was asked for."""
    work = join.activity(_frame(_request("a", 12.0, status="error")), TIMELINE)
    assert work.start_ns[0] == pytest.approx(112.1 * S)
    assert work.decode_start_ns[0] == work.end_ns[0] == pytest.approx(115 * S)
    assert work.prompt_tokens[0] == 7
