"""The scrape of an engine's /metrics against the reference parser, on what a real vLLM wrote."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from servers.metrics import parse

TEXT = (Path(__file__).parents[1] / "data" / "vllm_metrics.txt").read_text("utf-8")


def test_every_counter_and_gauge_of_a_real_engine_is_read_as_the_reference_reads_it() -> None:
    """Names, labels and values are those of prometheus_client's parser; only buckets and stamps are left out."""
    wanted = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(TEXT)
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }
    found = parse(TEXT, 7)
    assert {sample.t_ns for sample in found} == {7}
    read = {}
    for sample in found:
        line = (
            f"{sample.name}{{{sample.labels}}} {sample.value}\n" if sample.labels else f"{sample.name} {sample.value}\n"
        )
        again = next(iter(next(iter(text_string_to_metric_families(line))).samples))
        read[again.name, frozenset(again.labels.items())] = again.value
    assert read == wanted


def test_what_cannot_be_read_is_left_out() -> None:
    """A half-written line costs itself and nothing else."""
    assert [s.name for s in parse('a 1\nb{x="y"} 2\nc{x=\nd nonsense\ne 3', 0)] == ["a", "b", "e"]
