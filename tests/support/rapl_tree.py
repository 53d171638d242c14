"""A machine's energy counters as the kernel shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

RANGE_UJ = 262_143_328_850


def domain(root: Path, directory: str, name: str, energy_uj: int) -> Path:
    """Write one counter as the kernel shows it."""
    path = root / directory
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    return path


def server(root: Path) -> Path:
    """Write a machine of two packages, one with memory and cores told, and what must not be counted twice."""
    domain(root, "intel-rapl:0", "package-0", 10_000_000)
    domain(root, "intel-rapl:0:0", "core", 7_000_000)
    domain(root, "intel-rapl:0:1", "dram", 500_000)
    domain(root, "intel-rapl:1", "package-1", 20_000_000)
    domain(root, "intel-rapl:2", "psys", 90_000_000)
    domain(root, "intel-rapl-mmio:0", "package-0", 10_000_000)
    return root
