"""A stand-in for Portkey's batch API, served over real HTTP on loopback.

One server plays two parts. To a client with Portkey's headers it responds as the hosted service does. To a client with
only the provider's key it responds as the provider (OpenAI) does, which is what Portkey's open-source gateway needs
behind it. Clients use real sockets, so nothing in them is patched.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

from aiohttp import BodyPartReader, web

from tests.server.answer import Answer as Answer
from tests.server.answer import Scripted as Scripted
from tests.server.answer import send
from tests.server.batches import (
    ECHOED,
    ENDED,
    Created,
    Lines,
    Respond,
    Run,
    Upload,
    completion,
    file_object,
    find_problem,
    input_line,
    output_line,
)
from tests.server.batches import batch_body as batch_body
from tests.server.credentials import is_hosted, is_managed, portkey_rejection, provider_error, provider_rejection
from tests.server.plans import Course, Plan, Script, Timeline

HOST = "127.0.0.1"
_ROUTES = {
    "upload": re.compile("POST /v1/files"),
    "file": re.compile("GET /v1/files/([^/]+)"),
    "content": re.compile("GET /v1/files/([^/]+)/content"),
    "create": re.compile("POST /v1/batches"),
    "list": re.compile("GET /v1/batches"),
    "retrieve": re.compile("GET /v1/batches/([^/]+)"),
    "cancel": re.compile("POST /v1/batches/([^/]+)/cancel"),
    "output": re.compile("GET /v1/batches/([^/]+)/output"),
}
_MANAGED = "pk_batch_"
_CHUNK = 65_536
#: The number of the first id, so that no id equals one that a test made up.
_FIRST = 1_001
_PURPOSES = "['fine-tune', 'assistants', 'batch', 'user_data', 'vision', 'evals']"


@dataclass(frozen=True)
class Seen:
    """A request that arrived: ``raw_path`` as it was sent, ``headers`` ignore case, ``at`` is monotonic time."""

    method: str
    raw_path: str
    headers: Mapping[str, str]
    at: float


@dataclass(frozen=True)
class _Fault:
    """The responses to the next requests of one kind, while there are some left."""

    method: str
    path: re.Pattern[str]
    answers: deque[Answer]
    after: bool


async def _parts(request: web.BaseRequest) -> AsyncIterator[BodyPartReader]:
    if request.content_type == "multipart/form-data":
        async for part in await request.multipart():
            if isinstance(part, BodyPartReader):
                yield part


async def _read(request: web.BaseRequest, most: int | None = None) -> None:
    """Read the body, or ``most`` bytes of it: a client that is still sending may miss a response."""
    while most is None or most > 0:
        chunk = await request.content.read(_CHUNK if most is None else min(most, _CHUNK))
        if not chunk:
            return
        most = None if most is None else most - len(chunk)


class StandIn:
    """Portkey's hosted batch API and the provider behind it, on a loopback port of its own.

    Batches are scripted by a test, or created by a client and then run by the clock. A test may change every attribute
    without an underscore at any time: that is how it rotates ``api_key``.
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
        #: How many bytes of floods were sent, those in buffers included.
        self.flooded = 0
        #: The content of files by id: those uploaded, and those that scripted and created batches name.
        self.files: dict[str, bytes] = {}
        #: Complete uploads. Of an incomplete one there is only the request.
        self.uploads: list[Upload] = []
        #: If False, uploads are only counted and hashed: a batch made of one has no lines.
        self.keep_uploads = True
        #: Created batches, in order, whether or not the client received the response.
        self.batches: list[Created] = []
        #: How batches run that are created from now on: seconds since the creation, and the status from then on.
        self.course: Sequence[tuple[float, str]] = ((0, "validating"), (0.3, "in_progress"), (0.8, "completed"))
        #: Answers each line of a created batch's input. A status code of 400 or more goes to the error file.
        self.respond: Respond = completion
        #: Some providers accept metadata and never return it.
        self.drops_metadata = False
        #: If False, a list is one page, as with Bedrock and Cohere.
        self.pages = True
        #: How many seconds a batch stays in status ``cancelling``.
        self.cancelling_for = 0.3
        #: The response to a cancellation instead of the batch: Bedrock's ``{"status": "success"}``, Vertex's ``{}``.
        self.cancel_body: Mapping[str, object] | None = None
        #: The ids of accepted cancellations, in order.
        self.cancelled: list[str] = []
        self._ssl_context = ssl_context
        self._plans: dict[str, Plan] = {}
        self._courses: dict[str, Course] = {}
        self._generated: dict[str, Lines] = {}
        self._faults: list[_Fault] = []
        self._arrived = threading.Condition()

    @property
    def url(self) -> str:
        """Where it listens, as a user would paste it. Known after the start."""
        return f"{'https' if self._ssl_context else 'http'}://{HOST}:{self.port}"

    @property
    def base_url(self) -> str:
        """What Portkey calls the base URL."""
        return f"{self.url}/v1"

    def start(self) -> None:
        """Listen on a thread of its own, for blocking clients and for clients with their own event loop."""
        self._socket = self._bind()
        self.port = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stand-in", daemon=True)
        self._thread.start()
        self._run(self._listen())

    def stop(self) -> None:
        """Abort open connections, and end the thread."""
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
        """Refuse connections within the block, and abort those that are open. The port stays the same."""
        self._run(self._hang_up())
        # Bound but not listening, so that connections are refused and no other process gets the port.
        self._socket = self._bind()
        try:
            yield
        finally:
            self._run(self._listen())

    def script(self, batch_id: str, *answers: Scripted) -> None:
        """Set the responses to consecutive GETs of a batch. The last one repeats."""
        self._plans[batch_id] = Script([self._answer(batch_id, answer) for answer in answers])

    def timeline(self, batch_id: str, steps: Sequence[tuple[float, Scripted]]) -> None:
        """Set the responses to GETs of a batch by the clock: each holds from that many seconds after the first GET."""
        self._plans[batch_id] = Timeline([(at, self._answer(batch_id, answer)) for at, answer in steps])

    @property
    def batch_requests(self) -> list[Seen]:
        """The requests about batches: a wait that ends with failed requests reads the reasons from a file."""
        return [seen for seen in self.requests if "/files/" not in seen.raw_path]

    def generate(self, file_id: str, line: bytes | Callable[[int], bytes], count: int) -> None:
        """Make a file of ``count`` lines, which are made as they are sent: a gigabyte needs no memory.

        If all lines are the same bytes, the response has a Content-Length. If ``line(n)`` makes them, it is chunked.
        """
        self._generated[unquote(file_id)] = Lines(line, count)

    def fail(self, method: str, path_pattern: str, *answers: Answer, after: bool = False) -> None:
        """Replace the responses to the next requests, one each. ``path_pattern`` must match the whole raw path.

        With ``after`` the request takes effect first, and only its response is replaced. An ``Answer`` with nothing but
        a ``how`` or a ``delay`` keeps the real response, and changes how that is sent.
        """
        self._faults.append(_Fault(method, re.compile(path_pattern), deque(answers), after))

    def wait_for(self, count: int, timeout: float = 10.0) -> None:
        """Block until ``count`` requests arrived, so that a test need not sleep."""
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
        """Make the files that a batch names, with a line for each request in its counts."""
        counts = batch.get("request_counts")
        for member, outcome, code in (("output_file_id", "completed", 200), ("error_file_id", "failed", 400)):
            file_id = batch.get(member)
            if isinstance(file_id, str):
                count = counts.get(outcome) if isinstance(counts, Mapping) else None
                # The requests that succeeded come first, then those that failed.
                first = counts.get("completed") or 0 if isinstance(counts, Mapping) and outcome == "failed" else 0
                numbers = range(first, first + (count if isinstance(count, int) else 1))
                self.files[unquote(file_id)] = b"".join(output_line(f"request-{n}", code) for n in numbers)
        input_file_id, total = batch.get("input_file_id"), counts.get("total") if isinstance(counts, Mapping) else None
        if isinstance(input_file_id, str) and isinstance(total, int):
            self.files.setdefault(unquote(input_file_id), b"".join(input_line(f"request-{n}") for n in range(total)))

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
        await asyncio.sleep(0.01)  # A connection that is just being accepted is then known, and aborted too.
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
        return await send(request, await self._choose(request), self._count_flooded)

    def _count_flooded(self, count: int) -> None:
        self.flooded += count

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
        """Let the request take effect, and return the response."""
        # Routed by the path as it was sent: after decoding, a slash within an id would look like a separator.
        matches = ((name, route.fullmatch(f"{request.method} {path}")) for name, route in _ROUTES.items())
        name, match = next(((name, match) for name, match in matches if match), ("", None))
        hosted = is_hosted(request.headers, self)
        if match is None or (name == "output" and not hosted):  # OpenAI itself does not have that route
            return Answer(404, {"message": "Not Found", "ok": False})
        reject = portkey_rejection if hosted else provider_rejection
        if (rejection := reject(request.headers, self)) is not None:
            return rejection
        managed = hosted and is_managed(request.headers)
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
            return provider_error(404, f"No batch found with id '{sought}'.", hosted=hosted)
        if name == "output":
            return self._output(sought)
        return self._plans[sought].next() if name == "retrieve" else self._cancel(sought, hosted=hosted)

    def _output(self, batch_id: str) -> Answer:
        """Respond as Portkey does for OpenAI: with the output file alone, or with the errors of a failed batch."""
        body = self._plans[batch_id].peek().body
        batch: Mapping[str, object] = body if isinstance(body, Mapping) else {}
        file_id = batch.get("output_file_id")
        if file_id is None and batch.get("errors"):
            return Answer(body=json.dumps(batch["errors"]))
        # The gateway passes on this error as the provider words it.
        return self._file("null" if file_id is None else str(file_id), content=True, hosted=False)

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
        except ValueError:  # aiohttp raises it if the form has no boundary or no end.
            return provider_error(400, "We could not parse the form in the body of your request.", hosted=hosted)
        if filename is None:
            return provider_error(400, "'file' is a required property", hosted=hosted)
        if purpose is None:
            return provider_error(400, "'purpose' is a required property", hosted=hosted)
        if purpose != "batch":
            message = f"'{purpose}' is not one of {_PURPOSES} - 'purpose'"
            return provider_error(400, message, param="purpose", hosted=hosted)
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
            described = file_object(file_id, upload.bytes, upload.filename, upload.purpose, upload.created_at)
            return Answer(body=described)
        if data is None:
            return provider_error(404, f"No such File object: {file_id}", hosted=hosted)
        size = len(data) if isinstance(data, bytes) else data.total()
        return Answer(body=file_object(file_id, size, f"{file_id}.jsonl", "batch_output"))

    async def _create(self, request: web.BaseRequest, *, hosted: bool, managed: bool) -> Answer:
        try:
            body = await request.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return provider_error(400, "We could not parse the JSON body of your request.", hosted=hosted)
        if (problem := find_problem(body)) is not None:
            message, param, code = problem
            return provider_error(400, message, code, param=param, hosted=hosted)
        file_id = body["input_file_id"]
        if self._content(file_id) is None and all(upload.file_id != file_id for upload in self.uploads):
            return provider_error(400, f"No such File object: {file_id}", param="input_file_id", hosted=hosted)
        batch_id = f"{_MANAGED if managed else 'batch_'}{_FIRST + len(self.batches)}"
        created = Created(batch_id, body, time.monotonic(), int(time.time()))
        run = Run(created, self.course, lambda: self._lines(file_id), lambda: self.respond, self.files.__setitem__)
        self._plans[batch_id] = self._courses[batch_id] = course = Course(run, self._shown)
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
            return provider_error(400, message, param="limit", hosted=hosted)
        if after is not None:
            if after not in ids:
                return provider_error(404, f"No batch found with id '{after}'.", hosted=hosted)
            ids = ids[ids.index(after) + 1 :]
        page = ids[: int(limit)]
        first, last = (page[0], page[-1]) if page else (None, None)
        body = {"object": "list", "data": [self._listed(batch_id) for batch_id in page]}
        return Answer(body=body | {"first_id": first, "last_id": last, "has_more": len(ids) > len(page)})

    def _listed(self, batch_id: str) -> object:
        """Return the batch as its next GET shows it, or as it runs if the script's next answer is not a batch."""
        body = self._plans[batch_id].peek().body
        return body if isinstance(body, Mapping) and "status" in body else self._courses[batch_id].peek().body

    def _cancel(self, batch_id: str, *, hosted: bool) -> Answer:
        plan = self._plans[batch_id]
        body = plan.peek().body
        shown: Mapping[str, object] = body if isinstance(body, Mapping) else {}
        if (status := shown.get("status")) in ENDED:
            return provider_error(409, f"Cannot cancel a batch with status '{status}'.", hosted=hosted)
        self.cancelled.append(batch_id)
        if status != "cancelling":
            if isinstance(plan, Course):
                plan.run.cancel(self.cancelling_for)
            else:
                echoed = {name: shown[name] for name in ECHOED if name in shown}
                steps = ((0, "cancelling"), (self.cancelling_for, "cancelled"))
                self.timeline(batch_id, [(at, Answer(body=batch_body(batch_id, to) | echoed)) for at, to in steps])
        answer = self._plans[batch_id].next()
        return answer if self.cancel_body is None else Answer(body=self.cancel_body)
