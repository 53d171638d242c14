"""The dialect over real HTTP on loopback, against what vLLM was seen to answer."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from servers.models import find_model
from servers.sim.app import App, listen, stop
from servers.sim.device import SimDevice
from servers.sim.drivers import RealTimeDriver
from servers.sim.engine import Engine, EngineConfig
from servers.sim.faults import EngineFaults
from servers.sim.hardware import find_hardware
from servers.sim.recorder import Recorder
from servers.sim.service import Service
from servers.sim.tokens import Tokenizer
from servers.sim.truth import read_requests, read_step_requests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

MODEL = "gpt2"


@dataclass
class Served:
    """A served engine and a session to it."""

    service: Service
    device: SimDevice
    session: aiohttp.ClientSession

    async def post(self, path: str, **body: object) -> tuple[int, Any]:
        """Return status and JSON of an answer."""
        async with self.session.post(path, json=body) as response:
            return response.status, await response.json(content_type=None)

    async def stream(self, path: str, **body: object) -> list[Any]:
        """Return a stream's events, parsed; the end mark as it is."""
        async with self.session.post(path, json={"stream": True, **body}) as response:
            assert response.status == 200
            assert response.headers["Content-Type"].startswith("text/event-stream")
            frames = (await response.read()).decode().split("\n\n")
        assert frames.pop() == ""
        assert all(frame.startswith("data: ") for frame in frames)
        texts = [frame.removeprefix("data: ") for frame in frames]
        return [text if text == "[DONE]" else json.loads(text) for text in texts]

    async def metrics(self) -> dict[str, float]:
        """Return every sample of /metrics whose labels are only the model's, by name."""
        async with self.session.get("/metrics") as response:
            text = await response.text()
        plain = {"engine", "model_name"}
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {sample.name: sample.value for sample in samples if set(sample.labels) <= plain}


@asynccontextmanager
async def served(model: str = MODEL, faults: EngineFaults | None = None, **limits: int) -> AsyncIterator[Served]:
    """Serve a model on a simulated H100 in this process."""
    with TemporaryDirectory() as folder:
        device = SimDevice.create(Path(folder), "h100-sxm")
        engine = Engine(EngineConfig(find_model(model), find_hardware("h100-sxm"), **limits))
        recorder = Recorder([device])
        tokenizer = Tokenizer(engine.config.model.vocab_size)
        service = Service(engine, recorder, tokenizer, faults or EngineFaults(), 0)
        driver = RealTimeDriver(engine, recorder, service.prepare, lambda: service.is_stalled)
        service.metrics.lag = driver.lag
        runner = await listen(App(service, model, driver.wake).build(), "127.0.0.1", 0)
        task = asyncio.create_task(driver.run())
        port = runner.addresses[0][1]
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
                yield Served(service, device, session)
        finally:
            task.cancel()
            await asyncio.wait([task])
            await stop(runner)
            recorder.close()


def on_server(check: Callable[[Served], Awaitable[None]], model: str = MODEL, max_num_seqs: int = 256) -> None:
    """Run a check against a fresh server."""

    async def run() -> None:
        async with served(model, max_num_seqs=max_num_seqs) as server:
            await check(server)

    asyncio.run(run())


def test_a_token_id_prompt_streams_exactly_its_tokens() -> None:
    """With ignore_eos every asked token arrives, one id an event, and the usage records agree with them."""

    async def check(server: Served) -> None:
        events = await server.stream(
            "/v1/completions",
            model=MODEL,
            prompt=[300, 301, 302],
            max_tokens=20,
            ignore_eos=True,
            return_token_ids=True,
            stream_options={"include_usage": True, "continuous_usage_stats": True},
        )
        *tokens, last, done = events
        assert done == "[DONE]"
        assert [len(event["choices"][0]["token_ids"]) for event in tokens] == [1] * 20
        assert tokens[0]["choices"][0]["prompt_token_ids"] == [300, 301, 302]
        assert [event["usage"]["completion_tokens"] for event in tokens] == list(range(1, 21))
        assert [event["choices"][0]["finish_reason"] for event in tokens] == [None] * 19 + ["length"]
        assert last["choices"] == []
        assert last["usage"] == {"prompt_tokens": 3, "total_tokens": 23, "completion_tokens": 20}
        text = "".join(event["choices"][0]["text"] for event in tokens)
        ids = [event["choices"][0]["token_ids"][0] for event in tokens]
        assert server.service.tokenizer.encode(text) == ids

    on_server(check)


