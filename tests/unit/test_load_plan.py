"""Schedules: the same for the same specification, independent streams, nonsense refused."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from loadgen.errors import LoadError
from loadgen.lengths import Lengths, parse_lengths
from loadgen.plan import LoadSpec, make_schedule

if TYPE_CHECKING:
    from typing import Any

OPEN = LoadSpec("poisson", 20.0, None, Lengths(128, 1024), Lengths(1, 64), horizon_s=30.0, seed=11)
CLOSED = replace(OPEN, arrival="closed", rate_rps=None, concurrency=4, limit=100)
PRINT_DIGEST = """
from loadgen.lengths import Lengths
from loadgen.plan import LoadSpec, make_schedule
print(make_schedule(LoadSpec("poisson", 20.0, None, Lengths(128, 1024), Lengths(1, 64), 30.0, 11)).digest)
"""


@pytest.mark.parametrize("text", ["512", "128:1024", "1:1", " 7 "])
def test_lengths_stay_within_what_was_asked(text: str) -> None:
    """Drawn lengths are int32, reach both ends and never leave them."""
    lengths = parse_lengths(text)
    drawn = lengths.sample(20_000, np.random.default_rng(0))
    low, _, high = text.strip().partition(":")
    assert drawn.dtype == np.int32
    assert (drawn.min(), drawn.max()) == (int(low), int(high or low)) == (lengths.low_tokens, lengths.maximum)


@pytest.mark.parametrize(
    "text", ["", "0", "-5", "a", "5:", ":5", "10:5", "0:5", "1.5", "1:2:3", "1e3", "10000001", "٣", "5\n6"]
)
def test_lengths_that_make_no_sense_are_refused(text: str) -> None:
    """The error names the text, says in the hint what to write, and has the exit code of usage errors."""
    with pytest.raises(LoadError) as refused:
        parse_lengths(text)
    assert repr(text) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "128:1024" in refused.value.hint
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("spec", [OPEN, CLOSED])
def test_the_same_specification_gives_the_same_schedule(spec: LoadSpec) -> None:
    """Two schedules of one specification are equal in every entry and in their digest."""
    first, second = make_schedule(spec), make_schedule(spec)
    assert first.digest == second.digest
    assert np.array_equal(first.prompt_tokens, second.prompt_tokens)
    assert np.array_equal(first.output_tokens, second.output_tokens)
    assert (first.offsets_ns is None) == (spec.arrival == "closed")


def test_the_digest_is_the_same_in_another_process() -> None:
    """A fresh interpreter with another hash seed computes the same digest, so workers can agree on a plan."""
    answer = subprocess.run(
        [sys.executable, "-c", PRINT_DIGEST],
        env={**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        check=True,
        text=True,
    )
    assert answer.stdout.strip() == make_schedule(OPEN).digest


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 12},
        {"rate_rps": 21.0},
        {"arrival": "constant"},
        {"horizon_s": 31.0},
        {"input": Lengths(128, 1023)},
        {"output": Lengths(2, 64)},
    ],
)
def test_any_change_changes_the_digest(changed: dict[str, Any]) -> None:
    """Every field that decides what is sent is in the digest."""
    assert make_schedule(replace(OPEN, **changed)).digest != make_schedule(OPEN).digest


def test_streams_are_independent() -> None:
    """Changing the output lengths moves neither arrivals nor prompt lengths, and so on around."""
    base = make_schedule(OPEN)
    outputs = make_schedule(replace(OPEN, output=Lengths(5, 500)))
    inputs = make_schedule(replace(OPEN, input=Lengths(5, 500)))
    arrivals = make_schedule(replace(OPEN, arrival="constant"))
    assert np.array_equal(outputs.offsets_ns, base.offsets_ns)  # type: ignore[arg-type]
    assert np.array_equal(outputs.prompt_tokens, base.prompt_tokens)
    assert np.array_equal(inputs.output_tokens, base.output_tokens)
    common = min(len(arrivals.prompt_tokens), len(base.prompt_tokens))
    assert np.array_equal(arrivals.prompt_tokens[:common], base.prompt_tokens[:common])


def test_input_and_output_lengths_are_not_the_same_draws() -> None:
    """With equal ranges for both, prompt and output lengths are uncorrelated."""
    schedule = make_schedule(replace(CLOSED, input=Lengths(1, 1000), output=Lengths(1, 1000), limit=10_000))
    assert abs(np.corrcoef(schedule.prompt_tokens, schedule.output_tokens)[0, 1]) < 0.05


def test_a_closed_loop_holds_as_many_requests_as_its_limit() -> None:
    """A closed loop's schedule has lengths for `limit` requests and no instants."""
    schedule = make_schedule(CLOSED)
    assert schedule.offsets_ns is None
    assert len(schedule.prompt_tokens) == len(schedule.output_tokens) == 100


@pytest.mark.parametrize(
    ("spec", "changed"),
    [
        (OPEN, {"rate_rps": 0.0}),
        (OPEN, {"rate_rps": -1.0}),
        (OPEN, {"rate_rps": 1e9}),
        (OPEN, {"rate_rps": float("nan")}),
        (OPEN, {"rate_rps": float("inf")}),
        (OPEN, {"rate_rps": None}),
        (OPEN, {"rate_rps": 1e-6}),
        (OPEN, {"rate_rps": 50_000.0, "horizon_s": 3600.0}),
        (OPEN, {"concurrency": 3}),
        (OPEN, {"horizon_s": 0.0}),
        (OPEN, {"horizon_s": float("inf")}),
        (OPEN, {"seed": -1}),
        (OPEN, {"seed": 2**64}),
        (OPEN, {"input": Lengths(0, 5)}),
        (OPEN, {"output": Lengths(9, 5)}),
        (OPEN, {"output": Lengths(5, 2**31)}),
        (CLOSED, {"concurrency": None}),
        (CLOSED, {"concurrency": 0}),
        (CLOSED, {"rate_rps": 3.0}),
        (CLOSED, {"limit": 0}),
        (CLOSED, {"limit": 10**9}),
    ],
)
def test_nonsense_is_refused_in_one_line_with_a_hint(spec: LoadSpec, changed: dict[str, Any]) -> None:
    """A load that cannot be sent is refused before any array of its size is made."""
    with pytest.raises(LoadError) as refused:
        make_schedule(replace(spec, **changed))
    assert str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.hint
