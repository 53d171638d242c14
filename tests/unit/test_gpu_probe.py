"""Why there is no NVIDIA GPU, told from recorded file systems and NVML's return codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pynvml
import pytest

from profiler.gpu.machine import driver_version, memory_bytes, sees_host_pids
from profiler.gpu.probe import find_nvidia
from tests.support.nvml_table import LOST, NOT_SUPPORTED, Fails, NvmlTable, h100, rtx4090

if TYPE_CHECKING:
    from pathlib import Path

NO_LIBRARY = Fails(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
NO_DRIVER = Fails(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
MISMATCH = Fails(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
PROPRIETARY = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 23:01:17 UTC 2025\nGCC version: 12"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder)"
HOST_PIDS, OWN_PIDS = "pid:[4026531836]", "pid:[4026532613]"


def put(root: Path, path: str, text: str = "") -> None:
    """Write a file of a recorded tree."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def pids(root: Path, namespace: str) -> None:
    """Record which process namespace this is."""
    (root / "proc/self/ns").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/ns/pid").symlink_to(namespace)


def gpu_on_bus(root: Path, vendor: str = "0x10de", pci_class: str = "0x030200") -> None:
    """Record a device on the PCI bus."""
    put(root, "sys/bus/pci/devices/0000:65:00.0/vendor", f"{vendor}\n")
    put(root, "sys/bus/pci/devices/0000:65:00.0/class", f"{pci_class}\n")


def driver(root: Path) -> None:
    """Record a loaded driver."""
    put(root, "proc/driver/nvidia/version", PROPRIETARY)


def docker(root: Path) -> None:
    """Record the mark of a container."""
    put(root, ".dockerenv")


def pod(root: Path) -> None:
    """Record the mark of a Kubernetes pod under cgroup v1."""
    put(root, "proc/1/cgroup", "5:devices:/kubepods/besteffort/pod1/abc\n")


def wsl(root: Path) -> None:
    """Record a WSL kernel."""
    put(root, "proc/sys/kernel/osrelease", "5.15.167.4-microsoft-standard-WSL2\n")


@pytest.mark.parametrize(
    ("parts", "init", "phrases"),
    [
        ((), NO_LIBRARY, ["no NVIDIA GPU"]),
        ((gpu_on_bus,), NO_LIBRARY, ["0000:65:00.0", "no driver is loaded", "install the NVIDIA driver"]),
        ((gpu_on_bus,), NO_DRIVER, ["0000:65:00.0", "no driver is loaded"]),
        ((gpu_on_bus, driver), NO_LIBRARY, ["570.86.15", "libnvidia-ml.so.1", "nvidia-utils"]),
        ((gpu_on_bus, driver), MISMATCH, ["different versions", "restart"]),
        ((docker,), NO_LIBRARY, ["this container", "if its host has one", "docker run --gpus all", "toolkit"]),
        ((pod,), NO_LIBRARY, ["this container", "toolkit"]),
        ((docker, gpu_on_bus), NO_LIBRARY, ["the host has", "started without it", "docker run --gpus all"]),
        ((docker, driver), NO_DRIVER, ["the host has", "docker run --gpus all"]),
        ((wsl,), NO_LIBRARY, ["WSL", "in Windows"]),
    ],
    ids=lambda value: "+".join(part.__name__ for part in value) or "bare" if isinstance(value, tuple) else "",
)
def test_the_reason_fits_the_machine(tmp_path: Path, parts: tuple, init: Fails, phrases: list[str]) -> None:  # type: ignore[type-arg]
    """Each machine without a usable GPU gets its own reason, with what to do, in one line."""
    for part in parts:
        part(tmp_path)
    found = find_nvidia(NvmlTable(init=init), tmp_path, "linux")
    assert found.gpus == ()
    assert found.reason is not None
    assert "\n" not in found.reason
    assert [phrase for phrase in phrases if phrase not in found.reason] == []


