"""The table at the end of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from profiler.summary import LatencyPart, Summary

_MISSING = "—"


def _number(value: float | None, form: str, scale: float = 1.0, unit: str = "") -> str:
    if value is None:
        return _MISSING
    return f"{value * scale:{form}}{' ' + unit if unit else ''}"


def _latency_table(summary: Summary) -> Table:
    table = Table(box=None, title="Latency, ms", title_justify="left", title_style="bold", padding=(0, 1))
    table.add_column("", no_wrap=True)
    for name in ("mean", "p50", "p90", "p95", "p99", "n"):
        table.add_column(name, justify="right")

    def row(label: str, part: LatencyPart) -> None:
        values = (part.mean, part.p50, part.p90, part.p95, part.p99)
        table.add_row(label, *(_number(value, ",.1f", 1e3) for value in values), str(part.n))

    latency = summary.latency
    row("TTFT from sending", latency.ttft_s)
    row("TTFT from schedule", latency.ttft_scheduled_s)
    row("TPOT", latency.tpot_s)
    row("ITL", latency.itl_s)
    row("E2E", latency.e2e_s)
    return table


def _rows(title: str, rows: list[tuple[str, str, str]]) -> Table:
    table = Table(box=None, title=title, title_justify="left", title_style="bold", show_header=False, padding=(0, 1))
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right")
    table.add_column("", justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _throughput_table(summary: Summary) -> Table:
    load, rates = summary.load, summary.throughput
    asked = (
        _number(load.asked_rate_rps, "g", unit="req/s") if load.concurrency is None else f"{load.concurrency} at once"
    )
    rows = [
        (f"Load asked ({load.arrival})", asked, ""),
        ("Requests sent", _number(load.achieved_rate_rps, ".2f", unit="req/s"), ""),
        ("Requests completed", _number(rates.requests_per_s, ".2f", unit="req/s"), ""),
        ("Output tokens", _number(rates.output_tokens_per_s, ",.1f", unit="tok/s"), ""),
        ("Requests ok / failed", f"{summary.requests.ok} / {summary.requests.failed}", ""),
    ]
    if rates.goodput_requests_per_s is not None:
        rows.append(("Goodput", _number(rates.goodput_requests_per_s, ".2f", unit="req/s"), ""))
    for slo in summary.slo:
        verdict = "too few to tell" if slo.met is None else "met" if slo.met else "missed"
        rows.append((f"SLO {slo.objective}", _number(slo.value_s, ",.1f", 1e3, "ms"), verdict))
    return _rows("Throughput", rows)


def _share(part: float | None, whole: float | None) -> str:
    return "" if part is None or not whole else f"{part / whole:.1%}"


def _energy_table(summary: Summary) -> Table:
    energy = summary.energy
    total = energy.total_j

    def part(label: str, value: float | None) -> tuple[str, str, str]:
        return label, _number(value, ",.1f", unit="J"), _share(value, total)

    rows = [
        ("Total", _number(total, ",.1f", unit="J"), ""),
        part("  requests", energy.requests_j),
        part("    prefill", energy.prefill_j),
        part("    decode", energy.decode_j),
        part("  idle (model loaded)", energy.idle_j),
        part("  unattributed", energy.unattributed_j),
        ("Mean power", _number(energy.mean_power_w, ".1f", unit="W"), ""),
        ("Per output token", _number(energy.j_per_output_token, ".4f", unit="J"), ""),
        ("  net of idle", _number(energy.net_j_per_output_token, ".4f", unit="J"), ""),
        ("Per token, in and out", _number(energy.j_per_total_token, ".4f", unit="J"), ""),
        ("Per request, above idle", _number(energy.j_per_request, ".2f", unit="J"), ""),
        (f"By {energy.source}; counter and power differ by", _number(energy.disagreement_ratio, ".2%"), ""),
        ("SM clock", _number(summary.clocks.achieved_sm_mhz, ".0f", unit="MHz"), ""),
    ]
    return _rows(f"Energy ({summary.boundary}, ±{energy.gain_uncertainty_ratio or 0:.0%} sensor gain)", rows)


def _validity(summary: Summary) -> RenderableType:
    verdict = summary.validity
    lines = [Text(f"{reason.severity:<8}{reason.code}: {reason.detail}") for reason in verdict.reasons]
    for line, reason in zip(lines, verdict.reasons, strict=True):
        line.stylize("red" if reason.severity == "invalid" else "yellow", 0, 8)
    title = "VALID" if verdict.valid else "NOT TRUSTWORTHY"
    body = Group(*lines) if lines else Text("no findings")
    return Panel(body, title=title, title_align="left", border_style="green" if verdict.valid else "bold red")


def render(summary: Summary, run_dir: Path, *, width: int | None = None, colour: bool | None = None) -> str:
    """Return the run's table as text; coloured when asked, None: where standard output is a terminal."""
    console = Console(width=width, force_terminal=colour)
    version = f" {summary.server.version}" if summary.server.version else ""
    gpus = ", ".join(gpu.name for gpu in summary.gpus) or "no energy source"
    random = " (random weights)" if summary.weights == "random" else ""
    head = f"{summary.model}{random} on {summary.server.engine}{version}, {gpus}"
    parts: list[RenderableType] = []
    if summary.simulated:
        parts.append(Text(" SIMULATED: no number below was measured on hardware ", style="bold black on yellow"))
    parts.append(Text(head, style="bold"))
    tables = [_latency_table(summary), _throughput_table(summary)]
    if summary.gpus:
        tables.append(_energy_table(summary))
    for table in tables:
        parts += [Text(), table]
    parts += [Text(), _validity(summary), Text(f"Run directory: {run_dir}", overflow="fold")]
    with console.capture() as capture:
        console.print(Group(*parts))
    return capture.get()
