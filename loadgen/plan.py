"""Arrivals x lengths → one frozen, hashed schedule, made before the run and the same for whoever sends it."""

from __future__ import annotations

import hashlib
import math
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from loadgen.arrivals import offsets_ns
from loadgen.errors import LoadError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loadgen.lengths import Lengths

MAX_REQUESTS = 10_000_000


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """What to plan. Open loop: `arrival` and `rate_rps`; closed loop: `arrival` closed and `concurrency`.

    `horizon_s` is how long load may have to go on. A closed loop's plan holds `closed_limit` requests.
    """

    arrival: Literal["poisson", "constant", "closed"]
    rate_rps: float | None
    concurrency: int | None
    input: Lengths
    output: Lengths
    horizon_s: float
    seed: int
    closed_limit: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Schedule:
    """Requests in order: due offsets in ns, shape (n,), None in a closed loop; lengths in tokens, shape (n,)."""

    offsets_ns: NDArray[np.int64] | None
    concurrency: int | None
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    digest: str

    def __len__(self) -> int:
        return int(self.prompt_tokens.size)


def make_schedule(spec: LoadSpec) -> Schedule:
    """Return the schedule; equal for equal specifications.

    Arrivals, input and output draw from streams of their own: changing one leaves the others as they were.

    Raises:
        LoadError: a rate, a concurrency or a horizon that no plan can hold.
    """
    _check(spec)
    arrivals, inputs, outputs = (np.random.default_rng(s) for s in np.random.SeedSequence(spec.seed).spawn(3))
    offsets = None
    count = spec.closed_limit
    if spec.arrival != "closed":
        assert spec.rate_rps is not None
        offsets = offsets_ns(spec.arrival, spec.rate_rps, spec.horizon_s, arrivals)
        count = offsets.size
    prompt_tokens, output_tokens = spec.input.sample(count, inputs), spec.output.sample(count, outputs)
    digest = hashlib.sha256(repr(astuple(spec)).encode())
    for array in (offsets, prompt_tokens, output_tokens):
        if array is not None:
            digest.update(array.tobytes())
    return Schedule(offsets, spec.concurrency, prompt_tokens, output_tokens, digest.hexdigest())


def _check(spec: LoadSpec) -> None:
    if spec.arrival == "closed":
        if spec.concurrency is None or spec.concurrency < 1:
            raise LoadError(f"a closed loop of {spec.concurrency} requests", hint="ask for --concurrency 1 or more")
        return
    rate = spec.rate_rps
    if rate is None or not math.isfinite(rate) or rate <= 0:
        raise LoadError(f"a rate of {rate} requests/s cannot be sent", hint="ask for a --rate above 0")
    if rate * spec.horizon_s > MAX_REQUESTS:
        limit = MAX_REQUESTS / spec.horizon_s
        raise LoadError(
            f"a rate of {rate:g} requests/s plans {rate * spec.horizon_s:.2g} requests, over {MAX_REQUESTS:,}",
            hint=f"ask for a --rate below {limit:,.0f}",
        )
    if rate * spec.horizon_s < 1:
        raise LoadError(f"a rate of {rate:g} requests/s sends nothing in {spec.horizon_s:g} s", hint="raise --rate")
