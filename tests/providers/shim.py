"""What the shims of the providers' APIs share: a server on loopback whose routes are methods."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from aiohttp import web
from requests_toolbelt import MultipartDecoder

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Received:
    """A request that arrived: ``path`` as it was sent, without its query."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body, decoded."""
        return json.loads(self.body)

    def form(self) -> dict[str, bytes]:
        """Return the fields of a multipart form."""
        fields = {}
        for part in MultipartDecoder(self.body, self.headers["Content-Type"]).parts:
            name = re.search(rb'[; ]name="([^"]*)"', part.headers[b"Content-Disposition"])
            assert name, part.headers
            fields[name[1].decode()] = part.content
        return fields


@dataclass(frozen=True)
class Reply:
    """What a request is answered with; a body that is not bytes becomes JSON."""

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> web.Response:
        """Return it as aiohttp sends it."""
        is_raw = isinstance(self.body, bytes)
        body = self.body if is_raw else json.dumps(self.body, ensure_ascii=False).encode()
        content_type = "application/octet-stream" if is_raw else "application/json"
        return web.Response(status=self.status, body=body, headers={"Content-Type": content_type, **self.headers})


#: A method, a pattern of the whole path as it was sent, and what responds, given what the pattern's groups match.
Route: TypeAlias = tuple[str, str, Callable[..., Reply]]


class Shim:
    """A server on a thread of its own, on a loopback port of its own, that responds to one request at a time."""

    def __init__(self) -> None:
        self.port = 0
        self.received: list[Received] = []
        self._loop = asyncio.new_event_loop()
        self._lock = asyncio.Lock()

    def routes(self) -> Sequence[Route]:
        """Return the routes; the first one that matches responds."""
        raise NotImplementedError

    def refuse(self, request: Received) -> Reply | None:
        """Return why a request is refused before it is routed, if it is."""
        return None

    def __enter__(self) -> Any:
        self._thread = threading.Thread(target=self._loop.run_forever, name=type(self).__name__, daemon=True)
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=10)

    async def _listen(self) -> None:
        server = web.Server(self._handle, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        body = await request.read()
        received = Received(request.method, path, dict(parse_qsl(query)), request.headers, body)
        async with self._lock:
            self.received.append(received)
            # A thread, since a shim calls the object stores with blocking calls.
            reply = await asyncio.to_thread(self._reply, received)
        return reply.response()

    def _reply(self, request: Received) -> Reply:
        if (refusal := self.refuse(request)) is not None:
            return refusal
        for method, pattern, respond in self.routes():
            if method == request.method and (match := re.fullmatch(pattern, request.path)):
                return respond(request, *match.groups())
        return Reply(404, {"message": f"No route for {request.method} {request.path}"})
