"""Scrapes an engine's own /metrics into rows: counters and gauges, not histogram buckets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineSample:
    """One value of the engine's metrics; `labels` is the exposition's text between the braces."""

    t_ns: int
    name: str
    labels: str
    value: float


def parse(text: str, t_ns: int) -> list[EngineSample]:
    """Return the values of a Prometheus text exposition, buckets and creation stamps left out.

    This runs once a second beside the load, so it takes the exposition's lines as engines write them instead of
    paying the reference parser's tens of milliseconds; a line it cannot read is left out.
    """
    samples: list[EngineSample] = []
    for line in text.splitlines():
        if line.startswith("#") or "_bucket{" in line or "_created" in line:
            continue
        series, _, value = line.rpartition(" ")
        name, _, labels = series.partition("{")
        try:
            samples.append(EngineSample(t_ns, name, labels.rstrip("}"), float(value)))
        except ValueError:
            continue
    return samples
