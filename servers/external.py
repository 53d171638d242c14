"""A `Server` that somebody else started: attached to by URL, never stopped."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from urllib.parse import urlsplit

import aiohttp
import psutil

from servers.base import Endpoint, ServerError
from servers.http import complete_once, identify
from servers.process import listener_pid


class ExternalServer:
    """An engine at a URL. It has to serve a model that goes by one of `names`; any, when there are none."""

    def __init__(self, url: str, names: tuple[str, ...], vocab_size: int | None) -> None:
        self.url = url.rstrip("/")
        self._names = names
        self._vocab_size = vocab_size

    async def start(self) -> Endpoint:
        """Ask who is there and for one real completion.

        Raises:
            ServerError: nobody answers, or not an engine.
        """
        try:
            async with aiohttp.ClientSession() as session:
                told = await identify(session, self.url, self._names)
                wrong = await complete_once(session, self.url, told.model)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise ServerError(
                f"no engine answers at {self.url}: {reason}",
                hint="check the address, or leave URL out to launch one",
            ) from error
        if wrong is not None:
            raise ServerError(f"the engine at {self.url} failed its first completion: {wrong}", hint="see its own log")
        return Endpoint(
            url=self.url,
            model=told.model,
            engine="sim" if told.simulated else "external",
            version=told.version,
            max_model_tokens=told.max_model_tokens,
            vocab_size=self._vocab_size,
            simulated=told.simulated,
        )

    def failure(self) -> str | None:
        """Return None: whether a server not ours is alive shows in its answers."""
        return None

    def pids(self) -> frozenset[int]:
        """Return the processes behind the URL's port when it is on this host and the system tells; else none."""
        parts = urlsplit(self.url)
        if not _is_local(parts.hostname or ""):
            return frozenset()
        pid = listener_pid(parts.port or (443 if parts.scheme == "https" else 80))
        if pid is None:
            return frozenset()
        with contextlib.suppress(psutil.NoSuchProcess):
            return frozenset({pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))})
        return frozenset()

    async def stop(self) -> None:
        """Do nothing: it is not ours to stop."""
        await asyncio.sleep(0)


def _is_local(host: str) -> bool:
    with contextlib.suppress(OSError):
        addresses = {str(item[4][0]) for item in socket.getaddrinfo(host, None)}
        own = {str(a.address) for group in psutil.net_if_addrs().values() for a in group}
        return any(ipaddress.ip_address(a.split("%")[0]).is_loopback or a in own for a in addresses)
    return False
