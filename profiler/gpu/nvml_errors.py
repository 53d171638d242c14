"""What NVML's return codes mean for a user: the one table from a code to an error and what to do about it.

The codes are NVML's ABI (nvml.h, nvmlReturn_t). They are spelled here, so that this module needs no binding.
"""

from __future__ import annotations

from dataclasses import dataclass

from profiler.gpu.base import GpuError, GpuLostError

INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
DRIVER_NOT_LOADED = 9
LIBRARY_NOT_FOUND = 12
LIBRARY_MISMATCH = 18
UNKNOWN = 999


class LibraryMissingError(GpuError):
    """NVML's library is not installed here."""


class DriverMissingError(GpuError):
    """NVML's library is here and finds no driver to talk to."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """A return code in words, and the error to raise for it: GpuLostError where the device will not answer again."""

    words: str
    hint: str
    kind: type[GpuError] = GpuError


_RESET = "see `dmesg | grep -i xid`; reset it with `nvidia-smi --gpu-reset` or restart the host"
_OTHER = Meaning("NVML failed", "see whether `nvidia-smi` works, and `dmesg | grep -i nvrm`")
MEANINGS: dict[int, Meaning] = {
    1: Meaning("NVML was shut down while in use", "start the command again", GpuLostError),
    INVALID_ARGUMENT: Meaning("not known to the installed driver", "update the NVIDIA driver"),
    NOT_SUPPORTED: Meaning("not supported by this GPU", "choose another energy source"),
    NO_PERMISSION: Meaning(
        "no permission",
        "run as root, or give this user or container access to /dev/nvidia*",
    ),
    NOT_FOUND: Meaning("no such GPU", "`nvidia-smi -L` lists them"),
    8: Meaning("a power cable of the GPU is not connected", "connect every external power cable"),
    DRIVER_NOT_LOADED: Meaning(
        "the NVIDIA driver is not loaded", "load it with `modprobe nvidia`, see `dmesg`", DriverMissingError
    ),
    10: Meaning("the driver did not answer in time", "see `dmesg | grep -i nvrm`"),
    11: Meaning("the kernel reports an interrupt problem with the GPU", "see `dmesg | grep -i nvrm`"),
    LIBRARY_NOT_FOUND: Meaning(
        "libnvidia-ml.so.1 was not found", "install the NVIDIA driver's libraries", LibraryMissingError
    ),
    13: Meaning("not known to the installed driver", "update the NVIDIA driver"),
    15: Meaning("the GPU fell off the bus", _RESET, GpuLostError),
    16: Meaning("the GPU needs a reset", _RESET, GpuLostError),
    LIBRARY_MISMATCH: Meaning(
        "the NVIDIA library and the loaded driver have different versions",
        "restart the host, or the container if the host's driver was updated",
        GpuLostError,
    ),
    UNKNOWN: _OTHER,
}


def meaning(code: int) -> Meaning:
    """Return what a return code means; a code not in the table reads as a failure of NVML that names it."""
    return MEANINGS.get(code) or Meaning(f"NVML failed with code {code}", _OTHER.hint)


def is_lost(code: int) -> bool:
    """Return whether the code says that the device will not answer again by itself."""
    return issubclass(meaning(code).kind, GpuLostError)


def gpu_error(code: int, what: str) -> GpuError:
    """Return the error to raise when `what` (a device, or what was tried) failed with `code`."""
    told = meaning(code)
    return told.kind(f"{what}: {told.words}", hint=told.hint)
