"""Runs that fail before their load begins: no engine comes up, none is at the address, no meter answers."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from profiler.sampling import START_TIMEOUT_S
from servers.process import free_port
from tests.support.profiling import QUICK, SIMULATED, ProfileProcess, profiling, rows, somebody_elses_engine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SILENCE_S = 2.0


def failed(out: Path, *arguments: str) -> tuple[int, ProfileProcess]:
    """Return exit status and remains of a profile that must fail with one line and leave only its run directory."""
    with profiling(out, *arguments, *QUICK) as profile:
        code = profile.wait()
        assert profile.errors == [profile.last_line], profile.text
        assert profile.last_line.startswith(f"error (exit status {code}): ")
        assert profile.orphans() == []
    run = profile.run()
    assert run.manifest.state == "failed"
    assert run.manifest.failure
    assert str(run.path) in profile.last_line
    return code, profile


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("exit-while-loading", ("ended with status 1", "Engine core initialization failed", "server.log")),
        ("oom-while-loading", ("out of memory", "--max-model-len")),
        ("hang-while-loading", ("not ready after 3 s", "--start-timeout")),
        ("unready", ("first completion failed", "HTTP 500", "server.log")),
    ],
)
def test_an_engine_that_does_not_come_up_is_told_apart(fault: str, words: tuple[str, ...], tmp_path: Path) -> None:
    """Exit status 1, a line with the cause and where to look; the power of the attempt can be read back."""
    start = ("--start-timeout", "3", f"--engine-arg=--fault={fault}")
    code, profile = failed(tmp_path / "runs", *SIMULATED, *start)
    assert code == 1
    for word in words:
        assert word in profile.last_line
    assert rows(profile.run(), "power") > 0
    assert (profile.run_dir() / "server.log").exists()


def test_an_engine_argument_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    """An engine that refuses its command line makes exit status 2, with the argument named."""
    code, profile = failed(tmp_path / "runs", *SIMULATED, "--engine-arg=--nonsense")
    assert code == 2
    assert "--nonsense" in profile.last_line


class _Page(http.server.BaseHTTPRequestHandler):
    """A web server that is no engine."""

    def do_GET(self) -> None:
        """Answer 200 with a page, whatever was asked."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Keep quiet."""


@contextlib.contextmanager
def _behind(kind: str) -> Iterator[str]:
    """Yield the URL of something that is no engine."""
    if kind == "nobody":
        yield f"http://127.0.0.1:{free_port()}"
    elif kind == "silence":
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    else:
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("nobody", 1, ("no engine answers", "check the address")),
        ("silence", 1, ("no engine answers", "check the address")),
        ("page", 2, ("not like an engine", "vLLM-compatible")),
    ],
)
def test_a_url_without_an_engine_is_told_by_how_it_answers(
    kind: str, code: int, words: tuple[str, ...], tmp_path: Path
) -> None:
    """Refusal, silence and a web page each give their line, with the address and what to do."""
    with _behind(kind) as url:
        status, profile = failed(tmp_path / "runs", "--url", url, "--gpu", "none")
    assert status == code
    for word in (url, *words):
        assert word in profile.last_line


def test_an_exporter_that_does_not_answer_is_named(tmp_path: Path) -> None:
    """`--exporter URL` with nobody there: exit status 2, the address, how to start one; the engine goes on."""
    exporter = f"http://127.0.0.1:{free_port()}"
    with somebody_elses_engine(tmp_path / "device") as (url, engine):
        code, profile = failed(tmp_path / "runs", "--url", url, "--exporter", exporter)
        assert engine.poll() is None
    assert code == 2
    assert exporter in profile.last_line
    assert "jouletrace exporter" in profile.last_line


def test_a_gpu_lost_from_the_start_is_told_without_waiting_the_start_out(tmp_path: Path) -> None:
    """`gpu_lost` comes well before the time an exporter is given to send its first reading."""
    began_s = time.monotonic()
    code, profile = failed(tmp_path / "runs", *SIMULATED, "--gpu", "sim:h100-sxm,lost")
    assert code == 1
    assert "gpu_lost" in profile.last_line
    assert time.monotonic() - began_s < START_TIMEOUT_S


def test_an_exporter_that_starts_slowly_is_no_lost_gpu(tmp_path: Path) -> None:
    """Silence counts from the first reading: an exporter held up for longer than silence may last does no harm."""
    with profiling(tmp_path / "runs", *SIMULATED, *QUICK) as profile:
        exporter = profile.process("profiler.exporter")
        exporter.suspend()
        assert profile.lives_on(SILENCE_S + 1.0)
        exporter.resume()
        profile.until_phase("idle")
