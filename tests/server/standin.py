"""A stand-in for Portkey's batch API, served over real HTTP on loopback.

One server plays both ends. A client that authenticates the Portkey way is answered as the hosted service
would; one that brings only the provider's own key is answered as the provider (OpenAI) would, which is what
Portkey's open-source gateway needs behind it. Clients meet real sockets, so nothing of theirs is patched.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeAlias
from urllib.parse import unquote

from aiohttp import BodyPartReader, web
from multidict import CIMultiDict

from tests.server.batches import ECHOED, ENDED, Created, Lines, Respond, Run, Upload, completion, file_object, flaw
from tests.server.batches import batch_body as batch_body

HOST = "127.0.0.1"
_ROUTES = {
    "upload": re.compile("POST /v1/files"),
    "file": re.compile("GET /v1/files/([^/]+)"),
    "content": re.compile("GET /v1/files/([^/]+)/content"),
    "create": re.compile("POST /v1/batches"),
    "list": re.compile("GET /v1/batches"),
    "retrieve": re.compile("GET /v1/batches/([^/]+)"),
    "cancel": re.compile("POST /v1/batches/([^/]+)/cancel"),
}
_MANAGED = "pk_batch_"
_ROUTING_HEADERS = ("x-portkey-virtual-key", "x-portkey-provider", "x-portkey-config")
_BLANKS = b" " * 65_536
_CHUNK = 65_536
#: Where ids begin to count, so that none is like those that tests make up.
_FIRST = 1_001
_PURPOSES = "['fine-tune', 'assistants', 'batch', 'user_data', 'vision', 'evals']"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Answer:
    """What one request is answered, and how badly.

    ``how`` is ``plain``, ``reset`` (the connection breaks before any answer), ``truncate`` (it breaks after
    half the body), ``trickle`` (a byte of the body every ``pause`` seconds), ``flood`` (``size`` bytes of
    blanks follow the body, made as they are sent: a terabyte costs no memory), ``raw`` (the body is all that is
    sent, then the connection closes: it need not be HTTP) or ``drip`` (the same, a byte every ``pause`` seconds).
    ``delay`` seconds come first. With ``after_bytes``, ``reset`` breaks once that much of the request's body was
    read, and ``truncate`` once that much of the answer's was sent.
    """

    status: int = 200
    #: None is an empty one, or in a fault what would have been answered: see `StandIn.fail`.
    body: Mapping[str, object] | str | bytes | Lines | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    how: Literal["plain", "reset", "truncate", "trickle", "flood", "raw", "drip"] = "plain"
    pause: float = 0.05
    size: int = 1 << 40
    after_bytes: int | None = None

    @property
    def spoils(self) -> bool:
        """Whether, as a fault, it says only how the real answer is sent."""
        return self.body is None and self.status == 200 and self.how not in ("reset", "raw", "drip")

    def encoded(self) -> tuple[bytes | Lines, CIMultiDict[str]]:
        """The body's bytes, and headers whose content type follows from the body unless it is given."""
        data: bytes | Lines
        if self.body is None or isinstance(self.body, bytes | Lines):
            data, content_type = self.body or b"", "application/octet-stream"
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
    """Decides what a batch's next GET is answered; a peek at that changes nothing."""

    def next(self) -> Answer: ...

    def peek(self) -> Answer: ...