def test_macos_has_none(tmp_path: Path) -> None:
    """On macOS the search ends with the platform."""
    assert find_nvidia(NvmlTable(init=NO_LIBRARY), tmp_path, "darwin").reason == "macOS has no NVIDIA GPUs"


@pytest.mark.parametrize(("vendor", "pci_class"), [("0x10de", "0x040300"), ("0x1002", "0x030000")])
def test_other_devices_are_no_nvidia_gpu(tmp_path: Path, vendor: str, pci_class: str) -> None:
    """NVIDIA's sound device and another vendor's GPU do not count."""
    gpu_on_bus(tmp_path, vendor, pci_class)
    found = find_nvidia(NvmlTable(init=NO_LIBRARY), tmp_path, "linux")
    assert found.reason == "this machine has no NVIDIA GPU"


def test_gpus_are_found_with_their_memory_and_processes(tmp_path: Path) -> None:
    """On a host every GPU is told with what is free and who holds it, and NVML is closed again."""
    pids(tmp_path, HOST_PIDS)
    table = NvmlTable(h100(0), h100(1))
    found = find_nvidia(table, tmp_path, "linux")
    assert found.reason is None
    assert [(gpu.index, gpu.name, gpu.memory_total_bytes - gpu.memory_free_bytes) for gpu in found.gpus] == [
        (0, "NVIDIA H100 80GB HBM3", 70_000_000_000),
        (1, "NVIDIA H100 80GB HBM3", 70_000_000_000),
    ]
    assert [process.pid for process in found.gpus[0].processes or ()] == [4242]
    assert table.references == 0


def test_processes_are_unknown_in_a_container(tmp_path: Path) -> None:
    """A GPU that a container may use is found, but who holds it is not known there."""
    docker(tmp_path)
    pids(tmp_path, OWN_PIDS)
    found = find_nvidia(NvmlTable(rtx4090()), tmp_path, "linux")
    assert [gpu.processes for gpu in found.gpus] == [None]


def test_a_gpu_without_memory_of_its_own_shares_the_hosts(tmp_path: Path) -> None:
    """Where NVML tells no memory, what the host has is what the GPU has."""
    put(tmp_path, "proc/meminfo", "MemTotal:  1000 kB\nMemFree:  1 kB\nMemAvailable:  600 kB\n")
    card = h100()
    card.answers["nvmlDeviceGetMemoryInfo"] = NOT_SUPPORTED
    gpu = find_nvidia(NvmlTable(card), tmp_path, "linux").gpus[0]
    assert (gpu.memory_free_bytes, gpu.memory_total_bytes) == (600 * 1024, 1000 * 1024)
    assert memory_bytes(tmp_path) == (600 * 1024, 1000 * 1024)


def test_a_dead_gpu_is_the_reason(tmp_path: Path) -> None:
    """A GPU that fell off the bus is told with what to do about it."""
    card = h100()
    card.everything = LOST
    reason = find_nvidia(NvmlTable(card), tmp_path, "linux").reason
    assert reason is not None
    assert "fell off the bus" in reason
    assert "reset" in reason


@pytest.mark.parametrize(("text", "version"), [(PROPRIETARY, "570.86.15"), (OPEN, "570.86.15"), ("", "of unknown")])
def test_the_driver_tells_its_version(tmp_path: Path, text: str, version: str) -> None:
    """Both kernel modules' lines are read, and a driver that does not say is still a driver."""
    put(tmp_path, "proc/driver/nvidia/version", text)
    assert (driver_version(tmp_path) or "").startswith(version)


def test_the_initial_namespace_is_the_hosts(tmp_path: Path) -> None:
    """Process ids are the host's in the initial namespace alone; where the system does not say, they are not."""
    host, own = tmp_path / "host", tmp_path / "own"
    pids(host, HOST_PIDS)
    pids(own, OWN_PIDS)
    assert [sees_host_pids(root) for root in (host, own, tmp_path)] == [True, False, False]
