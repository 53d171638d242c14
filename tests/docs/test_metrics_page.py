"""docs/metrics.md and the code name the same numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from pydantic import BaseModel

from profiler import names, trust
from profiler.gpu.readings import READING_SCHEMA
from profiler.join import Timeline, request_frame, with_energy
from profiler.summary import LatencyPart, Summary
from profiler.tables import ENGINE, EVENTS, REQUESTS

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")


def _section(title: str) -> set[str]:
    """Return every code name in the first column of the section's table."""
    body = PAGE.split(f"## {title}")[1].split("\n## ")[0]
    first_cells = [line.split("|")[1] for line in body.splitlines() if line.startswith("| `")]
    return {name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        parts = [field.annotation, *get_args(field.annotation)]
        nested = next((p for p in parts if isinstance(p, type) and issubclass(p, BaseModel)), None)
        if nested is None or nested is LatencyPart or name == "reasons":
            yield prefix + name
        else:
            yield from _leaves(nested, f"{prefix}{name}.")


def test_every_field_of_the_summary_is_defined() -> None:
    """summary.json has no field without a definition, and the page defines no field that is not there."""
    assert _section("summary.json") == set(_leaves(Summary))


def test_every_column_of_the_tables_is_defined() -> None:
    """The parquet files' columns are those of the page."""
    timeline = Timeline(origin_ns=0, window_ns=(0, 1))
    requests = with_energy(request_frame(REQUESTS.empty_table(), timeline), None)
    assert _section("requests.parquet") == set(requests.columns)
    assert _section("events.parquet") == set(EVENTS.names)
    assert _section("power.parquet") == set(READING_SCHEMA.names)
    assert _section("engine.parquet") == set(ENGINE.names)


def test_every_metric_of_the_exporter_is_defined() -> None:
    """The page names exactly the exporter's metrics."""
    assert _section("Prometheus") == {metric.name for metric in names.METRICS}


def test_every_reason_code_is_explained() -> None:
    """Each code that the verdict can give is explained, and none that it cannot."""
    source = Path(trust.__file__).read_text("utf-8")
    assert _section("Reason codes") == set(re.findall(r'(?:invalid|note)\(\s*"([a-z_]+)"', source))