class _Script:
    """Answers by count; the last one stays."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._left = deque(answers)

    def next(self) -> Answer:
        return self._left.popleft() if len(self._left) > 1 else self._left[0]

    def peek(self) -> Answer:
        return self._left[0]


class _Timeline:
    """Answers by the time since the first GET; the earliest step holds until the second is due."""

    def __init__(self, steps: Sequence[tuple[float, Answer]]) -> None:
        self._steps = steps
        self._began: float | None = None

    def next(self) -> Answer:
        if self._began is None:
            self._began = time.monotonic()
        return self.peek()

    def peek(self) -> Answer:
        elapsed = 0.0 if self._began is None else time.monotonic() - self._began
        return next((answer for at, answer in reversed(self._steps) if at <= elapsed), self._steps[0][1])


class _Course:
    """Answers as a created batch runs."""

    def __init__(self, run: Run, show: Callable[[dict[str, object]], dict[str, object]]) -> None:
        self.run = run
        self._show = show

    def next(self) -> Answer:
        return self.peek()

    def peek(self) -> Answer:
        return Answer(body=self._show(self.run.body()))


@dataclass(frozen=True)
class _Fault:
    """What the next requests of some kind are answered, while there are answers left."""

    method: str
    path: re.Pattern[str]
    answers: deque[Answer]
    after: bool


def _token(headers: Mapping[str, str]) -> str | None:
    """What ``Authorization`` carries; any scheme but Bearer stays in, and so never equals a key."""
    value = headers.get("Authorization")
    return None if value is None else value.removeprefix("Bearer ")


def _provider_error(
    status: int, message: str, code: str | None = None, *, param: str | None = None, hosted: bool
) -> Answer:
    """An error of the provider's: in OpenAI's own shape, or as Portkey hands it on."""
    if hosted:
        message = f"openai error: {message}"
    body = {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}
    if not hosted:
        return Answer(status, body)
    return Answer(status, body | {"provider": "openai"}, {"x-portkey-provider": "openai"})


def _unknown_slug(slug: str) -> Answer:
    return Answer(400, {"status": "failure", "message": f"Following keys are not valid: {slug}"})


async def _parts(request: web.BaseRequest) -> AsyncIterator[BodyPartReader]:
    if request.content_type == "multipart/form-data":
        async for part in await request.multipart():
            if isinstance(part, BodyPartReader):
                yield part


async def _read(request: web.BaseRequest, most: int | None = None) -> None:
    """Take the body, or that much of it: a client that is still sending may miss an answer."""
    while most is None or most > 0:
        chunk = await request.content.read(_CHUNK if most is None else min(most, _CHUNK))
        if not chunk:
            return
        most = None if most is None else most - len(chunk)


def _break(request: web.BaseRequest) -> None:
    """Reset the connection; a plain close would look like an orderly end."""
    if request.transport is not None:
        sock = request.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        request.transport.abort()


class StandIn:
    """Portkey's hosted batch API and the provider behind it, on a loopback port of its own.

    Batches are scripted by a test, or created by a client and then run by the clock. Every attribute without an
    underscore may be changed at any time: that is how a test rotates ``api_key``.
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
        #: What files hold that were uploaded, are a scripted batch's, or came of a created one.
        self.files: dict[str, bytes] = {}
        #: What was uploaded, whole; of what broke off there is only the request.
        self.uploads: list[Upload] = []
        #: Without, uploads are counted and hashed only: a batch made of one has no lines.
        self.keep_uploads = True
        #: What was paid for, in order, whether or not its creator heard of it.
        self.batches: list[Created] = []
        #: How batches run that are created from now on: seconds since then, and the status from there on.
        self.course: Sequence[tuple[float, str]] = ((0, "validating"), (0.3, "in_progress"), (0.8, "completed"))
        #: Answers each line of a created batch's input; a status code of 400 or more belongs in the error file.
        self.respond: Respond = completion
        #: Some providers take metadata and never show it.
        self.drops_metadata = False
        #: Bedrock and Cohere list everything in one answer.
        self.pages = True
        #: How long a batch is being cancelled, in seconds.
        self.cancelling_for = 0.3
        #: What a cancel call is answered instead of the batch: Bedrock's ``{"status": "success"}``, Vertex's ``{}``.
        self.cancel_body: Mapping[str, object] | None = None
        #: Ids, in the order of the cancel calls that were accepted.
        self.cancelled: list[str] = []
        self._ssl_context = ssl_context
        self._plans: dict[str, _Plan] = {}
        self._courses: dict[str, _Course] = {}
        self._generated: dict[str, Lines] = {}
        self._faults: list[_Fault] = []
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

    def generate(self, file_id: str, line: bytes | Callable[[int], bytes], count: int) -> None:
        """Let a file be that many lines, made as they are sent: a gigabyte costs no memory.

        With the same bytes for each the length is announced; else ``line(n)`` makes them and they come in chunks.
        """
        self._generated[unquote(file_id)] = Lines(line, count)

    def fail(self, method: str, path_pattern: str, *answers: Answer, after: bool = False) -> None:
        """Answer the next requests these instead, one each: ``path_pattern`` is to match the whole raw path.

        With ``after`` the real thing takes effect first, and only its answer is replaced. An ``Answer`` with
        nothing but a ``how`` or a ``delay`` leaves the real answer, and says how it is sent.
        """
        self._faults.append(_Fault(method, re.compile(path_pattern), deque(answers), after))

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
        created = next((batch.members for batch in self.batches if batch.id == batch_id), {})
        if isinstance(answer, str):
            answer = Answer(body=batch_body(batch_id, answer) | created)
        elif not isinstance(answer, Answer):
            answer = Answer(body=batch_body(batch_id) | created | dict(answer))
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
                self.files[unquote(file_id)] = "".join(lines).encode()

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
        return await self._send(request, await self._choose(request))

    async def _choose(self, request: web.BaseRequest) -> Answer:
        path = request.raw_path.partition("?")[0]
        answer, after = self._fault(request.method, path)
        if answer is None:
            answer = await self._real(request, path)
        elif answer.spoils:
            if not after:
                await asyncio.sleep(answer.delay)
            real = await self._real(request, path)
            headers, delay = {**real.headers, **answer.headers}, answer.delay if after else 0
            answer = replace(answer, status=real.status, body=real.body, headers=headers, delay=delay)
        elif after:
            await self._real(request, path)
        elif answer.how == "reset" and answer.after_bytes is not None:
            await _read(request, answer.after_bytes)
            return answer
        await _read(request)
        return answer

    def _fault(self, method: str, path: str) -> tuple[Answer | None, bool]:
        for fault in self._faults:
            if fault.answers and fault.method == method and fault.path.fullmatch(path):
                return fault.answers.popleft(), fault.after
        return None, False

    async def _real(self, request: web.BaseRequest, path: str) -> Answer:
        """What the request is answered once it has taken effect."""
        # Routed by the path as it was sent: once decoded, a slash within an id would look like a separator.
        matches = ((name, route.fullmatch(f"{request.method} {path}")) for name, route in _ROUTES.items())
        name, match = next(((name, match) for name, match in matches if match), ("", None))
        if match is None:
            return Answer(404, {"message": "Not Found", "ok": False})
        hosted = self._is_hosted(request.headers)
        refuse = self._portkey_refusal if hosted else self._provider_refusal
        if (refusal := refuse(request.headers)) is not None:
            return refusal
        # With no provider named, Portkey looks among the batches that it manages itself.
        managed = hosted and not any(name in request.headers for name in _ROUTING_HEADERS)
        if name == "upload":
            return await self._upload(request, hosted=hosted)
        if name == "create":
            return await self._create(request, hosted=hosted, managed=managed)
        if name == "list":
            return self._list(request.url.query, hosted=hosted, managed=managed)
        sought = unquote(match[1])
        if name in ("file", "content"):
            return self._file(sought, content=name == "content", hosted=hosted)
        if sought not in self._plans or (managed and not sought.startswith(_MANAGED)):
            return _provider_error(404, f"No batch found with id '{sought}'.", hosted=hosted)
        return self._plans[sought].next() if name == "retrieve" else self._cancel(sought, hosted=hosted)

    async def _upload(self, request: web.BaseRequest, *, hosted: bool) -> Answer:
        purpose = filename = None
        chunks, size, digest = [], 0, hashlib.sha256()
        try:
            async for part in _parts(request):
                if part.name == "purpose":
                    purpose = await part.text()
                elif part.name == "file" and part.filename is not None:
                    filename = part.filename
                    while chunk := await part.read_chunk(_CHUNK):
                        size += len(chunk)
                        digest.update(chunk)
                        if self.keep_uploads:
                            chunks.append(chunk)
        except ValueError:  # So aiohttp says that the form has no boundary or no end.
            return _provider_error(400, "We could not parse the form in the body of your request.", hosted=hosted)
        if filename is None:
            return _provider_error(400, "'file' is a required property", hosted=hosted)
        if purpose is None:
            return _provider_error(400, "'purpose' is a required property", hosted=hosted)
        if purpose != "batch":
            message = f"'{purpose}' is not one of {_PURPOSES} - 'purpose'"
            return _provider_error(400, message, param="purpose", hosted=hosted)
        file_id = f"file-{_FIRST + len(self.uploads)}"
        upload = Upload(file_id, filename, purpose, size, digest.hexdigest(), int(time.time()))
        if self.keep_uploads:
            self.files[file_id] = b"".join(chunks)
        self.uploads.append(upload)
        return self._file(file_id, content=False, hosted=hosted)

    def _content(self, file_id: str) -> bytes | Lines | None:
        return self._generated.get(file_id, self.files.get(file_id))

    def _file(self, file_id: str, *, content: bool, hosted: bool) -> Answer:
        data = self._content(file_id)
        if content and data is not None:
            return Answer(body=data)
        upload = next((upload for upload in self.uploads if upload.file_id == file_id), None)
        if not content and upload is not None:
            told = file_object(file_id, upload.bytes, upload.filename, upload.purpose, upload.created_at)
            return Answer(body=told)
        if data is None:
            return _provider_error(404, f"No such File object: {file_id}", hosted=hosted)
        size = len(data) if isinstance(data, bytes) else data.total()
        return Answer(body=file_object(file_id, size, f"{file_id}.jsonl", "batch_output"))

    async def _create(self, request: web.BaseRequest, *, hosted: bool, managed: bool) -> Answer:
        try:
            body = await request.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return _provider_error(400, "We could not parse the JSON body of your request.", hosted=hosted)
        if (wrong := flaw(body)) is not None:
            message, param, code = wrong
            return _provider_error(400, message, code, param=param, hosted=hosted)
        file_id = body["input_file_id"]
        if self._content(file_id) is None and all(upload.file_id != file_id for upload in self.uploads):
            return _provider_error(400, f"No such File object: {file_id}", param="input_file_id", hosted=hosted)
        batch_id = f"{_MANAGED if managed else 'batch_'}{_FIRST + len(self.batches)}"
        created = Created(batch_id, body, time.monotonic(), int(time.time()))
        run = Run(created, self.course, lambda: self._lines(file_id), lambda: self.respond, self.files.__setitem__)
        self._plans[batch_id] = self._courses[batch_id] = course = _Course(run, self._shown)
        self.batches.append(created)
        return course.next()

    def _lines(self, file_id: str) -> Iterable[bytes]:
        data = self._content(file_id)
        return data if isinstance(data, Lines) else (data or b"").split(b"\n")

    def _shown(self, batch: dict[str, object]) -> dict[str, object]:
        return batch | {"metadata": None} if self.drops_metadata else batch

    def _list(self, query: Mapping[str, str], *, hosted: bool, managed: bool) -> Answer:
        ids = [batch.id for batch in reversed(self.batches) if batch.id.startswith(_MANAGED) == managed]
        if not self.pages:
            return Answer(body={"object": "list", "data": [self._listed(batch_id) for batch_id in ids]})
        limit, after = query.get("limit", "20"), query.get("after")
        if not limit.isdecimal() or not 1 <= int(limit) <= 100:
            message = f"Invalid 'limit': expected a value between 1 and 100, but got {limit} instead."
            return _provider_error(400, message, param="limit", hosted=hosted)
        if after is not None:
            if after not in ids:
                return _provider_error(404, f"No batch found with id '{after}'.", hosted=hosted)
            ids = ids[ids.index(after) + 1 :]
        page = ids[: int(limit)]
        first, last = (page[0], page[-1]) if page else (None, None)
        body = {"object": "list", "data": [self._listed(batch_id) for batch_id in page]}
        return Answer(body=body | {"first_id": first, "last_id": last, "has_more": len(ids) > len(page)})

    def _listed(self, batch_id: str) -> object:
        """The batch as its next GET would show it, or as it runs if a script has something else in store."""
        body = self._plans[batch_id].peek().body
        return body if isinstance(body, Mapping) and "status" in body else self._courses[batch_id].peek().body

    def _cancel(self, batch_id: str, *, hosted: bool) -> Answer:
        plan = self._plans[batch_id]
        body = plan.peek().body
        shown: Mapping[str, object] = body if isinstance(body, Mapping) else {}
        if (status := shown.get("status")) in ENDED:
            return _provider_error(409, f"Cannot cancel a batch with status '{status}'.", hosted=hosted)
        self.cancelled.append(batch_id)
        if status != "cancelling":
            if isinstance(plan, _Course):
                plan.run.cancel(self.cancelling_for)
            else:
                echoed = {name: shown[name] for name in ECHOED if name in shown}
                steps = ((0, "cancelling"), (self.cancelling_for, "cancelled"))
                self.timeline(batch_id, [(at, Answer(body=batch_body(batch_id, to) | echoed)) for at, to in steps])
        answer = self._plans[batch_id].next()
        return answer if self.cancel_body is None else Answer(body=self.cancel_body)

    def _is_hosted(self, headers: Mapping[str, str]) -> bool:
        """Whether Portkey is asked, rather than the provider behind it, who is sent none of its headers."""
        token = _token(headers)
        if "x-portkey-api-key" in headers or token in (None, self.api_key):
            return True
        return token != self.provider_key and any(name.lower().startswith("x-portkey-") for name in headers)

    def _portkey_refusal(self, headers: Mapping[str, str]) -> Answer | None:
        """Portkey's word on a request, then the provider's if Portkey has no stored credential to use."""
        kind = headers.get("content-type", "application/json").partition(";")[0]
        if kind not in ("application/json", "multipart/form-data"):
            return Answer(400, {"status": "failure", "message": "Invalid content type passed"})
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
        if answer.how == "plain" and isinstance(data, bytes):
            return web.Response(status=answer.status, body=data, headers=headers)
        response = web.StreamResponse(status=answer.status, headers=headers)
        if answer.how == "reset":
            _break(request)
            return response
        pieces, length = (iter([data]), len(data)) if isinstance(data, bytes) else (data.pieces(), data.size)
        if answer.how in ("raw", "drip"):
            await self._send_raw(request, b"".join(pieces), answer.pause if answer.how == "drip" else 0)
            return response
        if answer.how != "flood":
            response.content_length = length
        # A client may well turn its back on any of these.
        with suppress(ConnectionError):
            await response.prepare(request)
            if answer.how == "truncate":
                left = answer.after_bytes
                if left is None:
                    left = (len(data) if isinstance(data, bytes) else data.total()) // 2
                for piece in pieces:
                    await response.write(piece[:left])
                    left -= len(piece)
                    if left <= 0:
                        break
                _break(request)
            elif answer.how == "trickle":
                for byte in (piece[n : n + 1] for piece in pieces for n in range(len(piece))):
                    await response.write(byte)
                    await asyncio.sleep(answer.pause)
            else:
                for piece in pieces:
                    await response.write(piece)
                for sent in range(0, answer.size if answer.how == "flood" else 0, len(_BLANKS)):
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
