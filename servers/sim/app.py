"""The HTTP face of the simulated engine: vLLM's routes over `Service`.

A stream's events are written straight to its connection by the step that made them; the handler only opens the
response, sleeps until the last token has left, and closes it.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from servers.sim.dialect import ApiError, Header, Limits, chat_text, last_events, parse_call, whole_answer
from servers.sim.metrics import registry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from servers.sim.dialect import Call
    from servers.sim.service import Service, Stream

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_MAX_BODY_BYTES = 64 * 1024**2


def engine_version() -> str:
    """Return what /version says; nobody can take it for a real engine's."""
    try:
        return f"sim-{version('jouletrace')}"
    except PackageNotFoundError:
        return "sim-unknown"


@dataclass(frozen=True, slots=True)
class App:
    """The routes. `wake` tells the driver that something was queued."""

    service: Service
    served_name: str
    wake: Callable[[], None]

    def build(self) -> web.Application:
        """Return the application."""
        app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[_errors])
        app.on_response_prepare.append(_sign)
        app.add_routes(
            [
                web.post("/v1/completions", self._completions),
                web.post("/v1/chat/completions", self._chat),
                web.get("/v1/models", self._models),
                web.get("/health", _empty),
                web.route("*", "/ping", _empty),
                web.get("/version", _version),
                web.get("/metrics", self._metrics),
                web.post("/tokenize", self._tokenize),
                web.post("/detokenize", self._detokenize),
            ]
        )
        return app

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._complete(request, chat=False)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._complete(request, chat=True)

    async def _complete(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        engine = self.service.engine
        limits = Limits(engine.max_model_len, encoder_decoder=engine.scheduler.limits.encoder_decoder)
        body = await _body(request)
        call = parse_call(body, chat=chat, model=self.served_name, tokenizer=self.service.tokenizer, limits=limits)
        self.service.refuse_if_faulty()
        base = request.headers.get("X-Request-Id") or call.request_id or uuid.uuid4().hex
        header = Header(f"{'chatcmpl' if chat else 'cmpl'}-{base}", int(time.time()), self.served_name, chat)
        if call.stream:
            return await self._stream(request, call, header)
        streams = self.service.submit(call, header, None, time.monotonic_ns())
        self.wake()
        await self._finish(streams)
        outputs = [stream.output() for stream in streams]
        return _json_text(whole_answer(call, header, outputs, self.service.tokenizer))

    async def _stream(self, request: web.Request, call: Call, header: Header) -> web.StreamResponse:
        arrival_ns = time.monotonic_ns()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        response.enable_chunked_encoding()
        writer = await response.prepare(request)
        # The head leaves now, before any token: what follows bypasses the response's writer, which would hold it back.
        if writer is not None:
            writer.send_headers()
        streams = self.service.submit(call, header, request.transport, arrival_ns)
        self.wake()
        await self._finish(streams)
        await response.write(last_events(call, header, sum(len(stream.tokens) for stream in streams)))
        await response.write_eof()
        return response

    async def _finish(self, streams: list[Stream]) -> None:
        """Wait for the last token; a caller that goes away takes its sequences along."""
        try:
            for stream in streams:
                await stream.done
        finally:
            self.service.abort(streams)

    async def _models(self, _request: web.Request) -> web.StreamResponse:
        engine = self.service.engine
        card = {
            "id": self.served_name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "jouletrace-sim",
            "root": engine.config.model.repo_id,
            "parent": None,
            "max_model_len": engine.max_model_len,
        }
        return web.json_response({"object": "list", "data": [card]})

    async def _metrics(self, _request: web.Request) -> web.StreamResponse:
        metrics = self.service.metrics
        metrics.waiting = len(self.service.engine.scheduler.waiting)
        text = generate_latest(registry(metrics, self.served_name))
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _tokenize(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        if not isinstance(body, dict) or not ("messages" in body or isinstance(body.get("prompt"), str)):
            raise ApiError(400, "tokenize needs a prompt or messages")
        text = chat_text(body["messages"]) if "messages" in body else body["prompt"]
        ids = self.service.tokenizer.encode(text)
        limit = self.service.engine.max_model_len
        return web.json_response({"count": len(ids), "max_model_len": limit, "tokens": ids, "token_strs": None})

    async def _detokenize(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        ids = body.get("tokens") if isinstance(body, dict) else None
        known = range(self.service.tokenizer.vocab_size)
        if not isinstance(ids, list) or not all(type(token) is int and token in known for token in ids):
            raise ApiError(400, "detokenize needs tokens: a list of token ids", "tokens")
        return web.json_response({"prompt": self.service.tokenizer.decode(ids)})


async def _body(request: web.Request) -> Any:  # noqa: ANN401 - JSON has no narrower type
    try:
        return json.loads(await request.read())
    except ValueError as error:
        raise ApiError(400, f"the request body is no JSON: {error}") from None


def _json_text(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="application/json")


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return _json_text(error.body(), error.status)


async def _sign(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers["server"] = "jouletrace-sim"


async def _empty(_request: web.Request) -> web.StreamResponse:
    return web.Response()


async def _version(_request: web.Request) -> web.StreamResponse:
    return web.json_response({"version": engine_version(), "simulated": True})


async def listen(app: web.Application, host: str, port: int) -> web.AppRunner:
    """Serve `app`; the caller cleans the runner up.

    Raises:
        OSError: the port is taken.
    """
    # A handler whose client is gone is cancelled, which is what frees its sequences.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner


async def stop(runner: web.AppRunner) -> None:
    """Close the listener and every connection, waiting for none."""
    await asyncio.wait_for(runner.cleanup(), timeout=0.5)
