"""The schedule of a load: what is sent when and how long, decided and hashed before anything is sent."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from loadgen.arrivals import offsets_ns
from loadgen.errors import LoadError
from loadgen.lengths import MAX_LENGTH_TOKENS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loadgen.lengths import Lengths

Arrival = Literal["poisson", "constant", "closed"]

# Two orders above what one client process can send; a rate beyond it is a slip, not a load.
MAX_RATE_RPS = 100_000.0
MAX_REQUESTS = 10_000_000
# More than a client process can send in the longest quick profile, so a closed loop does not run dry by default.
CLOSED_LOOP_REQUESTS = 1_000_000


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """A load as asked for. An open loop has a rate, a closed one a concurrency and at most `limit` requests."""

    arrival: Arrival
    rate_rps: float | None
    concurrency: int | None
    input: Lengths
    output: Lengths
    horizon_s: float
    seed: int
    limit: int = CLOSED_LOOP_REQUESTS


@dataclass(frozen=True, slots=True)
class Schedule:
    """A load as it will be sent; entry k of each array is request k.

    `offsets_ns` is int64, since the load's start, ascending; None in a closed loop. The lengths are int32, in tokens.
    `digest` is the SHA-256 of the specification and the arrays, in hex.
    """

    spec: LoadSpec
    offsets_ns: NDArray[np.int64] | None
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    digest: str


def make_schedule(spec: LoadSpec) -> Schedule:
    """Return the one schedule of `spec`.

    Arrivals, prompt lengths and output lengths have a random stream each: changing one leaves the others as they were.

    Raises:
        LoadError: the load makes no sense or holds no request.
    """
    check_spec(spec)
    arrival_seed, input_seed, output_seed = np.random.SeedSequence(spec.seed).spawn(3)
    offsets = _offsets(spec, arrival_seed)
    count = spec.limit if offsets is None else len(offsets)
    prompt_tokens = spec.input.sample(count, np.random.default_rng(input_seed))
    output_tokens = spec.output.sample(count, np.random.default_rng(output_seed))
    return Schedule(spec, offsets, prompt_tokens, output_tokens, _digest(spec, offsets, prompt_tokens, output_tokens))


def _offsets(spec: LoadSpec, seed: np.random.SeedSequence) -> NDArray[np.int64] | None:
    if spec.arrival == "closed":
        return None
    assert spec.rate_rps is not None, "checked"
    offsets = offsets_ns(spec.arrival, spec.rate_rps, spec.horizon_s, seed)
    if not len(offsets):
        raise LoadError(
            f"{spec.rate_rps:g} requests/s send nothing within {spec.horizon_s:g} s",
            hint="ask for a higher rate or a longer run",
        )
    return offsets


def check_spec(spec: LoadSpec) -> None:
    """Refuse a load that makes no sense.

    Raises:
        LoadError: names the value and its range.
    """
    if not (math.isfinite(spec.horizon_s) and spec.horizon_s > 0):
        raise LoadError(f"a load of {spec.horizon_s:g} s cannot be sent", hint="ask for a duration above 0 s")
    if not 0 <= spec.seed < 2**64:
        raise LoadError(f"seed {spec.seed} is out of range", hint="use a whole number from 0 to 2**64 - 1")
    for name, lengths in (("input", spec.input), ("output", spec.output)):
        if not 1 <= lengths.low_tokens <= lengths.high_tokens <= MAX_LENGTH_TOKENS:
            raise LoadError(
                f"{name} lengths {lengths.low_tokens}:{lengths.high_tokens} are out of range",
                hint=f"1 <= LOW <= HIGH <= {MAX_LENGTH_TOKENS} tokens",
            )
    if spec.arrival == "closed":
        _check_closed(spec)
    else:
        _check_open(spec)


def _check_closed(spec: LoadSpec) -> None:
    if spec.concurrency is None or spec.concurrency < 1:
        raise LoadError(
            f"a closed loop of {spec.concurrency} requests at once cannot be sent", hint="ask for a concurrency of 1 up"
        )
    if not 1 <= spec.limit <= MAX_REQUESTS:
        raise LoadError(f"a load of {spec.limit} requests cannot be sent", hint=f"ask for 1 to {MAX_REQUESTS}")
    if spec.rate_rps is not None:
        raise LoadError("a closed loop has no rate: its answers set the pace", hint="leave the rate out")


def _check_open(spec: LoadSpec) -> None:
    rate_rps = spec.rate_rps
    if rate_rps is None or not 0 < rate_rps <= MAX_RATE_RPS:
        raise LoadError(
            f"a rate of {rate_rps} requests/s cannot be sent", hint=f"ask for more than 0 and at most {MAX_RATE_RPS:g}"
        )
    if rate_rps * spec.horizon_s > MAX_REQUESTS:
        raise LoadError(
            f"{rate_rps:g} requests/s for {spec.horizon_s:g} s are more than {MAX_REQUESTS} requests",
            hint="ask for a lower rate or a shorter run",
        )
    if spec.concurrency is not None:
        raise LoadError("an open loop has no concurrency: its schedule sets the pace", hint="leave it out")


def _digest(spec: LoadSpec, *arrays: NDArray[np.int64] | NDArray[np.int32] | None) -> str:
    """Return the SHA-256 of everything that decides what is sent, the same on every machine."""
    sha = hashlib.sha256(json.dumps(asdict(spec), sort_keys=True).encode())
    for array in arrays:
        if array is not None:
            sha.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return sha.hexdigest()
