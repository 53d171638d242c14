"""Splits measured energy over the requests that were in flight, interval by interval, so that it adds up.

    energy curve   |---e0---|---e1---|---e2---|---e3---|      one interval per counter publication or power reading
    request A           [prefill][decode..........]
    request B                      [prefill][decode......]

The energy of an interval above idle goes to the requests present in it, in proportion to a cost

    w = alpha * prompt tokens prefilled + beta * share of the decoding time + gamma * tokens decoded

where the decoding time is shared equally over the requests that decode at each instant (the Shapley value of a common
cost: reading the weights serves all of them). alpha, beta, gamma >= 0 are fitted on the run's own intervals by
non-negative least squares. What falls into an interval with no request stays unattributed. A prefill is taken to
last from sending to the first token: queueing is not seen from outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from profiler.energy import Curve

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

# Above these, prefill and decode cannot be told apart by the fit, and the split is not reported.
MAX_CONDITION = 30.0
MAX_RELATIVE_ERROR = 0.5


@dataclass(frozen=True, slots=True)
class Activity:
    """When each request was worked on: arrays of shape (n,), instants in monotonic ns as float64.

    `decode_start_ns` is the first token, `end_ns` the last (for an answer of one token they coincide; a request
    without a token has decode_start_ns = end_ns = its end). `decoded_tokens` excludes the first, which the prefill
    yields.
    """

    start_ns: Floats
    decode_start_ns: Floats
    end_ns: Floats
    prompt_tokens: Floats
    decoded_tokens: Floats


@dataclass(frozen=True, slots=True)
class Attribution:
    """Joules of each request, shape (n,); NaN where the curve does not span its life or phases are unidentifiable.

    `in_window_j` is the part inside the window and always known where the window is. `uncertainty_j` is one standard
    deviation of the statistical part. `fitted` is False when there were too few intervals to fit the cost model: the
    split still adds up, but rests on no data. `phases` tells whether prefill and decode could be told apart.
    """

    energy_j: Floats
    in_window_j: Floats
    prefill_j: Floats
    decode_j: Floats
    prefill_in_window_j: float
    decode_in_window_j: float
    idle_share_j: Floats
    uncertainty_j: Floats
    fitted: bool
    phases: bool


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Every (request, interval) that overlap, as parallel arrays, with the work done there."""

    request: Ints
    interval: Ints
    prefilled: Floats
    decoding_s: Floats
    decoded: Floats


def attribute(curve: Curve, idle_w: float, activity: Activity, window_ns: tuple[int, int]) -> Attribution:
    """Return the energy above idle of every request.

    `curve` is the cumulative energy of all meters, `idle_w` their power with the model loaded and nothing in flight.
    The window's edges become interval edges, so that the parts inside it add up to the curve's difference over it.
    """
    edges = _edges(curve, window_ns)
    above_idle_j = np.diff(curve.at(edges)) - idle_w * np.diff(edges) * 1e-9
    pairs = _overlaps(activity, edges)
    fit = _fit(pairs, above_idle_j)
    prefill_w = fit.alpha * pairs.prefilled
    decode_w = fit.beta * pairs.decoding_s + fit.gamma * pairs.decoded
    weight = prefill_w + decode_w
    per_interval = np.bincount(pairs.interval, weight, minlength=above_idle_j.size)
    share = np.divide(weight, per_interval[pairs.interval], out=np.zeros_like(weight), where=weight > 0)
    joules = share * above_idle_j[pairs.interval]
    prefill_part = np.divide(prefill_w, weight, out=np.zeros_like(weight), where=weight > 0)
    inside = (edges[pairs.interval] >= window_ns[0]) & (edges[pairs.interval + 1] <= window_ns[1])
    n = activity.start_ns.size

    def per_request(values: Floats) -> Floats:
        return np.bincount(pairs.request, values, minlength=n)[:n].astype(np.float64)

    spanned = (activity.start_ns >= edges[0]) & (activity.end_ns <= edges[-1])
    energy_j = np.where(spanned, per_request(joules), np.nan)
    prefill_j = np.where(spanned & fit.phases, per_request(joules * prefill_part), np.nan)
    return Attribution(
        energy_j=energy_j,
        in_window_j=per_request(joules * inside),
        prefill_j=prefill_j,
        decode_j=energy_j - prefill_j,
        prefill_in_window_j=float((joules * prefill_part * inside).sum()) if fit.phases else np.nan,
        decode_in_window_j=float((joules * (1 - prefill_part) * inside).sum()) if fit.phases else np.nan,
        idle_share_j=np.where(spanned, idle_w * shared_s(activity.start_ns, activity.end_ns), np.nan),
        uncertainty_j=np.where(spanned, np.sqrt(per_request((share * fit.residual_j) ** 2)), np.nan),
        fitted=fit.fitted,
        phases=fit.phases,
    )


