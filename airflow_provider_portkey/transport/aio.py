"""
Requests with ``aiohttp``, in the triggerer: sessions that the waits of a connection share.

How this works. A triggerer runs thousands of waits on one event loop. All that use equal settings there share one
:class:`SharedSession`: the first to need it opens it, the last to leave closes it. It holds

- the ``aiohttp`` session, with at most ``max_connections`` connections: a thousand waits need no more;
- ``max_connections`` slots. A poll acquires one before it is sent and releases it after. aiohttp has a queue of its own
  for connections, but waiting there would count towards each request's time limit;
- the rate limit: when a response with status 429 or 503 asks to wait (``Retry-After``), no poll of this session is sent
  until then. It fails as rate limited; with ten seconds or less left it is retried within its call, otherwise its wait
  polls later. The last poll, at a wait's deadline, is sent all the same.

A call that cancels a batch happens once: it takes no slot, and is not held up by a rate limit.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from airflow_provider_portkey.exceptions import PortkeyTransientError
from airflow_provider_portkey.failures import network_error, rate_limited, response_too_large
from airflow_provider_portkey.http import MAX_RESPONSE_BYTES, Decompressor, Request, Response
from airflow_provider_portkey.settings import Settings
from airflow_provider_portkey.transport.environment import proxy_url, ssl_context

if TYPE_CHECKING:
    import ssl

    import aiohttp

T = TypeVar("T")


class SharedSession:
    """What all users of equal settings on an event loop share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.users = 0
        self.session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(settings.max_connections)
        self._opening = asyncio.Lock()
        self._options: dict[str, Any] = {}
        self._blocked_until = -math.inf
        self._blocked_by: PortkeyTransientError | None = None

    async def open(self) -> None:
        """Open the session, unless another user has."""
        async with self._opening:
            if self.session is None:
                # In a thread: importing the libraries and reading CA certificates would block the loop.
                self._options, tls = await asyncio.to_thread(_prepare, self.settings)
                self.session = _open(self.settings, tls)

    async def call(
        self, request: Request, read: Callable[[Response, Request, Settings], T], retry_within: float | None
    ) -> T:
        """
        Send a request, read its response, and apply its rate limit to the other waits.

        :param retry_within: seconds to wait for a slot; ``None`` for no limit
        """
        has_slot = request.method == "GET" and await self._acquire_slot(retry_within)
        try:
            # Without a slot it is a wait's last poll, at its deadline, or a cancellation: the rate limit does not
            # apply to these, since the poll may find the end.
            if has_slot and self._blocked_by and (left := self._blocked_until - time.monotonic()) > 0:
                raise rate_limited(self._blocked_by, left, request, self.settings)
            response = await self._send(request)
        finally:
            if has_slot:
                self._slots.release()
        try:
            return read(response, request, self.settings)
        except PortkeyTransientError as error:
            self._apply_rate_limit(error)
            raise

    async def _acquire_slot(self, within: float | None) -> bool:
        """Wait at most ``within`` seconds for a slot; return whether it was acquired, to be released."""
        if within == 0:
            return False
        if within in (None, math.inf) or not self._slots.locked():
            return await self._slots.acquire()
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                return await self._slots.acquire()
        return False

    def _apply_rate_limit(self, error: PortkeyTransientError) -> None:
        until = time.monotonic() + (error.retry_after or 0)
        # Other statuses may have their cause in one batch alone.
        if error.status_code in (429, 503) and until > max(self._blocked_until, time.monotonic()):
            self._blocked_until, self._blocked_by = until, copy.copy(error)

    async def _send(self, request: Request) -> Response:
        import aiohttp
        from yarl import URL

        assert self.session is not None
        body = bytearray()
        try:
            url = URL(request.url, encoded=True)
            async with self.session.request(request.method, url, **self._options) as response:
                decompressor = Decompressor(response.headers.get("content-encoding"))
                async for chunk in response.content.iter_any():
                    for piece in decompressor.feed(chunk):
                        body += piece
                        if len(body) > MAX_RESPONSE_BYTES:
                            raise response_too_large(request, self.settings)
                decompressor.finish()
                headers = {name.lower(): value for name, value in response.headers.items()}
                return Response(response.status, headers, bytes(body))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = network_error(error, request, self.settings)
        raise failure  # Outside the handler: the original error may quote a secret, and would be its context in there.


_sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Settings, SharedSession]] = WeakKeyDictionary()


@asynccontextmanager
async def shared_session(settings: Settings) -> AsyncIterator[SharedSession]:
    """Yield the session of all who use ``settings`` on this event loop; the last to leave closes it."""
    sessions = _sessions.setdefault(asyncio.get_running_loop(), {})
    shared = sessions.get(settings)
    if shared is None:
        shared = sessions[settings] = SharedSession(settings)
    shared.users += 1
    try:
        if shared.session is None:
            await shared.open()
        yield shared
    finally:
        shared.users -= 1
        if not shared.users:
            del sessions[settings]
            if shared.session is not None:
                await shared.session.close()


def _prepare(settings: Settings) -> tuple[dict[str, Any], ssl.SSLContext | bool]:
    """Return the options of each request, and how to verify certificates. Imports the libraries that sending needs."""
    import aiohttp  # noqa: F401
    import tenacity  # noqa: F401
    from yarl import URL

    # For each request and not for the session, whose headers aiohttp would send to a proxy too.
    options: dict[str, Any] = {"headers": settings.headers, "allow_redirects": False}
    if proxy := proxy_url(settings):
        url = URL(proxy)
        options["proxy"] = url.with_user(None)
        if url.user:
            credentials = base64.b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
            # A tunnel for https has headers of its own; a plain request carries the proxy's among its own.
            kind = "proxy_headers" if settings.base_url.startswith("https:") else "headers"
            options[kind] = {**dict(options.get(kind, ())), "proxy-authorization": f"Basic {credentials}"}
    return options, settings.verify is not False and ssl_context(settings)


def _open(settings: Settings, tls: ssl.SSLContext | bool) -> aiohttp.ClientSession:
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=settings.max_connections, ssl=tls),
        timeout=aiohttp.ClientTimeout(total=settings.timeout, sock_connect=settings.connect_timeout),
        cookie_jar=aiohttp.DummyCookieJar(),
        # aiohttp would declare an empty body an octet-stream, which Portkey rejects.
        skip_auto_headers=["Content-Type"],
        trust_env=False,
        auto_decompress=False,
    )
