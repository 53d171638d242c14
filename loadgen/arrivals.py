"""When requests arrive in an open loop: one seeded sequence of offsets, made before the run.

The sequence does not know the system under load: nothing here waits, re-anchors or skips. A longer horizon extends a
sequence without moving what it already held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

OpenArrival = Literal["poisson", "constant"]

_NS_PER_S = 1e9


def offsets_ns(
    arrival: OpenArrival, rate_rps: float, horizon_s: float, seed: int | np.random.SeedSequence
) -> NDArray[np.int64]:
    """Return the arrivals in [0, horizon), ascending, in nanoseconds since the load's start.

    "constant": the k-th at k / rate, rounded to the nanosecond and never accumulated; `seed` is unused.
    "poisson": independent exponential gaps of mean 1 / rate, the first one before the first arrival.
    """
    if arrival == "constant":
        return _constant(rate_rps, horizon_s)
    return _poisson(rate_rps, horizon_s, np.random.default_rng(seed))


def _constant(rate_rps: float, horizon_s: float) -> NDArray[np.int64]:
    count = int(np.ceil(rate_rps * horizon_s))
    offsets: NDArray[np.int64] = np.rint(np.arange(count) * (_NS_PER_S / rate_rps)).astype(np.int64)
    return offsets[offsets < horizon_s * _NS_PER_S]


def _poisson(rate_rps: float, horizon_s: float, rng: np.random.Generator) -> NDArray[np.int64]:
    mean = rate_rps * horizon_s
    # Six standard deviations above the mean: the loop below is for one seed in a billion.
    block = int(mean + 6.0 * np.sqrt(mean)) + 16
    gaps_s = rng.exponential(1.0 / rate_rps, block)
    while gaps_s.sum() < horizon_s:
        gaps_s = np.append(gaps_s, rng.exponential(1.0 / rate_rps, block))
    instants_s = np.cumsum(gaps_s)
    return np.rint(instants_s[instants_s < horizon_s] * _NS_PER_S).astype(np.int64)