def _edges(curve: Curve, window_ns: tuple[int, int]) -> Floats:
    inner = np.asarray(window_ns, np.float64)
    inner = inner[(inner > curve.t_ns[0]) & (inner < curve.t_ns[-1])]
    return np.union1d(curve.t_ns, inner)


def _shared_clock(start_ns: Floats, end_ns: Floats) -> tuple[Floats, Floats]:
    """Return (instants, G): G(t) integrates 1/n over the time when n > 0 of the spans [start, end] are open, in s.

    A span's equal share of the time it is open in is then G(end) - G(start).
    """
    instants = np.concatenate((start_ns, end_ns))
    change = np.repeat((1.0, -1.0), start_ns.size)
    order = np.argsort(instants, kind="stable")
    t_ns, n_open = instants[order], np.cumsum(change[order])[:-1]
    rate = np.divide(1.0, n_open, out=np.zeros_like(n_open), where=n_open > 0)
    return t_ns, np.concatenate(([0.0], np.cumsum(rate * np.diff(t_ns) * 1e-9)))


def shared_s(start_ns: Floats, end_ns: Floats) -> Floats:
    """Return each span's equal share, in seconds, of the time it is open in together with others."""
    if start_ns.size == 0:
        return np.empty(0)
    clock = _shared_clock(start_ns, end_ns)
    return np.interp(end_ns, *clock) - np.interp(start_ns, *clock)


def _overlaps(activity: Activity, edges: Floats) -> _Pairs:
    """Return the work that each request had done in each interval it touches, spread evenly over its phases."""
    last_interval = edges.size - 2
    first = np.maximum(np.searchsorted(edges, activity.start_ns, "right") - 1, 0)
    last = np.minimum(np.searchsorted(edges, activity.end_ns, "left") - 1, last_interval)
    count = np.maximum(last - first + 1, 0)
    request = np.repeat(np.arange(first.size), count)
    interval = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[request]
    low, high = edges[interval], edges[interval + 1]

    def part(start_ns: Floats, end_ns: Floats) -> tuple[Floats, Floats, Floats]:
        """Each pair's overlap with a phase: its start, its end, and its share of the phase."""
        begin, end = np.maximum(low, start_ns[request]), np.minimum(high, end_ns[request])
        end = np.maximum(begin, end)
        length = (end_ns - start_ns)[request]
        return begin, end, np.divide(end - begin, length, out=np.zeros_like(low), where=length > 0)

    _, _, prefill = part(activity.start_ns, activity.decode_start_ns)
    begin, end, decode = part(activity.decode_start_ns, activity.end_ns)
    clock = _shared_clock(activity.decode_start_ns, activity.end_ns)
    return _Pairs(
        request=request,
        interval=interval,
        prefilled=prefill * activity.prompt_tokens[request],
        decoding_s=np.interp(end, *clock) - np.interp(begin, *clock),
        decoded=decode * activity.decoded_tokens[request],
    )


@dataclass(frozen=True, slots=True)
class _Fit:
    """Joules per prompt token, per second of decoding and per token decoded; rms of what the fit leaves, J."""

    alpha: float
    beta: float
    gamma: float
    residual_j: float
    phases: bool
    fitted: bool = True


# Any positive weights conserve the total; these are used, and said to be, when there is nothing to fit.
_UNFITTED = _Fit(1.0, 1.0, 1.0, float("nan"), phases=False, fitted=False)


def _fit(pairs: _Pairs, above_idle_j: Floats) -> _Fit:
    """Fit the cost model on the intervals with work in them."""
    m = above_idle_j.size
    columns = [np.bincount(pairs.interval, w, minlength=m) for w in (pairs.prefilled, pairs.decoding_s, pairs.decoded)]
    design = np.stack(columns, axis=1).astype(np.float64)
    busy = design.any(axis=1)
    design, target = design[busy], above_idle_j[busy]
    scale = np.sqrt((design**2).sum(axis=0))
    used = scale > 0
    coefficients = np.zeros(3)
    if not used.any() or target.size < 3:
        return _UNFITTED
    solution, norm = nnls(design[:, used] / scale[used], target)
    coefficients[used] = solution / scale[used]
    if not coefficients.any():
        return _UNFITTED
    residual_j = float(norm / np.sqrt(target.size))
    alpha, beta, gamma = (float(c) for c in coefficients)
    return _Fit(alpha, beta, gamma, residual_j, phases=_identifiable(design, coefficients, residual_j))


def _identifiable(design: Floats, coefficients: Floats, residual_j: float) -> bool:
    """Return whether prefill and decode each have a cost that the intervals pin down."""
    active = coefficients > 0
    if not active[0] or not active[1:].any():
        return False
    columns = design[:, active] / np.sqrt((design[:, active] ** 2).sum(axis=0))
    if np.linalg.cond(columns) > MAX_CONDITION:
        return False
    covariance = residual_j**2 * np.linalg.inv(design[:, active].T @ design[:, active])
    return bool(np.sqrt(covariance[0, 0]) <= MAX_RELATIVE_ERROR * coefficients[0])
