"""What every `Server` does, launched here or found running."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import aiohttp
import psutil
import pytest

from servers.base import Server, ServerError
from servers.external import ExternalServer
from servers.launched import LaunchedServer
from servers.models import find_model
from servers.process import free_port
from servers.simulated import SimPlace, sim_launch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MODEL = find_model("gpt2")


def _launched(tmp_path: Path, *extra: str, timeout_s: float = 20.0) -> LaunchedServer:
    place = SimPlace(gpu="h100-sxm", state=tmp_path / "device", host="127.0.0.1", port=free_port())
    launch = sim_launch(MODEL, place, {"load-s": "0.1"}, extra)
    return LaunchedServer(launch, tmp_path / "server.log", start_timeout_s=timeout_s)


@contextlib.asynccontextmanager
async def _server(kind: str, tmp_path: Path) -> AsyncIterator[Server]:
    """Yield a server of the kind that has not been started; whatever stands behind it ends afterwards."""
    behind = _launched(tmp_path)
    try:
        if kind == "launched":
            yield behind
        else:
            endpoint = await behind.start()
            yield ExternalServer(endpoint.url, ("GPT2",), MODEL.vocab_size)
    finally:
        await behind.stop()


@pytest.mark.parametrize("kind", ["launched", "external"])
def test_a_server_is_ready_when_start_returns(kind: str, tmp_path: Path) -> None:
    """After `start` the endpoint answers and names model and limit; its pids live; `stop` may be called twice."""

    async def claim() -> None:
        async with _server(kind, tmp_path) as server:
            endpoint = await server.start()
            assert endpoint.model == "gpt2"
            assert endpoint.max_model_tokens == MODEL.context
            assert endpoint.simulated
            assert server.failure() is None
            assert server.pids()
            assert all(psutil.pid_exists(pid) for pid in server.pids())
            async with aiohttp.ClientSession() as session, session.get(f"{endpoint.url}/health") as response:
                assert response.status == 200
            await server.stop()
            await server.stop()

    asyncio.run(claim())


@pytest.mark.parametrize("kind", ["launched", "external"])
def test_only_what_was_launched_is_stopped(kind: str, tmp_path: Path) -> None:
    """Stopping a launched engine ends it; stopping an attached one leaves it serving."""

    async def claim() -> None:
        async with _server(kind, tmp_path) as server:
            await server.start()
            pids = server.pids()
            await server.stop()
            assert {psutil.pid_exists(pid) for pid in pids} == {kind == "external"}

    asyncio.run(claim())


def test_nobody_at_the_url_is_an_error_with_advice() -> None:
    """A refused connection says so, with the address."""
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ServerError, match=url) as caught:
        asyncio.run(ExternalServer(url, (), None).start())
    assert caught.value.exit_code == 1
    assert caught.value.hint


def test_a_model_the_engine_does_not_serve_is_refused_with_those_it_does(tmp_path: Path) -> None:
    """Attaching for another model than the engine has names the one it has."""

    async def claim() -> None:
        async with _server("launched", tmp_path) as behind:
            endpoint = await behind.start()
            with pytest.raises(ServerError, match="it serves gpt2"):
                await ExternalServer(endpoint.url, ("mistral-7b",), None).start()

    asyncio.run(claim())


@pytest.mark.parametrize(
    ("fault", "words"),
    [("exit-while-loading", "ended with status"), ("oom-while-loading", "out of memory"), ("unready", "not ready")],
)
def test_an_engine_that_does_not_come_up_says_why(fault: str, words: str, tmp_path: Path) -> None:
    """Death, lack of memory and a failing first completion are told apart, and nothing is left running."""

    async def claim() -> None:
        server = _launched(tmp_path, "--fault", fault, timeout_s=3.0)
        try:
            with pytest.raises(ServerError, match=words):
                await server.start()
        finally:
            pids = server.pids()
            await server.stop()
        assert not any(psutil.pid_exists(pid) for pid in pids)

    asyncio.run(claim())
