"""Requests in flight: from a call to sequences in the engine, and from its steps to tokens at their callers.

A step's events are formed while the step is "running" and only handed to the sockets at its end.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from servers.sim.dialect import ApiError, Call, Header, Output, TokenEvents
from servers.sim.faults import EngineFaults, die
from servers.sim.metrics import EngineMetrics, RequestTimes
from servers.sim.truth import TrueRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers.sim.engine import Engine, StepResult
    from servers.sim.recorder import Recorder
    from servers.sim.scheduler import Slice
    from servers.sim.tokens import Tokenizer

# A model that is not told to ignore its end-of-sequence token ends by itself after this many tokens on average.
_MEAN_NATURAL_TOKENS = 256


@dataclass(slots=True, eq=False)
class Stream:
    """One sequence on its way to its caller: its tokens, known in advance, and how many have left."""

    sequence: int
    prompt_tokens: int
    tokens: list[int]
    finish_reason: str
    arrival_ns: int
    events: TokenEvents | None
    transport: asyncio.WriteTransport | None
    done: asyncio.Future[None]
    sent: int = 0
    scheduled_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0

    def output(self) -> Output:
        """Return what was generated."""
        return Output(self.tokens, self.finish_reason)


@dataclass(slots=True)
class _Draws:
    """The engine's own randomness: when a sequence ends, what it says, which request fails."""

    seed: int
    errors: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.errors = random.Random(f"errors {self.seed}")

    def tokens(self, call: Call, index: int, sequence: int, tokenizer: Tokenizer) -> tuple[list[int], str]:
        """Return a sequence's tokens and why it ends."""
        seed = (self.seed << 32) + sequence if call.seed is None else hash((call.seed, index)) & (2**63 - 1)
        limit = call.max_tokens[index]
        natural = 1 + int(random.Random(seed).expovariate(1 / _MEAN_NATURAL_TOKENS))
        natural = max(natural, call.min_tokens)
        if call.ignore_eos or natural > limit:
            return tokenizer.generate(limit, seed), "length"
        return [*tokenizer.generate(natural - 1, seed), tokenizer.eos], "stop"


class Service:
    """The requests of one engine."""

    def __init__(
        self, engine: Engine, recorder: Recorder, tokenizer: Tokenizer, faults: EngineFaults, seed: int
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.metrics = EngineMetrics()
        self._recorder = recorder
        self._faults = faults
        self._draws = _Draws(seed)
        self._streams: dict[int, Stream] = {}
        self._next = 0
        self._answered = 0

    @property
    def in_flight(self) -> int:
        """How many sequences are queued or running."""
        return len(self._streams)

    @property
    def is_stalled(self) -> bool:
        """Whether a fault has hung the engine."""
        after = self._faults.stall_after_requests
        return after is not None and self._answered >= after

    def refuse_if_faulty(self) -> None:
        """Fail a request that a fault has chosen.

        Raises:
            ApiError: the fault's answer.
        """
        if self._faults.unready:
            raise ApiError(500, "EngineCore encountered an issue. See stack trace (above) for the root cause.")
        if self._faults.error_share and self._draws.errors.random() < self._faults.error_share:
            raise ApiError(500, "Internal server error")

    def submit(self, call: Call, header: Header, transport: asyncio.WriteTransport | None, now_ns: int) -> list[Stream]:
        """Queue a call's sequences; with a transport their events go to it as they come."""
        return [self._submit(call, index, header, transport, now_ns) for index in range(len(call.prompts))]

    def _submit(
        self, call: Call, index: int, header: Header, transport: asyncio.WriteTransport | None, now_ns: int
    ) -> Stream:
        sequence, self._next = self._next, self._next + 1
        tokens, reason = self._draws.tokens(call, index, sequence, self.tokenizer)
        if self._faults.short_output and len(tokens) > 1:
            tokens.pop()
        stream = Stream(
            sequence=sequence,
            prompt_tokens=len(call.prompts[index]),
            tokens=tokens,
            finish_reason=reason,
            arrival_ns=now_ns,
            events=None if transport is None else TokenEvents(call, index, header, self.tokenizer),
            transport=transport,
            done=asyncio.get_running_loop().create_future(),
        )
        self.engine.scheduler.add(sequence, now_ns, stream.prompt_tokens, len(tokens))
        self._streams[sequence] = stream
        name = header.identity if len(call.prompts) == 1 else f"{header.identity}-{index}"
        self._recorder.accepted(TrueRequest(sequence, name, now_ns, stream.prompt_tokens, len(tokens)))
        return stream

    def abort(self, streams: list[Stream]) -> None:
        """Withdraw what is not finished; for callers that have gone."""
        for stream in streams:
            if self._streams.pop(stream.sequence, None) is not None:
                self.engine.scheduler.abort(stream.sequence)
                self.metrics.successes["abort"] += 1

    def prepare(self, step: StepResult) -> Callable[[], None]:
        """Form the events of a step that has begun; return what sends them."""
        self.metrics.step(step)
        for sequence in step.admitted:
            stream = self._streams.get(sequence)
            if stream is not None and stream.scheduled_ns == 0:
                stream.scheduled_ns = step.start_ns
        ready: list[tuple[Stream, bytes]] = []
        for part in step.slices:
            stream = self._streams.get(part.sequence) if part.produced else None
            if stream is not None:
                ready.append((stream, _next_event(stream, part)))
        return lambda: self._send(step, ready)

    def _send(self, step: StepResult, ready: list[tuple[Stream, bytes]]) -> None:
        if self._faults.exit_after_requests is not None and self._answered >= self._faults.exit_after_requests:
            die("RuntimeError: CUDA error: an illegal memory access was encountered (a fault that was asked for)")
        for stream, event in ready:
            if stream.sequence in self._streams:
                if stream.transport is not None and not stream.transport.is_closing():
                    stream.transport.write(event)
                self._count(stream, step.end_ns)
        if not self._streams:
            self.metrics.rest()

    def _count(self, stream: Stream, now_ns: int) -> None:
        metrics = self.metrics
        stream.sent += 1
        metrics.generation_tokens += 1
        if stream.sent == 1:
            stream.first_token_ns = now_ns
            metrics.prompt_tokens += stream.prompt_tokens
            metrics.ttft_s.observe((now_ns - stream.arrival_ns) * 1e-9)
        else:
            metrics.itl_s.observe((now_ns - stream.last_token_ns) * 1e-9)
        stream.last_token_ns = now_ns
        if stream.sent == len(stream.tokens):
            self._finish(stream)

    def _finish(self, stream: Stream) -> None:
        del self._streams[stream.sequence]
        self._answered += 1
        times = RequestTimes(stream.arrival_ns, stream.scheduled_ns, stream.first_token_ns, stream.last_token_ns)
        self.metrics.finished(times, stream.prompt_tokens, stream.sent, stream.finish_reason)
        if not stream.done.done():
            stream.done.set_result(None)


def _next_event(stream: Stream, part: Slice) -> bytes:
    if stream.events is None:
        return b""
    token = stream.tokens[stream.sent]
    return stream.events.event(token, stream.sent + 1, stream.finish_reason if part.finished else None)
