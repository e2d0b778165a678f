"""A stand-in for Portkey's batch API, served over real HTTP on loopback.

One server plays both ends. A client that authenticates the Portkey way is answered as the hosted service
would; one that brings only the provider's own key is answered as the provider (OpenAI) would, which is what
Portkey's open-source gateway needs behind it. Clients meet real sockets, so nothing of theirs is patched.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias
from urllib.parse import unquote

from aiohttp import web
from multidict import CIMultiDict

HOST = "127.0.0.1"
#: Moments in a batch body are fixed, so that bodies can be compared.
CREATED_AT = 1_760_000_000

# The providers' own words are among these, since Portkey hands them on.
_COMPLETED = {"completed", "complete", "ended", "partially_completed"}
_CUT_SHORT = {"expired", "cancelled", "stopped"}
_NEVER_RAN = {"failed", "file_upload_failed", "batch_start_failed"}
_SECONDS_UNTIL = {"in_progress": 60, "finalizing": 3_000, "cancelling": 3_000, "expired": 86_400}

_ROUTES = re.compile(r"/v1/batches|/v1/batches/(?P<batch>[^/]+)|/v1/files/(?P<file>[^/]+)/content")
_ROUTING_HEADERS = ("x-portkey-virtual-key", "x-portkey-provider", "x-portkey-config")
_BLANKS = b" " * 65_536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def batch_body(batch_id: str, status: str = "in_progress", **fields: object) -> dict[str, object]:
    """A whole batch as documented, plausible for its status; ``fields`` replace or add single members."""
    passed = [status]
    counts = {"total": 100, "completed": 40, "failed": 1}
    files: tuple[str | None, str | None] = (None, None)
    errors = None
    if status in _COMPLETED:
        passed += ["in_progress", "finalizing"]
        counts = {"total": 100, "completed": 98, "failed": 2}
        files = (f"file-{batch_id}-output", f"file-{batch_id}-error")
    elif status in _CUT_SHORT:
        passed += ["in_progress"] if status == "expired" else ["in_progress", "cancelling"]
        counts = {"total": 100, "completed": 60, "failed": 2}
        files = (f"file-{batch_id}-output", f"file-{batch_id}-error")
    elif status in _NEVER_RAN:
        counts = {"total": 0, "completed": 0, "failed": 0}
        error = {"code": "invalid_json_line", "message": "Line 1 is no JSON.", "param": None, "line": 1}
        errors = {"object": "list", "data": [error]}
    elif status == "validating":
        counts = {"total": 0, "completed": 0, "failed": 0}
    else:
        passed += ["in_progress"]

    def moment(name: str) -> int | None:
        return CREATED_AT + _SECONDS_UNTIL.get(name, 3_600) if name in passed else None

    return {
        "id": batch_id,
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "errors": errors,
        "input_file_id": f"file-{batch_id}-input",
        "completion_window": "24h",
        "status": status,
        "output_file_id": files[0],
        "error_file_id": files[1],
        "created_at": CREATED_AT,
        "in_progress_at": moment("in_progress"),
        "expires_at": CREATED_AT + 86_400,
        "finalizing_at": moment("finalizing"),
        "completed_at": moment("completed"),
        "failed_at": moment("failed"),
        "expired_at": moment("expired"),
        "cancelling_at": moment("cancelling"),
        "cancelled_at": moment("cancelled"),
        "request_counts": counts,
        "metadata": None,
    } | fields


@dataclass(frozen=True)
class Answer:
    """What one GET is answered, and how badly.

    ``how`` is ``plain``, ``reset`` (the connection breaks before any answer), ``truncate`` (it breaks after
    half the body), ``trickle`` (a byte of the body every ``pause`` seconds), ``flood`` (``size`` bytes of
    blanks follow the body, made as they are sent: a terabyte costs no memory), ``raw`` (the body is all that is
    sent, then the connection closes: it need not be HTTP) or ``drip`` (the same, a byte every ``pause`` seconds).
    ``delay`` seconds come first.
    """

    status: int = 200
    body: Mapping[str, object] | str | bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    how: Literal["plain", "reset", "truncate", "trickle", "flood", "raw", "drip"] = "plain"
    pause: float = 0.05
    size: int = 1 << 40

    def encoded(self) -> tuple[bytes, CIMultiDict[str]]:
        """The body's bytes, and headers whose content type follows from the body unless it is given."""
        if isinstance(self.body, bytes):
            data, content_type = self.body, "application/octet-stream"
        elif isinstance(self.body, str):
            data, content_type = self.body.encode(), "text/plain; charset=utf-8"
        else:
            data, content_type = json.dumps(self.body).encode(), "application/json"
        headers = CIMultiDict({"Content-Type": content_type})
        headers.update(self.headers)
        return data, headers


