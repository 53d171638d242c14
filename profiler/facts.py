"""Looks at this machine: its NVIDIA GPUs and who holds them, the engines installed, whether host energy is readable."""

from __future__ import annotations

import contextlib

import psutil

from profiler.choose import Facts, GpuFacts, Holder
from profiler.gpu.base import GpuError
from profiler.gpu.probe import find_nvidia
from profiler.gpu.rapl import open_rapl
from servers.vllm import find_vllm


def look() -> Facts:
    """Return the facts that `profiler.choose` decides on."""
    probe = find_nvidia()
    try:
        for meter in open_rapl():
            meter.close()
        no_rapl_why = None
    except GpuError as error:
        no_rapl_why = str(error)
    gpus = tuple(
        GpuFacts(
            uuid=gpu.uuid,
            index=gpu.index,
            name=gpu.name,
            memory_free_bytes=gpu.memory_free_bytes,
            memory_total_bytes=gpu.memory_total_bytes,
            holders=None if gpu.processes is None else tuple(_holder(p.pid, p.kind) for p in gpu.processes),
        )
        for gpu in probe.gpus
    )
    install = find_vllm()
    build = None if install is None else install.build
    return Facts(gpus=gpus, no_gpu_why=probe.reason, vllm=build, no_rapl_why=no_rapl_why)


def _holder(pid: int, kind: str) -> Holder:
    name, port = "a process", None
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        name = process.name()
        port = _served_port(process)
    return Holder(pid=pid, name=name, port=port, compute=kind == "compute")


def _served_port(worker: psutil.Process) -> int | None:
    """Return the port of the server that a GPU worker belongs to; None where none is seen.

    The outermost Python process above it that listens: workers listen too, for each other.
    """
    for process in reversed([worker, *worker.parents()]):
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline()).lower()
            ports = [c.laddr[1] for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
            if ports and ("python" in command or "vllm" in command):
                return int(min(ports))
    return None
