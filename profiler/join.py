"""Joins requests, events and power on one clock: the rows of requests.parquet, and what happened in the window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from profiler.attribution import Activity, Attribution
from profiler.latency import tpot_s

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Timeline:
    """The phases of a run on the monotonic clock, ns. `origin_ns` is second 0; a phase not reached is None."""

    origin_ns: int
    idle_ns: tuple[int, int] | None = None
    load_start_ns: int | None = None
    window_ns: tuple[int, int] | None = None

    @property
    def window_s(self) -> float:
        """Length of the window."""
        assert self.window_ns is not None
        return (self.window_ns[1] - self.window_ns[0]) * 1e-9

    def seconds(self, instants_ns: Floats) -> Floats:
        """Return instants as seconds since second 0."""
        return (instants_ns - self.origin_ns) * 1e-9


@dataclass(frozen=True, slots=True)
class WindowTokens:
    """Tokens that were worked on in the window."""

    prompt_tokens: int
    output_tokens: int


_SECONDS = ("scheduled", "sent", "first_token", "last_token", "end")
ENERGY_COLUMNS = ("energy_j", "energy_in_window_j", "prefill_j", "decode_j", "idle_share_j", "energy_uncertainty_j")


def request_frame(table: pa.Table, timeline: Timeline) -> pd.DataFrame:
    """Return requests.parquet's columns, energies not yet among them, in schedule order.

    TTFT is first token - sent; E2E is last token - sent; TPOT is (E2E - TTFT) / (tokens - 1). Missing is null.
    """
    assert timeline.window_ns is not None
    ns = {name: table[f"{name}_ns"].to_numpy().astype(np.float64) for name in _SECONDS}
    frame = pd.DataFrame({"request_id": table["request_id"].to_pylist()})
    for name in _SECONDS:
        frame[f"{name}_s"] = timeline.seconds(ns[name])
    for name in ("asked_prompt_tokens", "asked_output_tokens", "prompt_tokens", "output_tokens"):
        frame[name] = pd.array(table[name].to_pylist(), dtype="Int32")
    for name in ("token_source", "status", "error"):
        frame[name] = table[name].to_pylist()
    frame["ttft_s"] = (ns["first_token"] - ns["sent"]) * 1e-9
    frame["ttft_scheduled_s"] = (ns["first_token"] - ns["scheduled"]) * 1e-9
    output = frame["output_tokens"].to_numpy(dtype=np.float64, na_value=np.nan)
    frame["tpot_s"] = tpot_s(ns["first_token"], ns["last_token"], output)
    frame["e2e_s"] = (ns["last_token"] - ns["sent"]) * 1e-9
    start_ns, end_ns = timeline.window_ns
    frame["in_window"] = (ns["scheduled"] >= start_ns) & (ns["scheduled"] < end_ns)
    return frame.sort_values("scheduled_s", kind="stable", ignore_index=True)


def activity(frame: pd.DataFrame, timeline: Timeline) -> Activity:
    """Return when each request was worked on, for the attribution. A request never sent was not worked on at all."""

    def instants(name: str) -> Floats:
        return frame[name].to_numpy(dtype=np.float64) * 1e9 + timeline.origin_ns

    end = instants("end_s")
    start = np.where(np.isnan(instants("sent_s")), end, instants("sent_s"))
    last = np.where(np.isnan(instants("last_token_s")), end, instants("last_token_s"))
    first = np.where(np.isnan(instants("first_token_s")), last, instants("first_token_s"))
    asked = frame["asked_prompt_tokens"].to_numpy(dtype=np.float64)
    prompt = frame["prompt_tokens"].to_numpy(dtype=np.float64, na_value=np.nan)
    output = frame["output_tokens"].to_numpy(dtype=np.float64, na_value=np.nan)
    return Activity(
        start_ns=start,
        decode_start_ns=first,
        end_ns=last,
        prompt_tokens=np.where(np.isnan(prompt), asked, prompt),
        decoded_tokens=np.maximum(np.nan_to_num(output, nan=1.0) - 1.0, 0.0),
    )


def with_energy(frame: pd.DataFrame, split: Attribution | None) -> pd.DataFrame:
    """Return the frame with its energy columns; all null without an attribution."""
    if split is None:
        return frame.assign(**dict.fromkeys(ENERGY_COLUMNS, np.nan))
    parts = (
        split.energy_j,
        split.in_window_j,
        split.prefill_j,
        split.decode_j,
        split.idle_share_j,
        split.uncertainty_j,
    )
    return frame.assign(**dict(zip(ENERGY_COLUMNS, parts, strict=True)))


def uncounted(frame: pd.DataFrame, events: pa.Table) -> NDArray[np.bool_]:
    """Return which answers told their sum of tokens but not which event held how many."""
    counted = set(events["request_id"].unique().to_pylist())
    told: NDArray[np.bool_] = (frame["output_tokens"].notna() & ~frame["request_id"].isin(counted)).to_numpy()
    return told & frame["first_token_s"].notna().to_numpy()


def _even_tokens(frame: pd.DataFrame, events: pa.Table, timeline: Timeline) -> int:
    """Return the tokens in the window of answers that are not counted by event, taken to arrive evenly."""
    rows = frame[uncounted(frame, events)]
    first_s, last_s = rows["first_token_s"].to_numpy(np.float64), rows["last_token_s"].to_numpy(np.float64)
    start_s, end_s = timeline.seconds(np.array(timeline.window_ns, np.float64))
    inside_s = np.clip(np.minimum(last_s, end_s) - np.maximum(first_s, start_s), 0.0, None)
    at_once = ((first_s >= start_s) & (first_s < end_s)).astype(np.float64)
    share = np.divide(inside_s, last_s - first_s, out=at_once, where=last_s > first_s)
    return round(float((rows["output_tokens"].to_numpy(np.float64) * share).sum()))


def window_tokens(frame: pd.DataFrame, events: pa.Table, timeline: Timeline) -> WindowTokens:
    """Return the output tokens that arrived in the window and the prompt tokens whose prefill ended in it."""
    assert timeline.window_ns is not None
    start_ns, end_ns = timeline.window_ns
    t_ns, tokens = events["t_ns"].to_numpy(), events["tokens"].to_numpy()
    output = int(tokens[(t_ns >= start_ns) & (t_ns < end_ns)].sum()) + _even_tokens(frame, events, timeline)
    first_s = frame["first_token_s"].to_numpy(dtype=np.float64)
    edge_s = timeline.seconds(np.array([start_ns, end_ns], np.float64))
    inside = (first_s >= edge_s[0]) & (first_s < edge_s[1])
    return WindowTokens(int(frame["prompt_tokens"].to_numpy(dtype=np.float64, na_value=0)[inside].sum()), output)


def cohort_gaps(frame: pd.DataFrame, events: pa.Table) -> Floats:
    """Return the inter-token gaps of the cohort's successes, s; an event of m tokens counts as m equal gaps."""
    wanted = set(frame.loc[frame["in_window"] & (frame["status"] == "ok"), "request_id"])
    ids = events["request_id"].to_pandas()
    keep = ids.isin(wanted).to_numpy()
    t_ns, tokens = events["t_ns"].to_numpy()[keep], events["tokens"].to_numpy()[keep]
    same = (ids[keep].to_numpy()[1:] == ids[keep].to_numpy()[:-1]) if keep.any() else np.empty(0, bool)
    return np.repeat((np.diff(t_ns) * 1e-9 / tokens[1:])[same], tokens[1:][same])


def cohort_lags_s(frame: pd.DataFrame) -> Floats:
    """Return sent - scheduled of the cohort, s; requests never sent are left out."""
    cohort = frame[frame["in_window"]]
    lags: Floats = (cohort["sent_s"] - cohort["scheduled_s"]).to_numpy(dtype=np.float64)
    return lags[~np.isnan(lags)]