def test_a_stream_sends_each_token_at_its_step_s_end() -> None:
    """Tokens arrive apart, not in one piece: the first is there long before the last."""

    async def check(server: Served) -> None:
        loop = asyncio.get_running_loop()
        body = {"prompt": [300], "max_tokens": 100, "ignore_eos": True, "stream": True}
        async with server.session.post("/v1/completions", json=body) as response:
            stamps = [loop.time() async for line in response.content if line.startswith(b"data: {")]
        assert len(stamps) == 100
        assert stamps[-1] - stamps[0] > 0.06

    on_server(check)


def test_usage_is_null_or_absent_as_asked() -> None:
    """Without stream options no event has usage; with include_usage alone only the last one's is not null."""

    async def check(server: Served) -> None:
        plain = await server.stream("/v1/completions", prompt=[300], max_tokens=2, ignore_eos=True)
        assert len(plain) == 3
        assert all("usage" not in event for event in plain[:-1])
        asked = await server.stream(
            "/v1/completions", prompt=[300], max_tokens=2, ignore_eos=True, stream_options={"include_usage": True}
        )
        assert [event["usage"] is None for event in asked[:-1]] == [True, True, False]

    on_server(check)


def test_prompts_of_every_form_are_answered_whole() -> None:
    """A string, ids, a list of strings and a list of id lists each give one choice per prompt, counted together."""

    async def check(server: Served) -> None:
        for prompt, choices, tokens in (
            ("abc abc", 1, 3),
            ([5, 6], 1, 2),
            (["abc", "xyzxyz"], 2, 3),
            ([[7], [8, 9]], 2, 3),
        ):
            status, answer = await server.post("/v1/completions", prompt=prompt, max_tokens=4, ignore_eos=True)
            assert status == 200
            assert [choice["index"] for choice in answer["choices"]] == list(range(choices))
            assert answer["usage"]["prompt_tokens"] == tokens
            assert answer["usage"]["completion_tokens"] == 4 * choices

    on_server(check)


def test_chat_speaks_in_deltas() -> None:
    """The first delta names the role, the content arrives token by token, and the whole form has a message."""

    async def check(server: Served) -> None:
        messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
        options = {"messages": messages, "max_completion_tokens": 3, "ignore_eos": True}
        events = await server.stream("/v1/chat/completions", **options)
        assert events[0]["object"] == "chat.completion.chunk"
        assert [event["choices"][0]["delta"].get("role") for event in events[:-1]] == ["assistant", None, None]
        _, answer = await server.post("/v1/chat/completions", **options)
        assert answer["choices"][0]["message"]["role"] == "assistant"
        assert answer["usage"]["completion_tokens"] == 3

    on_server(check)


def test_a_request_keeps_the_name_its_client_gave() -> None:
    """The header's request id, or the body's, is in the answer's id and in the device's truth."""

    async def check(server: Served) -> None:
        body = {"prompt": [300], "max_tokens": 1}
        async with server.session.post("/v1/completions", json=body, headers={"X-Request-Id": "r7"}) as response:
            assert (await response.json())["id"] == "cmpl-r7"
        _, answer = await server.post("/v1/completions", **body, request_id="r8")
        assert answer["id"] == "cmpl-r8"
        assert [request.request_id for request in read_requests(server.device)] == ["cmpl-r7", "cmpl-r8"]

    on_server(check)