#: How a test says an answer: a status, members of a batch in progress, or anything that can come over a wire.
Scripted: TypeAlias = str | Mapping[str, object] | Answer


@dataclass(frozen=True)
class Seen:
    """A request that arrived: ``raw_path`` as it was sent, ``headers`` that ignore case, ``at`` monotonic."""

    method: str
    raw_path: str
    headers: Mapping[str, str]
    at: float


class _Plan(Protocol):
    """Decides what a batch's next GET is answered."""

    def next(self) -> Answer: ...


class _Script:
    """Answers by count; the last one stays."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._left = deque(answers)

    def next(self) -> Answer:
        return self._left.popleft() if len(self._left) > 1 else self._left[0]


class _Timeline:
    """Answers by the time since the first GET; the earliest step holds until the second is due."""

    def __init__(self, steps: Sequence[tuple[float, Answer]]) -> None:
        self._steps = steps
        self._began: float | None = None

    def next(self) -> Answer:
        now = time.monotonic()
        if self._began is None:
            self._began = now
        elapsed = now - self._began
        return next((answer for at, answer in reversed(self._steps) if at <= elapsed), self._steps[0][1])


def _token(headers: Mapping[str, str]) -> str | None:
    """What ``Authorization`` carries; any scheme but Bearer stays in, and so never equals a key."""
    value = headers.get("Authorization")
    return None if value is None else value.removeprefix("Bearer ")


def _provider_error(status: int, message: str, code: str | None = None, *, hosted: bool) -> Answer:
    """An error of the provider's: in OpenAI's own shape, or as Portkey hands it on."""
    if hosted:
        message = f"openai error: {message}"
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    if not hosted:
        return Answer(status, body)
    return Answer(status, body | {"provider": "openai"}, {"x-portkey-provider": "openai"})


def _unknown_slug(slug: str) -> Answer:
    return Answer(400, {"status": "failure", "message": f"Following keys are not valid: {slug}"})


def _break(request: web.BaseRequest) -> None:
    """Reset the connection; a plain close would look like an orderly end."""
    if request.transport is not None:
        sock = request.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        request.transport.abort()


class StandIn:
    """Portkey's hosted batch API and the provider behind it, on a loopback port of its own.

    ``api_key`` may be changed at any time: that is how a test rotates it.
    """

    def __init__(
        self,
        *,
        api_key: str = "pk-standin-0123456789",
        virtual_key: str = "openai-standin",
        provider_key: str = "sk-standin-0123456789",
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.api_key = api_key
        self.virtual_key = virtual_key
        self.provider_key = provider_key
        self.port = port
        self.requests: list[Seen] = []
        self.connections = 0
        #: How many bytes of floods went out, those in the buffers of the way included.
        self.flooded = 0
        self._ssl_context = ssl_context
        self._plans: dict[str, _Plan] = {}
        self._files: dict[str, bytes] = {}
        self._arrived = threading.Condition()

    @property
    def url(self) -> str:
        """Where it listens, as a user might paste it; known once it has started."""
        return f"{'https' if self._ssl_context else 'http'}://{HOST}:{self.port}"

    @property
    def base_url(self) -> str:
        """What Portkey calls the base URL."""
        return f"{self.url}/v1"

    def start(self) -> None:
        """Listen, on a thread of its own: blocking clients and ones with their own loop are both tested."""
        self._socket = self._bind()
        self.port = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stand-in", daemon=True)
        self._thread.start()
        self._run(self._listen())

    def stop(self) -> None:
        """Break whatever is under way, and leave no thread behind."""
        self._run(self._hang_up())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> StandIn:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Within it connections are refused, and those that were open are gone; the port stays the same."""
        self._run(self._hang_up())
        # Bound but not listening, so that connections are refused and nobody else is given the port.
        self._socket = self._bind()
        try:
            yield
        finally:
            self._run(self._listen())

    def script(self, batch_id: str, *answers: Scripted) -> None:
        """Say what consecutive GETs of a batch are answered; the last answer repeats for ever."""
        self._plans[batch_id] = _Script([self._answer(batch_id, answer) for answer in answers])

    def timeline(self, batch_id: str, steps: Sequence[tuple[float, Scripted]]) -> None:
        """Let a batch run by the clock: each step holds from that many seconds after the first GET."""
        self._plans[batch_id] = _Timeline([(at, self._answer(batch_id, answer)) for at, answer in steps])

    def wait_for(self, count: int, timeout: float = 10.0) -> None:
        """Block until that many requests have arrived, so that a test need not sleep."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.requests) >= count, timeout):
                raise TimeoutError(f"{len(self.requests)} of {count} requests arrived within {timeout} s")

    def wait_until_left(self, timeout: float = 10.0) -> None:
        """Block until no client has a connection open."""
        deadline = time.monotonic() + timeout
        while count := sum(connection.transport is not None for connection in self._server.connections):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{count} connections are still open after {timeout} s")
            time.sleep(0.01)

    def _answer(self, batch_id: str, answer: Scripted) -> Answer:
        if isinstance(answer, str):
            answer = Answer(body=batch_body(batch_id, answer))
        elif not isinstance(answer, Answer):
            answer = Answer(body=batch_body(batch_id) | dict(answer))
        if isinstance(answer.body, Mapping):
            self._keep_files(answer.body)
        return answer

    def _keep_files(self, batch: Mapping[str, object]) -> None:
        """Have a line for each request that the batch's counts tell of, in the files that it names."""
        counts = batch.get("request_counts")
        for member, outcome, code in (("output_file_id", "completed", 200), ("error_file_id", "failed", 400)):
            file_id = batch.get(member)
            if isinstance(file_id, str):
                count = counts.get(outcome) if isinstance(counts, Mapping) else None
                lines = (
                    json.dumps({"custom_id": f"request-{n}", "response": {"status_code": code}}) + "\n"
                    for n in range(count if isinstance(count, int) else 1)
                )
                self._files[unquote(file_id)] = "".join(lines).encode()

    def _bind(self) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((HOST, self.port))
        return sock

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=10)

    async def _listen(self) -> None:
        self._server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        self._listener = await self._loop.create_server(self._accept, sock=self._socket, ssl=self._ssl_context)

    async def _hang_up(self) -> None:
        self._listener.close()
        await asyncio.sleep(0.01)  # What was being accepted becomes a connection, and is not left over.
        for connection in self._server.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await self._server.shutdown(timeout=1)

    def _accept(self) -> asyncio.Protocol:
        self.connections += 1
        return self._server()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        with self._arrived:
            self.requests.append(Seen(request.method, request.raw_path, request.headers, time.monotonic()))
            self._arrived.notify_all()
        return await self._send(request, self._choose(request))

    def _choose(self, request: web.BaseRequest) -> Answer:
        # Routed by the path as it was sent: once decoded, a slash within an id would look like a separator.
        match = _ROUTES.fullmatch(request.raw_path.partition("?")[0])
        if match is None or request.method != "GET":
            return Answer(404, {"message": "Not Found", "ok": False})
        hosted = self._is_hosted(request.headers)
        refuse = self._portkey_refusal if hosted else self._provider_refusal
        if (refusal := refuse(request.headers)) is not None:
            return refusal
        if match["file"] is not None:
            file_id = unquote(match["file"])
            if file_id in self._files:
                return Answer(body=self._files[file_id])
            return _provider_error(404, f"No such File object: {file_id}", hosted=hosted)
        if match["batch"] is None:
            return Answer(body={"object": "list", "data": [], "has_more": False})
        batch_id = unquote(match["batch"])
        # With no provider named, Portkey looks among the batches that it manages itself.
        managed = hosted and not any(name in request.headers for name in _ROUTING_HEADERS)
        if batch_id in self._plans and (batch_id.startswith("pk_batch_") or not managed):
            return self._plans[batch_id].next()
        return _provider_error(404, f"No batch found with id '{batch_id}'.", hosted=hosted)

    def _is_hosted(self, headers: Mapping[str, str]) -> bool:
        """Whether Portkey is asked, rather than the provider behind it, who is sent none of its headers."""
        token = _token(headers)
        if "x-portkey-api-key" in headers or token in (None, self.api_key):
            return True
        return token != self.provider_key and any(name.lower().startswith("x-portkey-") for name in headers)

    def _portkey_refusal(self, headers: Mapping[str, str]) -> Answer | None:
        """Portkey's word on a request, then the provider's if Portkey has no stored credential to use."""
        token = _token(headers)
        if headers.get("x-portkey-api-key", token) != self.api_key:
            message = "Portkey Error: Invalid API Key. Error Code: 03"
            error = {"message": message, "code": "03"}
            return Answer(401, {"status": "failure", "message": message, "error": error})
        virtual_key, provider = headers.get("x-portkey-virtual-key"), headers.get("x-portkey-provider")
        if virtual_key not in (None, self.virtual_key):
            return _unknown_slug(virtual_key)
        if provider not in (None, "openai", f"@{self.virtual_key}"):
            return _unknown_slug(provider.removeprefix("@"))
        # A key in the header of its own leaves Authorization to the provider: a stray one breaks the call.
        brought = "x-portkey-api-key" in headers and token not in (None, self.api_key)
        stored = provider != "openai" or virtual_key is not None or "x-portkey-config" in headers
        return self._provider_refusal(headers, hosted=True) if brought or not stored else None

    def _provider_refusal(self, headers: Mapping[str, str], *, hosted: bool = False) -> Answer | None:
        token = _token(headers) or ""
        if token == self.provider_key:
            return None
        message = f"Incorrect API key provided: {token[:8]}{'*' * 12}{token[-4:]}."
        return _provider_error(401, message, "invalid_api_key", hosted=hosted)

    async def _send(self, request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
        await asyncio.sleep(answer.delay)
        data, headers = answer.encoded()
        if answer.how == "plain":
            return web.Response(status=answer.status, body=data, headers=headers)
        response = web.StreamResponse(status=answer.status, headers=headers)
        if answer.how == "reset":
            _break(request)
            return response
        if answer.how in ("raw", "drip"):
            await self._send_raw(request, data, answer.pause if answer.how == "drip" else 0)
            return response
        if answer.how != "flood":
            response.content_length = len(data)
        # A client may well turn its back on any of these.
        with suppress(ConnectionError):
            await response.prepare(request)
            if answer.how == "truncate":
                await response.write(data[: len(data) // 2])
                _break(request)
            elif answer.how == "trickle":
                for position in range(len(data)):
                    await response.write(data[position : position + 1])
                    await asyncio.sleep(answer.pause)
            else:
                await response.write(data)
                for sent in range(0, answer.size, len(_BLANKS)):
                    await response.write(_BLANKS[: answer.size - sent])
                    self.flooded += len(_BLANKS)
        return response

    async def _send_raw(self, request: web.BaseRequest, data: bytes, pause: float) -> None:
        transport = request.transport
        step = 1 if pause else len(data) or 1
        for position in range(0, len(data), step):
            if transport is None or transport.is_closing():
                return
            transport.write(data[position : position + step])
            await asyncio.sleep(pause)
        if transport is not None:
            transport.close()
