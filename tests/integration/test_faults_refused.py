"""What `profile` refuses before anything starts: exit status 2 or 1, one line, no run directory, no process."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.profiling import QUICK, SIMULATED, profiling, somebody_elses_engine

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def refused(out: Path, *arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Return exit status and error line of a profile that must leave nothing behind."""
    with profiling(out, *arguments, env=env) as profile:
        code = profile.wait()
        assert profile.errors == [profile.last_line], profile.text
        assert profile.orphans(within_s=0.0) == []
    assert list(out.glob("*")) == []
    return code, profile.last_line


@pytest.mark.parametrize(
    ("arguments", "what", "remedy"),
    [
        ((), "no model was named", "mistral-7b"),
        (("nonsense",), "no model is called 'nonsense'", "mistral-7b"),
        (("gpt2", "--server", "nonsense"), "'nonsense'", "sim"),
        ((*SIMULATED, "--gpu", "sim:nonsense"), "no simulated GPU is called 'nonsense'", "h100-sxm"),
        ((*SIMULATED, "--gpu", "sim:h100-sxm,nonsense"), "fault of a simulated GPU is called 'nonsense'", "lost@10"),
        ((*SIMULATED, "--gpu", "sim:h100-sxm,lost@"), "'lost@'", "lost@10"),
        ((*SIMULATED, "--gpu", "nvml"), "nvml", "use --gpu"),
        ((*SIMULATED, "--input", "0"), "length '0' is out of range", "128:1024"),
        ((*SIMULATED, "--input", "2000"), "gpt2 holds 1024", "--input"),
        ((*SIMULATED, "--rate", "-1"), "--rate -1", "--help"),
        ((*SIMULATED, "--rate", "1", "--concurrency", "1"), "cannot both", "leave one"),
        ((*SIMULATED, "--slo", "nonsense"), "--slo nonsense", "METRIC_pNN=SECONDS"),
        (("--url", "nonsense"), "nonsense", "http://"),
    ],
)
def test_bad_input_is_refused_with_what_to_type(
    arguments: tuple[str, ...], what: str, remedy: str, tmp_path: Path
) -> None:
    """Exit status 2 and one line that names the offending value and a valid one."""
    code, line = refused(tmp_path / "runs", *arguments)
    assert code == 2
    assert what in line
    assert remedy in line


def test_an_engine_that_is_not_installed_is_refused_with_how_to_install_it(tmp_path: Path) -> None:
    """`--server vllm` without a vLLM names the make target; PATH and the working directory hold none here."""
    nowhere = {"PATH": str(tmp_path), "JOULETRACE_VLLM": str(tmp_path / "none")}
    code, line = refused(tmp_path / "runs", "gpt2", "--server", "vllm", env=nowhere)
    assert code == 2
    assert "make vllm" in line or "JOULETRACE_VLLM" in line


def test_a_port_in_use_is_refused_with_its_holder(tmp_path: Path) -> None:
    """Exit status 2; the line names the port and the flag that chooses another."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        code, line = refused(tmp_path / "runs", *SIMULATED, "--port", str(port))
    assert code == 2
    assert f"port {port} on 127.0.0.1 is in use" in line
    assert "--port" in line


def test_a_place_that_cannot_be_written_is_refused_before_the_engine_starts(tmp_path: Path) -> None:
    """Exit status 1; the line names the place and the flag that chooses another. A file stands in the way: root too."""
    file = tmp_path / "file"
    file.touch()
    code, line = refused(file / "runs", *SIMULATED, *QUICK)
    assert code == 1
    assert f"cannot write {file / 'runs'}" in line
    assert "--out" in line


def test_absent_nvml_is_refused_and_an_engine_that_runs_left_alone(tmp_path: Path) -> None:
    """`--gpu nvml` where the library cannot be loaded: exit status 2 with what to use instead."""
    (tmp_path / "libnvidia-ml.so.1").touch()  # found first and no library: as if there were none, on any machine
    with somebody_elses_engine(tmp_path / "device") as (url, engine):
        env = {"LD_LIBRARY_PATH": str(tmp_path)}
        code, line = refused(tmp_path / "runs", "--url", url, "--gpu", "nvml", env=env)
        assert engine.poll() is None
    assert code == 2
    assert "--gpu nvml" in line
    assert "--gpu rapl" in line
