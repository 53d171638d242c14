"""Which tokens of which requests go into the next step: continuous batching with chunked prefill, as vLLM v1 does it.

A request is a number of known tokens (prompt and output so far), of which some have been computed. Every step computes
more of them, within a budget; when all are computed one more is sampled. Prefill, its chunks, decode and the
recomputing of a preempted request are all this one rule. No clock and no power here.

    waiting --admit (blocks, budget, slots)--> running --last token--> gone
       ^                                         |
       +------ preempt the youngest (no blocks) -+
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from servers.sim.hardware import BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """What bounds a step and the cache. Blocks hold 16 tokens; an encoder's tokens are whole or not at all."""

    max_num_seqs: int
    max_num_batched_tokens: int
    kv_blocks: int
    encoder_decoder: bool = False


@dataclass(slots=True, eq=False)
class Request:
    """A request in the scheduler. `prompt_tokens` go to the encoder where there is one; `output_tokens` end it."""

    sequence: int
    arrival_ns: int
    prompt_tokens: int
    output_tokens: int
    encoder_tokens: int = 0
    computed: int = 0
    produced: int = 0
    blocks: int = 0
    preemptions: int = 0

    @property
    def known(self) -> int:
        """Decoder tokens known so far."""
        return self.prompt_tokens + self.produced


@dataclass(frozen=True, slots=True)
class Slice:
    """One request's part of a step.

    `prefill` and `decode` are decoder tokens computed for it: decode is the one token of a request whose earlier ones
    are all cached. `cached` decoder tokens were there before. `produced` says that a token was sampled.
    """

    sequence: int
    prefill: int
    decode: int
    encoder: int
    cached: int
    cross: int
    produced: bool
    finished: bool


@dataclass(frozen=True, slots=True)
class Schedule:
    """A step's content, the requests it pushed back and those it admitted."""

    slices: tuple[Slice, ...]
    preempted: tuple[int, ...]
    admitted: tuple[int, ...]


class Scheduler:
    """Queues and block accounting; blocks are counted, not addressed."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self.limits = limits
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.free_blocks = limits.kv_blocks

    @property
    def used_share(self) -> float:
        """Share of the KV blocks in use, 0 to 1."""
        return 1.0 - self.free_blocks / self.limits.kv_blocks

    def add(self, sequence: int, arrival_ns: int, prompt_tokens: int, output_tokens: int) -> None:
        """Queue a request. With an encoder the prompt is its input, and the decoder starts from one token.

        Raises:
            ValueError: it could never run: empty, or larger than the whole cache.
        """
        encoder = prompt_tokens if self.limits.encoder_decoder else 0
        prompt = 1 if self.limits.encoder_decoder else prompt_tokens
        request = Request(sequence, arrival_ns, prompt, output_tokens, encoder_tokens=encoder)
        if prompt_tokens < 1 or output_tokens < 1:
            raise ValueError(f"a request needs tokens: prompt {prompt_tokens}, output {output_tokens}")
        if self._blocks_for(request, prompt + output_tokens) > self.limits.kv_blocks:
            raise ValueError(f"{prompt_tokens} + {output_tokens} tokens exceed the {self.limits.kv_blocks} KV blocks")
        self.waiting.append(request)

    def abort(self, sequence: int) -> bool:
        """Forget a request and free its blocks; False when it is not here."""
        for queue in (self.running, self.waiting):
            for request in queue:
                if request.sequence == sequence:
                    queue.remove(request)
                    self._release(request)
                    return True
        return False

    def next_arrival_ns(self) -> int | None:
        """Return when the head of the queue arrives, None with an empty queue."""
        return self.waiting[0].arrival_ns if self.waiting else None

    def schedule(self, now_ns: int) -> Schedule:
        """Choose the step that starts now and advance every request in it; empty when nothing can run."""
        chosen: list[tuple[Request, int]] = []
        budget = self.limits.max_num_batched_tokens
        preempted: list[Request] = []
        for request in list(self.running):
            if budget == 0:
                break
            # A request pushed back by one before it in this loop is no longer running. Only the youngest ever is.
            if request in preempted or not self._make_room(request, budget, preempted):
                break
            tokens = min(request.known - request.computed, budget)
            chosen.append((request, tokens))
            budget -= tokens
        admitted = [] if preempted else self._admit(now_ns, budget, chosen)
        return Schedule(
            slices=tuple([self._advance(request, tokens) for request, tokens in chosen]),
            preempted=tuple(request.sequence for request in preempted),
            admitted=tuple(request.sequence for request in admitted),
        )

    def _make_room(self, request: Request, budget: int, preempted: list[Request]) -> bool:
        """Allocate for the request's next tokens, pushing back the youngest until they fit; False if that is itself."""
        target = request.computed + min(request.known - request.computed, budget)
        while not self._allocate(request, target):
            youngest = self.running.pop()
            self._release(youngest)
            youngest.computed = 0
            youngest.preemptions += 1
            self.waiting.appendleft(youngest)
            preempted.append(youngest)
            if youngest is request:
                return False
        return True

    def _admit(self, now_ns: int, budget: int, chosen: list[tuple[Request, int]]) -> list[Request]:
        admitted: list[Request] = []
        while self.waiting and len(self.running) < self.limits.max_num_seqs:
            request = self.waiting[0]
            whole = request.encoder_tokens
            # An encoder input beyond the budget of a whole step runs in a step of its own.
            room = budget - whole if whole < self.limits.max_num_batched_tokens or chosen else 1
            tokens = min(request.known, room)
            if request.arrival_ns > now_ns or tokens < 1 or not self._allocate(request, tokens):
                break
            self.waiting.popleft()
            self.running.append(request)
            chosen.append((request, tokens))
            admitted.append(request)
            budget = max(0, room - tokens)
        return admitted

    def _advance(self, request: Request, tokens: int) -> Slice:
        cached = request.computed
        decodes = request.produced > 0 and tokens == 1 and cached == request.known - 1
        encoder = request.encoder_tokens if cached == 0 else 0
        request.computed += tokens
        produced = request.computed == request.known
        request.produced += produced
        finished = request.produced == request.output_tokens
        if finished:
            self.running.remove(request)
            self._release(request)
        return Slice(
            sequence=request.sequence,
            prefill=0 if decodes else tokens,
            decode=1 if decodes else 0,
            encoder=encoder,
            cached=cached,
            cross=request.encoder_tokens,
            produced=produced,
            finished=finished,
        )

    def _blocks_for(self, request: Request, decoder_tokens: int) -> int:
        return -(-decoder_tokens // BLOCK_TOKENS) + -(-request.encoder_tokens // BLOCK_TOKENS)

    def _allocate(self, request: Request, decoder_tokens: int) -> bool:
        more = self._blocks_for(request, decoder_tokens) - request.blocks
        if more > self.free_blocks:
            return False
        if more > 0:
            self.free_blocks -= more
            request.blocks += more
        return True

    def _release(self, request: Request) -> None:
        self.free_blocks += request.blocks
        request.blocks = 0
