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
    return Facts(gpus=gpus, no_gpu_why=probe.reason, vllm=find_vllm() is not None, no_rapl_why=no_rapl_why)


def _holder(pid: int, kind: str) -> Holder:
    name, port = "a process", None
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        name = process.name()
        # An engine's GPU workers listen on nothing themselves; the server that started them does.
        for candidate in (process, *process.parents()):
            ports = [c.laddr[1] for c in candidate.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
            if ports:
                port = min(ports)
                break
    return Holder(pid=pid, name=name, port=port, compute=kind == "compute")