def test_a_model_may_end_by_itself_unless_told_not_to() -> None:
    """Without ignore_eos some seeds end early, for which min_tokens sets a floor, and the same seed says the same."""

    async def check(server: Served) -> None:
        lengths = {}
        for seed in range(30):
            _, answer = await server.post("/v1/completions", prompt=[300], max_tokens=80, min_tokens=20, seed=seed)
            count, reason = answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]
            assert 20 <= count <= 80
            assert (reason == "stop") or count == 80
            lengths[seed] = (count, answer["choices"][0]["text"])
        assert len({count for count, _ in lengths.values()}) > 2
        _, again = await server.post("/v1/completions", prompt=[300], max_tokens=80, min_tokens=20, seed=3)
        assert (again["usage"]["completion_tokens"], again["choices"][0]["text"]) == lengths[3]

    on_server(check)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"prompt": [1], "model": "other"}, 404, "does not exist"),
        ({"prompt": [1] * 1024}, 400, "maximum context length is 1024"),
        ({"prompt": []}, 400, "empty"),
        ({"prompt": ""}, 400, "empty"),
        ({}, 400, "prompt must be"),
        ({"prompt": [1, "a"]}, 400, "prompt must be"),
        ({"prompt": [50257]}, 400, "out of vocabulary"),
        ({"prompt": [-1]}, 400, "out of vocabulary"),
        ({"prompt": [1], "max_tokens": 0}, 400, "at least 1"),
        ({"prompt": [1], "max_tokens": "5"}, 400, "integer"),
        ({"prompt": [1], "max_tokens": 2, "min_tokens": 3}, 400, "min_tokens"),
        ({"prompt": [1], "n": 2}, 400, "n must be 1"),
        ({"prompt": [1], "stream_options": 3}, 400, "stream_options"),
    ],
)
def test_refusals_are_vllm_s(body: dict[str, object], status: int, says: str) -> None:
    """What is malformed, too long or of another model gets its status and an error object, streaming or not."""

    async def check(server: Served) -> None:
        for stream in (False, True):
            got, answer = await server.post("/v1/completions", **body, stream=stream)
            assert got == status
            assert set(answer["error"]) == {"message", "type", "param", "code"}
            assert answer["error"]["code"] == status
            assert says in answer["error"]["message"]

    on_server(check)


def test_a_body_that_is_no_json_is_refused() -> None:
    """Broken JSON, or JSON that is no object, is a 400."""

    async def check(server: Served) -> None:
        for body in (b"{", b"[1]", b"\xff"):
            async with server.session.post("/v1/completions", data=body) as response:
                assert response.status == 400

    on_server(check)


def test_an_output_beyond_the_context_is_cut() -> None:
    """A prompt of 1000 with 500 asked at a context of 1024 gives 200 with 24 tokens, as vLLM was seen to do."""

    async def check(server: Served) -> None:
        status, answer = await server.post("/v1/completions", prompt=[300] * 1000, max_tokens=500, ignore_eos=True)
        assert (status, answer["usage"]["completion_tokens"]) == (200, 24)

    on_server(check)


def test_the_small_routes_answer() -> None:
    """Health, ping, version, model list and the tokenizer answer as vLLM's, and say that this is a simulation."""

    async def check(server: Served) -> None:
        for path in ("/health", "/ping"):
            async with server.session.get(path) as response:
                assert response.status == 200
                assert response.headers["server"] == "jouletrace-sim"
        async with server.session.get("/version") as response:
            version = await response.json()
        assert version["simulated"] is True
        assert version["version"].startswith("sim-")
        async with server.session.get("/v1/models") as response:
            (card,) = (await response.json())["data"]
        assert (card["id"], card["max_model_len"], card["root"]) == (MODEL, 1024, "openai-community/gpt2")
        _, told = await server.post("/tokenize", prompt="what is a joule?")
        assert told["count"] == len(told["tokens"])
        _, back = await server.post("/detokenize", tokens=told["tokens"])
        assert back["prompt"] == "what is a joule?"
        assert (await server.post("/detokenize", tokens=[99999]))[0] == 400

    on_server(check)


def test_a_client_that_goes_away_is_aborted() -> None:
    """Closing the connection frees the sequence long before its tokens are all made."""

    async def check(server: Served) -> None:
        body = {"prompt": [300] * 10, "max_tokens": 1000, "ignore_eos": True, "stream": True}
        async with server.session.post("/v1/completions", json=body) as response:
            await response.content.readline()
            assert server.service.in_flight == 1
            response.close()
        async with asyncio.timeout(0.5):
            while server.service.in_flight:  # noqa: ASYNC110 - the server's own state, seen from its loop
                await asyncio.sleep(0)
        scheduler = server.service.engine.scheduler
        assert scheduler.free_blocks == scheduler.limits.kv_blocks
        assert read_step_requests(server.device)["decode_tokens"].sum() < 500
        assert server.service.metrics.successes["abort"] == 1
        assert (await server.post("/v1/completions", prompt=[300], max_tokens=2))[0] == 200

    on_server(check)


