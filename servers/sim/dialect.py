"""vLLM's dialect of the OpenAI API: request bodies to calls, tokens to events, refusals to its errors. Pure.

Events are assembled from pieces escaped once per request: at 9,000 tokens a second, serialising an object per token
would cost a third of a core.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from servers.sim.tokens import json_text

if TYPE_CHECKING:
    from servers.sim.tokens import Tokenizer

# What a completion gets when it names no length; vLLM's and OpenAI's default.
_DEFAULT_MAX_TOKENS = 16


class ApiError(Exception):
    """A refusal, as vLLM words it."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param

    def body(self) -> str:
        """Return the JSON that answers the request."""
        kind = {400: "BadRequestError", 404: "NotFoundError"}.get(self.status, "InternalServerError")
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.status}
        return _compact({"error": error})


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Limits:
    """What a prompt and an output may be, in tokens. With an encoder each has the whole length to itself."""

    max_model_len: int
    encoder_decoder: bool

    def room(self, prompt_tokens: int) -> int:
        """Return the longest output after a prompt.

        Raises:
            ApiError: the prompt leaves none.
        """
        limit = self.max_model_len
        if prompt_tokens > limit - (not self.encoder_decoder):
            raise ApiError(
                400,
                f"This model's maximum context length is {limit} tokens. However, your request has {prompt_tokens} "
                "input tokens. Please reduce the length of the input messages.",
                "input_tokens",
            )
        return limit - 1 if self.encoder_decoder else limit - prompt_tokens


@dataclass(frozen=True, slots=True)
class Call:
    """A completion as asked, one `prompts` entry per choice. `max_tokens` has one entry per prompt."""

    chat: bool
    prompts: tuple[list[int], ...]
    max_tokens: tuple[int, ...]
    min_tokens: int
    ignore_eos: bool
    stream: bool
    include_usage: bool
    continuous_usage: bool
    return_token_ids: bool
    seed: int | None
    request_id: str | None


def parse_call(body: object, *, chat: bool, model: str, tokenizer: Tokenizer, limits: Limits) -> Call:
    """Return what a request body asks for.

    Raises:
        ApiError: malformed, another model, or a prompt that does not fit.
    """
    if not isinstance(body, dict):
        raise ApiError(400, "the request body must be a JSON object")
    named = body.get("model")
    if named is not None and named != model:
        raise ApiError(404, f"The model `{named}` does not exist.", "model")
    if _integer(body, "n", 1) != 1:
        raise ApiError(400, "the simulated engine gives one choice per prompt: n must be 1", "n")
    prompts = (_chat_prompt(body, tokenizer),) if chat else _prompts(body, tokenizer)
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise ApiError(400, "stream_options must be an object", "stream_options")
    max_tokens = _max_tokens(body, chat=chat, rooms=[limits.room(len(prompt)) for prompt in prompts])
    min_tokens = _integer(body, "min_tokens", 0)
    if not 0 <= min_tokens <= _integer(body, "max_tokens", min_tokens):
        raise ApiError(400, f"min_tokens must be from 0 to max_tokens, got {min_tokens}.", "min_tokens")
    request_id = body.get("request_id")
    return Call(
        chat=chat,
        prompts=prompts,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        ignore_eos=bool(body.get("ignore_eos")),
        stream=bool(body.get("stream")),
        include_usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("continuous_usage_stats")),
        return_token_ids=bool(body.get("return_token_ids")),
        seed=None if body.get("seed") is None else _integer(body, "seed", 0),
        request_id=None if request_id is None else str(request_id),
    )


