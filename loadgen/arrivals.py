"""When requests are due: seeded offsets from the start of the load, made before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Process = Literal["poisson", "constant"]


def offsets_ns(process: Process, rate_rps: float, horizon_s: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the rising offsets of every request due before the horizon, ns.

    constant: the k-th is due at k / rate. poisson: independent exponential gaps of mean 1 / rate.
    """
    if process == "constant":
        count = int(np.ceil(horizon_s * rate_rps))
        offsets_s = np.arange(count) / rate_rps
    else:
        # Six standard deviations more than expected: the horizon is reached but once in a billion plans, and a plan
        # that ends early would only be shorter, never denser.
        expected = horizon_s * rate_rps
        count = int(expected + 6.0 * np.sqrt(expected) + 16)
        offsets_s = np.cumsum(rng.exponential(1.0 / rate_rps, count))
    return np.rint(offsets_s[offsets_s < horizon_s] * 1e9).astype(np.int64)