def test_metrics_count_what_was_served() -> None:
    """Counters and histograms agree with the requests, under vLLM's names, and the simulation accounts for its lag."""

    async def check(server: Served) -> None:
        asked = {"prompt": [300] * 50, "max_tokens": 10, "ignore_eos": True}
        await asyncio.gather(*(server.post("/v1/completions", **asked) for _ in range(5)))
        found = await server.metrics()
        assert found["vllm:prompt_tokens_total"] == 250
        assert found["vllm:generation_tokens_total"] == 50
        assert found["vllm:iteration_tokens_total_sum"] == 250 + 45
        assert found["vllm:inter_token_latency_seconds_count"] == 45
        assert found["vllm:num_preemptions_total"] == 0
        for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
            assert found[f"vllm:{name}"] == 0
        for name in (
            "time_to_first_token_seconds",
            "e2e_request_latency_seconds",
            "request_queue_time_seconds",
            "request_inference_time_seconds",
            "request_prefill_time_seconds",
            "request_decode_time_seconds",
        ):
            assert found[f"vllm:{name}_count"] == 5
        steps = found["jouletrace_sim_steps_total"]
        assert steps >= 10
        assert 0 < found["jouletrace_sim_lag_seconds"] <= found["jouletrace_sim_max_lag_seconds"]
        assert found["jouletrace_sim_step_lag_seconds_total"] <= steps * found["jouletrace_sim_max_lag_seconds"]
        assert found["jouletrace_sim_busy_seconds_total"] == pytest.approx(steps * 1.1e-3, rel=0.2)

    on_server(check)


def test_an_encoder_decoder_is_served() -> None:
    """T5 gives its tokens, with the context for the input and again for the output."""

    async def check(server: Served) -> None:
        status, answer = await server.post("/v1/completions", prompt=[300] * 512, max_tokens=40, ignore_eos=True)
        assert status == 200
        assert answer["usage"] == {"prompt_tokens": 512, "total_tokens": 552, "completion_tokens": 40}
        assert (await server.post("/v1/completions", prompt=[300] * 513, max_tokens=1))[0] == 400

    on_server(check, "t5-3b")


def test_a_full_batch_makes_others_wait() -> None:
    """With two slots eight requests all complete, and the queue time shows that some waited."""

    async def check(server: Served) -> None:
        asked = {"prompt": [300], "max_tokens": 20, "ignore_eos": True}
        answers = await asyncio.gather(*(server.post("/v1/completions", **asked) for _ in range(8)))
        assert all(answer["usage"]["completion_tokens"] == 20 for _, answer in answers)
        assert (await server.metrics())["vllm:request_queue_time_seconds_sum"] > 0.02 * 2

    on_server(check, max_num_seqs=2)


@pytest.mark.parametrize(
    ("faults", "statuses"),
    [(EngineFaults(unready=True), {500}), (EngineFaults(error_share=0.5), {200, 500}), (EngineFaults(), {200})],
)
def test_faults_of_answers_are_errors_as_vllm_words_them(faults: EngineFaults, statuses: set[int]) -> None:
    """An engine that is not ready refuses everything, one that errs refuses a share, and /health knows of neither."""

    async def run() -> None:
        async with served(faults=faults) as server:
            async with server.session.get("/health") as response:
                assert response.status == 200
            answers = [await server.post("/v1/completions", prompt=[1], max_tokens=1) for _ in range(20)]
            assert {status for status, _ in answers} == statuses
            assert all(answer["error"]["code"] == 500 for status, answer in answers if status == 500)

    asyncio.run(run())


def test_a_short_answer_lacks_one_token() -> None:
    """The fault of a short output gives one token fewer than asked, and says so in usage."""

    async def run() -> None:
        async with served(faults=EngineFaults(short_output=True)) as server:
            _, answer = await server.post("/v1/completions", prompt=[1], max_tokens=10, ignore_eos=True)
            assert answer["usage"]["completion_tokens"] == 9

    asyncio.run(run())


def test_a_stalled_engine_accepts_and_never_answers() -> None:
    """After the fault's number of answers a request gets no token, and the GPU stays held at idle power."""

    async def run() -> None:
        async with served(faults=EngineFaults(stall_after_requests=1)) as server:
            assert (await server.post("/v1/completions", prompt=[1], max_tokens=1))[0] == 200
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await server.post("/v1/completions", prompt=[1], max_tokens=1)

    asyncio.run(run())