def _integer(body: dict[str, Any], name: str, default: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise ApiError(400, f"{name} must be an integer, got {value!r}", name)
    return value


def _max_tokens(body: dict[str, Any], *, chat: bool, rooms: list[int]) -> tuple[int, ...]:
    """Return the output limits: as asked, cut to the room there is. vLLM cuts too instead of refusing."""
    name = "max_completion_tokens" if chat and body.get("max_completion_tokens") is not None else "max_tokens"
    asked = _integer(body, name, max(rooms) if chat else _DEFAULT_MAX_TOKENS)
    if asked < 1:
        raise ApiError(400, f"{name} must be at least 1, got {asked}.", name)
    return tuple(min(asked, room) for room in rooms)


def _prompts(body: dict[str, Any], tokenizer: Tokenizer) -> tuple[list[int], ...]:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        return tuple(_prompt(one, tokenizer) for one in prompt)
    return (_prompt(prompt, tokenizer),)


def _prompt(prompt: object, tokenizer: Tokenizer) -> list[int]:
    if isinstance(prompt, str):
        ids = tokenizer.encode(prompt)
    elif isinstance(prompt, list) and all(type(token) is int for token in prompt):
        ids = prompt
    else:
        raise ApiError(400, "prompt must be a string, a list of token ids, or a list of either", "prompt")
    if not ids:
        raise ApiError(400, "The decoder prompt cannot be empty", "prompt")
    if min(ids) < 0 or max(ids) >= tokenizer.vocab_size:
        raise ApiError(400, f"Token id {max(ids, key=abs)} is out of vocabulary", "prompt")
    return ids


def chat_text(messages: object) -> str:
    """Return a conversation as one text.

    Raises:
        ApiError: not a list of messages.
    """
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise ApiError(400, "messages must be a list of objects with role and content", "messages")
    turns = (f"{message.get('role')}\n{_content(message.get('content'))}\n" for message in messages)
    return "".join(turns) + "assistant\n"


def _content(content: object) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


def _chat_prompt(body: dict[str, Any], tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode(chat_text(body.get("messages")))


@dataclass(frozen=True, slots=True)
class Header:
    """What all events of an answer share."""

    identity: str
    created: int
    model: str
    chat: bool

    def fields(self, *, stream: bool) -> dict[str, Any]:
        """Return the fields in the order vLLM has them."""
        kind = ("chat.completion.chunk" if stream else "chat.completion") if self.chat else "text_completion"
        return {"id": self.identity, "object": kind, "created": self.created, "model": self.model}


def usage(prompt_tokens: int, output_tokens: int) -> dict[str, int]:
    """Return the usage record."""
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + output_tokens,
        "completion_tokens": output_tokens,
    }


class TokenEvents:
    """Makes one choice's stream events."""

    def __init__(self, call: Call, index: int, header: Header, tokenizer: Tokenizer) -> None:
        shared = _compact(header.fields(stream=True))[:-1]
        self._head = f'data: {shared},"choices":[{{"index":{index},'
        self._chat = call.chat
        self._ids = call.return_token_ids
        self._prompt = call.prompts[index]
        self._continuous = call.continuous_usage
        self._usage_null = call.include_usage and not call.continuous_usage
        self._tokenizer = tokenizer

    def event(self, token: int, count: int, finish_reason: str | None) -> bytes:
        """Return the event of the `count`-th token as bytes of a chunked HTTP body."""
        text = '""' if finish_reason == "stop" else json_text(self._tokenizer, token)
        if self._chat:
            role = '"role":"assistant",' if count == 1 else ""
            choice = f'"delta":{{{role}"content":{text}}}'
        else:
            choice = f'"text":{text}'
        ends = "null" if finish_reason is None else f'"{finish_reason}"'
        told = ""
        if self._ids:
            prompt = f'"prompt_token_ids":{_compact(self._prompt)},' if count == 1 else ""
            told = f',{prompt}"token_ids":[{token}]'
        used = ""
        if self._continuous:
            used = f',"usage":{_compact(usage(len(self._prompt), count))}'
        elif self._usage_null:
            used = ',"usage":null'
        line = f'{self._head}{choice},"logprobs":null,"finish_reason":{ends},"stop_reason":null{told}}}]{used}}}'
        return http_chunk(f"{line}\n\n".encode())


def last_events(call: Call, header: Header, output_tokens: int) -> bytes:
    """Return what closes a stream: the usage record if asked for, and the end mark."""
    record = b""
    if call.include_usage:
        used = usage(sum(map(len, call.prompts)), output_tokens)
        record = f"data: {_compact({**header.fields(stream=True), 'choices': [], 'usage': used})}\n\n".encode()
    return record + b"data: [DONE]\n\n"


def http_chunk(data: bytes) -> bytes:
    """Return `data` as a chunk of a chunked HTTP body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass(frozen=True, slots=True)
class Output:
    """A finished choice."""

    tokens: list[int]
    finish_reason: str


def whole_answer(call: Call, header: Header, outputs: list[Output], tokenizer: Tokenizer) -> str:
    """Return the JSON that answers a call that did not ask for a stream."""
    choices = [_choice(call, index, output, tokenizer) for index, output in enumerate(outputs)]
    used = usage(sum(map(len, call.prompts)), sum(len(output.tokens) for output in outputs))
    return _compact({**header.fields(stream=False), "choices": choices, "usage": used})


def _choice(call: Call, index: int, output: Output, tokenizer: Tokenizer) -> dict[str, Any]:
    text = tokenizer.decode(output.tokens[:-1] if output.finish_reason == "stop" else output.tokens)
    content = {"message": {"role": "assistant", "content": text}} if call.chat else {"text": text}
    ids = {"prompt_token_ids": call.prompts[index], "token_ids": output.tokens} if call.return_token_ids else {}
    rest = {"logprobs": None, "finish_reason": output.finish_reason, "stop_reason": None}
    return {"index": index, **content, **rest, **ids}
