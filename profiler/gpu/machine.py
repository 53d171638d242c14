"""What the file system tells of this machine's NVIDIA hardware: no library is loaded, nothing is executed.

Every function takes the root of the file system, so that a recorded tree can stand in for a machine.
"""

from __future__ import annotations

from pathlib import Path

_NVIDIA = "0x10de"
# PCI classes of a display controller: VGA and 3D. NVIDIA's audio, USB and NVSwitch functions have others.
_GPU_CLASSES = ("0x0300", "0x0302")
_CONTAINER_MARKS = ("docker", "kubepods", "containerd", "libpod", "lxc", "garden")
# The inode of the initial process namespace, a constant of Linux since 3.8 (include/linux/proc_ns.h).
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"


def read_text(path: Path) -> str | None:
    """Return a small file's text, None where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def driver_version(root: Path) -> str | None:
    """Return the version of the NVIDIA kernel driver that is loaded, None when none is."""
    text = read_text(root / "proc/driver/nvidia/version")
    if text is None:
        return None
    # "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan ..."; the open module says "Open Kernel
    # Module for x86_64  570.86.15". The version is the first word that is digits and dots.
    words = text.splitlines()[0].split() if text else []
    return next((word for word in words if word.replace(".", "").isdigit() and "." in word), "of unknown version")


def pci_gpus(root: Path) -> tuple[str, ...]:
    """Return the PCI addresses of the NVIDIA GPUs on the bus, with or without a driver."""
    devices = sorted((root / "sys/bus/pci/devices").glob("*"))
    return tuple(device.name for device in devices if _is_nvidia_gpu(device))


def _is_nvidia_gpu(device: Path) -> bool:
    pci_class = read_text(device / "class") or ""
    return read_text(device / "vendor") == _NVIDIA and pci_class.startswith(_GPU_CLASSES)


def in_container(root: Path) -> bool:
    """Return whether this is the inside of a container, as far as its usual marks tell."""
    if (root / ".dockerenv").exists() or (root / "run/.containerenv").exists():
        return True
    groups = read_text(root / "proc/1/cgroup") or ""
    return any(mark in groups for mark in _CONTAINER_MARKS)


def in_wsl(root: Path) -> bool:
    """Return whether this is the Windows Subsystem for Linux."""
    return "microsoft" in (read_text(root / "proc/sys/kernel/osrelease") or "").lower()


def memory_bytes(root: Path) -> tuple[int, int]:
    """Return the host's memory, available and total; what a GPU without memory of its own has to give.

    Raises:
        OSError: the system does not tell.
        ValueError: it tells something else than /proc/meminfo's lines.
    """
    lines = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
    try:
        available_kib, total_kib = (int(lines[name].split()[0]) for name in ("MemAvailable", "MemTotal"))
    except KeyError as error:
        raise ValueError(f"/proc/meminfo has no {error}") from error
    return available_kib * 1024, total_kib * 1024


def sees_host_pids(root: Path = Path("/")) -> bool:
    """Return whether process ids here are the host's, which are the ones that NVML tells.

    False in a container with a process namespace of its own, and where the system does not say.
    """
    try:
        return (root / "proc/self/ns/pid").readlink().name == _INITIAL_PID_NAMESPACE
    except OSError:
        return False
