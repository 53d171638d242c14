"""Small questions to an engine over HTTP: is it healthy, does it complete, what does it say of itself."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from servers.base import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_POLL_S = 0.2
_ASK = aiohttp.ClientTimeout(total=5.0)
# The first completion of a real engine may compile kernels.
_FIRST_COMPLETION = aiohttp.ClientTimeout(total=120.0)


@dataclass(frozen=True, slots=True)
class Identity:
    """What an engine says of itself; None where it does not say."""

    model: str
    root: str | None
    version: str | None
    max_model_tokens: int | None
    simulated: bool


async def _json(session: aiohttp.ClientSession, url: str) -> Any:  # noqa: ANN401 - JSON has no narrower type
    async with session.get(url, timeout=_ASK) as response:
        if response.status != 200:
            return None
        try:
            return json.loads(await response.read())
        except ValueError:
            return None


async def identify(session: aiohttp.ClientSession, url: str, names: Collection[str] = ()) -> Identity:
    """Return what the engine at `url` serves: the first model, or the first that goes by one of `names`.

    Raises:
        ServerError: it has no model list, or not the model asked for.
    """
    listing = await _json(session, f"{url}/v1/models")
    cards = listing.get("data") if isinstance(listing, dict) else None
    if not cards or not all(isinstance(card, dict) and "id" in card for card in cards):
        raise ServerError(
            f"{url} answers, but not like an engine: /v1/models lists no model",
            hint="give the base URL of a vLLM-compatible server, e.g. http://host:8000",
            exit_code=2,
        )
    wanted = {name.lower() for name in names}
    chosen = next((card for card in cards if not wanted or wanted & _names(card)), None)
    if chosen is None:
        served = ", ".join(card["id"] for card in cards)
        raise ServerError(
            f"{url} does not serve {next(iter(names))}; it serves {served}",
            hint="name one of these, or leave MODEL out",
            exit_code=2,
        )
    version = await _json(session, f"{url}/version")
    told = version if isinstance(version, dict) else {}
    return Identity(
        model=chosen["id"],
        root=chosen.get("root"),
        version=told.get("version"),
        max_model_tokens=chosen.get("max_model_len"),
        simulated=bool(told.get("simulated")),
    )


def _names(card: dict[str, Any]) -> set[str]:
    """Return what a model card goes by: its id, and the repository or directory behind it."""
    return {str(card[key]).lower() for key in ("id", "root") if card.get(key)}


async def complete_once(session: aiohttp.ClientSession, url: str, model: str) -> str | None:
    """Ask for one token; return None when it came, else what came instead."""
    body = {"model": model, "prompt": [300, 301, 302, 303], "max_tokens": 1, "temperature": 0.0}
    async with session.post(f"{url}/v1/completions", json=body, timeout=_FIRST_COMPLETION) as response:
        text = await response.text()
        if response.status != 200:
            return f"HTTP {response.status}: {text[:200]}"
        return None if '"choices"' in text else f"no choices in {text[:200]!r}"


async def wait_ready(url: str, model: str, failure: Callable[[], str | None], timeout_s: float) -> Identity:
    """Poll until the engine is healthy and has answered one real completion; return what it says of itself.

    /health alone is not readiness: vLLM has been seen to turn healthy and die of its first request.

    Raises:
        ServerError: it ended, or was not ready within `timeout_s`.
    """
    last = "it never answered /health"
    try:
        async with asyncio.timeout(timeout_s), aiohttp.ClientSession() as session:
            while True:
                if (why := failure()) is not None:
                    raise ServerError(f"the engine {why}")
                try:
                    async with session.get(f"{url}/health", timeout=_ASK) as response:
                        healthy = response.status == 200
                    last = "/health is not 200" if not healthy else last
                    if healthy:
                        last = await complete_once(session, url, model) or ""
                        if not last:
                            return await identify(session, url, (model,))
                        last = f"it is healthy but its first completion failed: {last}"
                except (aiohttp.ClientError, TimeoutError) as error:
                    last = last or f"it is not reachable yet ({type(error).__name__})"
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise ServerError(
            f"the engine was not ready after {timeout_s:.0f} s: {last}",
            hint="raise --start-timeout if it was still loading; its log is server.log in the run directory",
        ) from None
