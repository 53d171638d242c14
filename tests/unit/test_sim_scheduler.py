"""Continuous batching: what every schedule must keep, whatever arrives."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers.sim.scheduler import Schedule, Scheduler, SchedulerLimits

if TYPE_CHECKING:
    from collections.abc import Sequence

Asked = tuple[int, int]  # prompt and output tokens


@dataclass
class Run:
    """What a scheduler did until it was empty."""

    steps: list[Schedule] = field(default_factory=list)
    produced: Counter[int] = field(default_factory=Counter)
    finished: list[int] = field(default_factory=list)

    @property
    def preempted(self) -> list[int]:
        """Every preemption, in order."""
        return [sequence for step in self.steps for sequence in step.preempted]


def run(scheduler: Scheduler, asked: Sequence[Asked]) -> Run:
    """Queue all at time 0 and step until nothing is left, checking the limits at every step."""
    for sequence, (prompt, output) in enumerate(asked):
        scheduler.add(sequence, 0, prompt, output)
    result, limits = Run(), scheduler.limits
    while scheduler.running or scheduler.waiting:
        step = scheduler.schedule(0)
        assert step.slices, "queued requests but nothing scheduled"
        assert len(step.slices) <= limits.max_num_seqs
        assert sum(part.prefill + part.decode for part in step.slices) <= limits.max_num_batched_tokens
        assert 0 <= scheduler.free_blocks <= limits.kv_blocks
        held = sum(request.blocks for request in scheduler.running)
        assert held + scheduler.free_blocks == limits.kv_blocks
        result.steps.append(step)
        result.produced.update(part.sequence for part in step.slices if part.produced)
        result.finished += [part.sequence for part in step.slices if part.finished]
    assert scheduler.free_blocks == limits.kv_blocks
    return result


@given(
    asked=st.lists(st.tuples(st.integers(1, 200), st.integers(1, 60)), min_size=1, max_size=20),
    seqs=st.integers(1, 8),
    budget=st.integers(1, 300),
    blocks=st.integers(17, 60),
    encoder=st.booleans(),
)
def test_every_request_gets_its_tokens_and_no_block_leaks(
    *, asked: list[Asked], seqs: int, budget: int, blocks: int, encoder: bool
) -> None:
    """Whatever arrives, each request gets exactly its tokens, every limit holds and every block returns."""
    scheduler = Scheduler(SchedulerLimits(seqs, budget, blocks, encoder_decoder=encoder))
    result = run(scheduler, asked)
    assert result.produced == Counter({sequence: output for sequence, (_, output) in enumerate(asked)})
    assert sorted(result.finished) == list(range(len(asked)))


def test_a_long_prompt_is_computed_in_chunks_beside_decodes() -> None:
    """A prompt beyond the budget takes several steps, in each of which a running request still gets its token."""
    scheduler = Scheduler(SchedulerLimits(8, 100, 100))
    steps = run(scheduler, [(10, 9), (250, 1)]).steps
    chunks = [sum(part.prefill for part in step.slices if part.sequence == 1) for step in steps[:4]]
    assert chunks == [90, 99, 61, 0]
    assert [part.decode for step in steps[1:3] for part in step.slices if part.sequence == 0] == [1, 1]


def test_a_small_cache_preempts_the_youngest_who_computes_all_again() -> None:
    """When blocks run out the youngest goes back, and its known tokens are computed anew before it goes on."""
    scheduler = Scheduler(SchedulerLimits(8, 1000, 10))
    result = run(scheduler, [(60, 60), (60, 60)])
    assert result.preempted == [1]
    again = [step for step in result.steps if 1 in step.admitted][1]
    part = next(part for part in again.slices if part.sequence == 1)
    assert (part.cached, part.prefill > 60) == (0, True)
    assert result.finished == [0, 1]


def test_a_preempted_request_comes_back_before_those_that_waited() -> None:
    """A preempted request is at the head of the queue, ahead of requests that never ran."""
    scheduler = Scheduler(SchedulerLimits(2, 1000, 10))
    result = run(scheduler, [(60, 60), (60, 60), (16, 1)])
    admitted = [sequence for step in result.steps for sequence in step.admitted]
    assert admitted == [0, 1, 1, 2]


def test_an_encoder_input_is_never_split() -> None:
    """Encoder inputs run whole and once; one beyond the budget waits for a step of its own."""
    scheduler = Scheduler(SchedulerLimits(8, 100, 100, encoder_decoder=True))
    steps = run(scheduler, [(60, 3), (60, 3), (150, 2)]).steps
    encoded = [[(part.sequence, part.encoder) for part in step.slices if part.encoder] for step in steps]
    assert [entry for entry in encoded if entry] == [[(0, 60)], [(1, 60)], [(2, 150)]]
    assert all(part.cross in (60, 150) for step in steps for part in step.slices)


def test_nobody_is_admitted_before_arriving() -> None:
    """A request is not scheduled in a step that starts before its arrival."""
    scheduler = Scheduler(SchedulerLimits(8, 100, 100))
    scheduler.add(0, 500, 10, 1)
    assert scheduler.schedule(499).slices == ()
    assert scheduler.schedule(500).admitted == (0,)


@pytest.mark.parametrize("running", [True, False])
def test_an_aborted_request_gives_its_blocks_back(*, running: bool) -> None:
    """Aborting a running or a waiting request frees what it held; aborting it again does nothing."""
    scheduler = Scheduler(SchedulerLimits(1, 100, 100))
    scheduler.add(0, 0, 50, 10)
    scheduler.add(1, 0, 50, 10)
    scheduler.schedule(0)
    target = 0 if running else 1
    assert scheduler.abort(target)
    assert not scheduler.abort(target)
    scheduler.schedule(0)
    assert [request.sequence for request in scheduler.running] == [1 - target]
    assert scheduler.free_blocks == 100 - scheduler.running[0].blocks


@pytest.mark.parametrize(("prompt", "output"), [(0, 1), (1, 0), (1600, 1)])
def test_a_request_that_could_never_run_is_refused(prompt: int, output: int) -> None:
    """Empty requests, and those larger than the whole cache, are refused when they are added."""
    with pytest.raises(ValueError, match=r"tokens"):
        Scheduler(SchedulerLimits(8, 100, 100)).add(0, 0, prompt, output)
