"""
Hostile reality, one case at a time, over real sockets.

Each case runs with ``requests`` (a sensor that pokes on a worker) and with ``aiohttp`` (its trigger), and must end
alike on both: nothing but a good or bad end, a refusal or the timeout ends a wait.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import gzip
import itertools
import json
import logging
import random
import re
import signal
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit

import pytest
import requests
import trustme
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from airflow_provider_portkey import api
from airflow_provider_portkey.batch import Batch, encode_id
from airflow_provider_portkey.exceptions import (
    PortkeyApiError,
    PortkeyBatchCancelledError,
    PortkeyBatchExpiredError,
    PortkeyBatchFailedError,
    PortkeyBatchTimeoutError,
    PortkeyConnectionNotFoundError,
    PortkeyEventError,
    PortkeyInputError,
    PortkeyRefusedError,
    PortkeyRequestsFailedError,
)
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor
from airflow_provider_portkey.triggers.batch import PortkeyBatchTrigger
from tests.conftest import set_connection
from tests.server.standin import HOST, Answer, Scripted, StandIn, batch_body
from tests.test_trigger import revive

Stack = Literal["requests", "aiohttp"]
STACKS: tuple[Stack, ...] = ("requests", "aiohttp")

# --- What a case is, and the world it happens in. ---------------------------------------------------------------------


class Recorder(logging.Handler):
    """Keeps what is logged, and lets a test wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self._told = threading.Condition()
        self.told: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "cannot be called outside" in record.getMessage():  # Airflow's own, of the harness
            return
        with self._told:
            self.told.append((record.levelno, record.getMessage()))
            self._told.notify_all()

    def at(self, level: int) -> list[str]:
        return [text for at, text in self.told if at == level]

    def wait_for(self, words: str, count: int = 1) -> None:
        with self._told:
            if not self._told.wait_for(lambda: sum(words in text for _, text in self.told) >= count, 10):
                raise TimeoutError(f"{words!r} was not logged {count} times")


class TaskInstance:
    """The one stand-in for Airflow: it takes what a task pushes."""

    def __init__(self) -> None:
        self.xcoms: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value

    @property
    def context(self) -> Any:
        return {"ti": self}


class Clock:
    """The wall clock, as far as the package and Airflow see it."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._time = time.time

    def __call__(self) -> float:
        return self._time() + self.ahead


class World:
    """Where one case happens: servers, the connection, the log, and what came of the wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, closing: ExitStack) -> None:
        self.monkeypatch = monkeypatch
        self.folder = folder
        self.log = Recorder()
        self.clock = Clock()
        self.batch_id = ""
        self.answer: dict[str, Any] | None = None
        self.error: BaseException | None = None
        self.event: dict[str, Any] | None = None
        self.xcoms: dict[str, Any] = {}
        self.began = self.ended = 0.0
        self.standin: StandIn
        self.other: StandIn
        self.proxy: Proxy
        self.authority: trustme.CA
        self.renew: Callable[[], None]
        self.outage = closing.enter_context(ExitStack())
        self.promised = 0.0
        self.closing = closing

    def serve(self, context: ssl.SSLContext | None = None) -> StandIn:
        return self.closing.enter_context(StandIn(ssl_context=context))

    def serve_proxy(self, **how: Any) -> Proxy:
        return self.closing.enter_context(Proxy(**how))

    def connect(self, *, host: str | None = None, password: str | None = None, **extra: Any) -> None:
        set_connection(
            self.monkeypatch,
            host=host or self.standin.url,
            password=password or self.standin.api_key,
            extra={"virtual_key": self.standin.virtual_key} | extra,
        )

    def environ(self, **variables: str | Path) -> None:
        for name, value in variables.items():
            self.monkeypatch.setenv(name, str(value))

    def file(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        path.chmod(0o600)
        return path

    @property
    def message(self) -> str:
        return str(self.error) if self.error else "\n".join(self.log.at(logging.WARNING))

    @property
    def gaps(self) -> list[float]:
        """The seconds between each two requests."""
        times = [seen.at for seen in self.standin.requests]
        return [later - earlier for earlier, later in itertools.pairwise(times)]


@dataclass(frozen=True)
class Case:
    """
    A wait under adverse conditions, and what must come of it.

    ``answers`` are the server's, the last one for ever. ``arrange`` prepares, ``meanwhile`` runs beside the wait.
    ``error`` is what the wait raises; without one it must end with a completed batch. ``words`` must be in its
    message, or in the warnings of a wait that ends well; ``unsaid`` must not. ``requests`` is how many the server
    saw, ``warnings`` how many lines say that something is wrong. ``holds`` asserts what else there is.
    """

    name: str
    answers: Sequence[Scripted] | Callable[[World], Sequence[Scripted]] = ("completed",)
    batch_id: str = "batch_1"
    error: type[Exception] | None = None
    words: Sequence[str] = ()
    unsaid: Sequence[str] = ()
    requests: int | range | None = None
    warnings: int | None = None
    holds: Callable[[World], None] | None = None
    task: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)
    chance: float | None = None
    tls: Callable[[World], ssl.SSLContext] | None = None
    arrange: Callable[[World], None] | None = None
    meanwhile: Callable[[World], None] | None = None
    stacks: Sequence[Stack] = STACKS


def wait(stack: Stack, world: World, batch_id: str, **task: Any) -> None:
    """Wait the way Airflow would, on a worker or in a triggerer, and keep in ``world`` what comes of it."""
    sensor = PortkeyBatchSensor(task_id="wait", batch_id=batch_id, **{"poke_interval": 0.02, "timeout": 10.0} | task)
    ti = TaskInstance()
    world.began = time.monotonic()
    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 15)
    try:
        if stack == "requests":
            world.answer = sensor.execute(ti.context)
        else:
            now = time.time()
            trigger = PortkeyBatchTrigger(
                batch_id,
                poke_interval=sensor.poke_interval,
                started_at=now,
                deadline=now + sensor.timeout,
                exponential_backoff=sensor.exponential_backoff,
            )
            world.event = asyncio.run(only_event(revive(trigger)))
            world.answer = sensor.execute_complete(ti.context, json.loads(json.dumps(world.event)))
    except Exception as error:  # noqa: BLE001 - each case says what it expects
        world.error = error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    world.ended = time.monotonic()
    world.xcoms = ti.xcoms


def give_up(*_: object) -> None:
    pytest.fail("The wait has no end.")


async def only_event(trigger: PortkeyBatchTrigger) -> dict[str, Any]:
    [event] = [event.payload async for event in trigger.run()]
    assert isinstance(event, dict)
    return event


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """Run ``work`` in a thread as long as the block runs, and raise what it raises."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join(timeout=15)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


def be_deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hear nothing of the proxies, certificates and credentials of whoever runs the tests."""
    for (
        name
    ) in "http_proxy https_proxy all_proxy no_proxy netrc requests_ca_bundle curl_ca_bundle ssl_cert_file".split():
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[World]:
    be_deaf(monkeypatch)
    with ExitStack() as closing:
        world = World(monkeypatch, tmp_path, closing)
        logger = logging.Logger("hostile", logging.DEBUG)
        logger.addHandler(world.log)
        for speaker in (PortkeyBatchSensor, PortkeyBatchTrigger, PortkeyHook):
            # Airflow 3 logs through structlog, which knows nothing of handlers.
            monkeypatch.setattr(speaker, "log", logger)
        logging.getLogger("asyncio").addHandler(world.log)
        closing.callback(logging.getLogger("asyncio").removeHandler, world.log)
        yield world


# --- Helpers of the table. --------------------------------------------------------------------------------------------


class Proxy:
    """A forward proxy on loopback that keeps the head of each request it gets."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.heads: list[str] = []
        self._refuses = refuses

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> Proxy:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, HOST, 0), self._loop).result(10)
        self._server = server
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        pending = asyncio.all_tasks() - {asyncio.current_task()}
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.heads.append(head)
            method, target, _ = head.split(" ", 2)
            if self._refuses:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            if method == "CONNECT":
                there, back = await asyncio.open_connection(*target.rsplit(":", 1))
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                url = urlsplit(target)
                there, back = await asyncio.open_connection(url.hostname, url.port)
                # One request a connection, since those that follow would have to be rewritten too.
                head = head.replace(target, url.path, 1).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
                back.write(head.encode("latin-1"))
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                sink.write(data)
        finally:
            sink.close()


def done(batch_id: str) -> dict[str, object]:
    """A batch that ended as well as can be, so that nothing warns of it."""
    return batch_body(batch_id, "completed", request_counts={"total": 100, "completed": 100, "failed": 0})


def provider_error(status: int, message: str) -> Answer:
    """An error of the provider's, as Portkey hands it on."""
    body = {"error": {"message": f"openai error: {message}", "type": "server_error"}, "provider": "openai"}
    return Answer(status, body, {"x-portkey-provider": "openai"})


def portkey_error(status: int, message: str, **members: object) -> Answer:
    return Answer(status, {"status": "failure", "message": message} | members)


def page(status: int, text: str) -> Answer:
    """An error of whatever stands in front of Portkey."""
    return Answer(status, f"<html><body><h1>{text}</h1></body></html>", {"content-type": "text/html"})


def without(body: Mapping[str, object], *names: str) -> dict[str, object]:
    return {name: value for name, value in body.items() if name not in names}


def raw_answer(body: bytes, declared: int | None = None) -> bytes:
    """A whole HTTP answer, whose Content-Length may lie."""
    length = len(body) if declared is None else declared
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % length + body


def in_turn(*steps: Callable[[World], object]) -> Callable[[World], None]:
    def all_of_them(world: World) -> None:
        for step in steps:
            step(world)

    return all_of_them


def same(one: object, other: object) -> None:
    assert one == other


def answer_has(**members: object) -> Callable[[World], None]:
    def holds(world: World) -> None:
        assert world.answer is not None
        assert {name: world.answer[name] for name in members} == members

    return holds


def last_gap(at_least: float, below: float = 5.0) -> Callable[[World], None]:
    def holds(world: World) -> None:
        assert at_least <= world.gaps[-1] < below

    return holds


def lasted(at_least: float, below: float) -> Callable[[World], None]:
    def holds(world: World) -> None:
        assert at_least <= world.ended - world.began < below

    return holds


def sent_as(segment: str) -> Callable[[World], None]:
    def holds(world: World) -> None:
        assert {seen.raw_path for seen in world.standin.requests} == {f"/v1/batches/{segment}"}

    return holds


def tls(
    name: str = HOST, *, expired: bool = False, signed_by: Callable[[World], trustme.CA] | None = None
) -> Callable[[World], ssl.SSLContext]:
    """Make a server's side of TLS with a certificate for ``name`` of a private CA, whose own is in ca.pem."""

    def context(world: World) -> ssl.SSLContext:
        world.authority = trustme.CA()
        world.authority.cert_pem.write_to_path(world.folder / "ca.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority = signed_by(world) if signed_by else world.authority
        now = datetime.now(UTC)
        ends = now + timedelta(days=-1 if expired else 1)
        authority.issue_cert(name, not_before=now - timedelta(days=9), not_after=ends).configure_cert(context)
        world.renew = lambda: world.authority.issue_cert(HOST).configure_cert(context)
        return context

    return context


def trust(world: World) -> None:
    """Name the private CA in the connection."""
    world.connect(verify=str(world.folder / "ca.pem"))


# --- The table. -------------------------------------------------------------------------------------------------------

DOWN, FAULT = page(503, "down"), portkey_error(500, "Something went wrong")
GOES_ON = "The wait goes on."


def outlasted(name: str, failure: Scripted, *words: str, times: int = 4, **more: Any) -> Case:
    """A failure that lasts longer than one call's three attempts, then passes."""
    answers = [*[failure] * times, "completed"]
    return Case(name, answers, words=[*words, GOES_ON], requests=times + 1, warnings=1, **more)


def count_attempts(world: World, count: int) -> None:
    world.log.wait_for("failed:", count)


def refuse_connections(world: World) -> None:
    world.outage.enter_context(world.standin.outage())


def accept_connections(world: World) -> None:
    """End the outage once it was met in more than ten polls."""
    count_attempts(world, 24)
    world.outage.close()


def back_in_dns(world: World) -> None:
    count_attempts(world, 5)
    world.monkeypatch.setattr(socket, "getaddrinfo", _LOOKUP)


_LOOKUP = socket.getaddrinfo


def unknown_in_dns(world: World) -> None:
    """Let a name be unknown without asking anybody: what both HTTP libraries ask fails as it would for any."""

    def lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "localhost":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return _LOOKUP(host, *args, **kwargs)

    world.monkeypatch.setattr(socket, "getaddrinfo", lookup)
    world.connect(host=f"http://localhost:{world.standin.port}")


def renew_certificate(world: World) -> None:
    count_attempts(world, 5)
    world.renew()


def spread(world: World) -> None:
    """Pauses between attempts of a call (each third gap is a poll's) differ by more than the machine's own noise."""
    pauses = [gap for n, gap in enumerate(world.gaps) if n % 3 != 2]
    assert max(pauses) - min(pauses) > 0.015


def within_the_limit(world: World) -> None:
    assert 0.15 < max(world.gaps) < 0.6


def doubling(world: World) -> None:
    first, second = world.gaps[:2]
    assert 1 <= first < 2 <= second < 4


def come_back_at_a_date(world: World) -> list[Scripted]:
    world.promised = int(time.time()) + 2.0
    date = format_datetime(datetime.fromtimestamp(world.promised, UTC), usegmt=True)
    return [Answer(429, headers={"Retry-After": date}), "completed"]


def came_back_at_the_date(world: World) -> None:
    came = world.standin.requests[1].at - time.monotonic() + time.time()
    assert world.promised <= came < world.promised + 1


def paused_each_time(world: World) -> None:
    assert min(world.gaps) > 0.015


LIMIT = "The limits are timeout=0.2 s"
# Pauses between attempts as they are, so that what an answer asks for is waited for within the call.
WITHIN_A_CALL = {"MAX_PAUSE": 10.0}

TRANSIENT = [
    outlasted("408", Answer(408, {"error": {"type": "timeout_error", "message": "too slow"}}), "HTTP 408", "too slow"),
    outlasted("429 without Retry-After", portkey_error(429, "slow down"), "Portkey answered HTTP 429", "A rate limit"),
    Case(
        "429 with Retry-After in seconds",
        [Answer(429, headers={"Retry-After": "1"}), "completed"],
        chance=0.0,
        requests=2,
        warnings=1,
        holds=last_gap(1.0, 2.0),
    ),
    Case(
        "429 with Retry-After as a date",
        come_back_at_a_date,
        chance=0.0,
        requests=2,
        warnings=1,
        holds=came_back_at_the_date,
    ),
    Case(
        "429 with retry-after-ms",
        [Answer(429, headers={"retry-after-ms": "300"}), "completed"],
        chance=0.0,
        requests=2,
        warnings=1,
        holds=last_gap(0.3, 1.0),
    ),
    Case(
        "429 with x-ms-retry-after-ms",
        [Answer(429, headers={"x-ms-retry-after-ms": "300"}), "completed"],
        chance=0.0,
        requests=2,
        holds=last_gap(0.3, 1.0),
    ),
    Case(
        "503 with retry-after-ms within a call",
        [Answer(503, headers={"retry-after-ms": "200"}), "completed"],
        constants=WITHIN_A_CALL,
        chance=0.0,
        requests=2,
        warnings=0,
        holds=last_gap(0.2, 0.9),
    ),
    Case(
        "429 with a Retry-After of a year is capped",
        [Answer(429, headers={"Retry-After": "31536000"}), "completed"],
        constants={"MAX_RETRY_AFTER": 0.3},
        requests=2,
        holds=last_gap(0.27, 1.0),
    ),
    Case(
        "429 with a Retry-After of a year does not outlast the timeout",
        [Answer(429, headers={"Retry-After": "31536000"})],
        task={"timeout": 0.4},
        error=PortkeyBatchTimeoutError,
        words=["HTTP 429"],
        requests=range(2, 4),
        holds=lasted(0.4, 2.0),
    ),
    *(
        outlasted(f"429 with Retry-After {value!r}", Answer(429, headers={"Retry-After": value}), "HTTP 429")
        for value in ("-5", "soon", "nan", "inf", "0", "Mon, 01 Jan 1990 00:00:00 GMT")
    ),
    outlasted("500", FAULT, "Portkey answered HTTP 500", "Something went wrong"),
    outlasted("500 of the provider", provider_error(500, "broken"), "The provider 'openai'", "HTTP 500", "broken"),
    outlasted("502 with HTML", page(502, "Bad Gateway"), "HTTP 502", "Bad Gateway"),
    outlasted("502 with the gateway's html-message", Answer(502, {"html-message": "<h1>no</h1>"}), "HTTP 502"),
    outlasted("503 with text", Answer(503, "upstream connect error"), "HTTP 503", "upstream connect error"),
    outlasted("503 with bytes that are no text", Answer(503, b"\xff\xfe\x00"), "HTTP 503"),
    outlasted("504", page(504, "Gateway Time-out"), "HTTP 504"),
    outlasted("529", provider_error(529, "overloaded"), "HTTP 529", "overloaded"),
    Case(
        "connection refused for more than ten polls",
        arrange=refuse_connections,
        meanwhile=accept_connections,
        words=["No answer to retrieving batch 'batch_1'", "Check the connection's host", GOES_ON],
        requests=1,
        warnings=1,
    ),
    outlasted("reset before the answer", Answer(how="reset"), "No answer", times=7),
    Case(
        "reset before the answer: the next request does not come at once",
        [Answer(how="reset"), Answer(how="reset"), "completed"],
        requests=3,
        holds=paused_each_time,
        stacks=["requests"],  # aiohttp itself sends a GET once more, at once, when a connection breaks
    ),
    outlasted("reset in mid-body", Answer(body=batch_body("batch_1", "completed"), how="truncate"), "No answer"),
    outlasted("closed in mid-body", Answer(body=raw_answer(b'{"id": "batch_1", "sta', 900), how="raw")),
    outlasted("closed without a word", Answer(body=b"", how="raw"), "No answer", times=7),
    outlasted("an answer that is not HTTP", Answer(body=b"220 mail.example.com ESMTP\r\n", how="raw"), "No answer"),
    Case(
        "DNS failure",
        ["completed"],
        arrange=unknown_in_dns,
        meanwhile=back_in_dns,
        words=["No answer", "Check the connection's host, and DNS", GOES_ON],
        requests=1,
        warnings=1,
    ),
    Case(
        "TLS handshake failure, mended",
        tls=tls(expired=True),
        arrange=trust,
        meanwhile=renew_certificate,
        words=["certificate has expired", GOES_ON],
        requests=1,
        warnings=1,
    ),
    Case(
        "TLS to a server that speaks none",
        arrange=lambda world: world.connect(host=f"https://{HOST}:{world.standin.port}"),
        task={"timeout": 0.3},
        error=PortkeyBatchTimeoutError,
        words=["The TLS handshake failed"],
        requests=0,
    ),
    outlasted("read timeout", Answer(delay=60), LIMIT, extra={"timeout": 0.2}, holds=within_the_limit),
    outlasted(
        "a body that trickles",
        Answer(body=batch_body("batch_1", "completed"), how="trickle", pause=0.05),
        LIMIT,
        extra={"timeout": 0.2},
        holds=within_the_limit,
    ),
    outlasted(
        "headers that trickle",
        Answer(body=raw_answer(b"{}"), how="drip", pause=0.02),
        LIMIT,
        extra={"timeout": 0.2},
        holds=within_the_limit,
        stacks=["aiohttp"],  # requests bounds each read of the headers, not all of them
    ),
    outlasted("truncated JSON", Answer(body='{"id": "batch_1", "status": "comp'), "not with what was asked for"),
    Case(
        "an outage that outlasts ten polls",
        [DOWN] * 33 + ["completed"],
        words=["The gateway answered HTTP 503", "down", GOES_ON],
        requests=34,
        warnings=1,
    ),
    Case(
        "each change of an outage is told once",
        [*[DOWN] * 9, *[FAULT] * 9, *["in_progress"] * 3, *[DOWN] * 6, "in_progress", "completed"],
        words=["HTTP 503", "HTTP 500"],
        requests=29,
        warnings=3,
        holds=lambda world: same(sum("answers again" in text for text in world.log.at(logging.INFO)), 2),
    ),
    Case("it backs off", [DOWN, DOWN, "completed"], constants=WITHIN_A_CALL, requests=3, warnings=0, holds=doubling),
    Case(
        "it backs off with jitter",
        [DOWN] * 17 + ["completed"],
        constants={"MAX_PAUSE": 0.1},
        requests=18,
        holds=spread,
    ),
    Case(
        "an outage with its own word in the timeout's message",
        ["in_progress", DOWN],
        task={"timeout": 0.3},
        error=PortkeyBatchTimeoutError,
        words=["Last seen: Batch batch_1 is in_progress", "Then: The gateway answered HTTP 503", "timeout of 0.3 s"],
        holds=lasted(0.3, 2.0),
    ),
]


def refused(name: str, answer: Answer, *words: str, **more: Any) -> Case:
    """A mistake: one look, one exception. It comes in mid-wait, where it could be taken for an outage."""
    return Case(
        name,
        ["in_progress", answer, "completed"],
        error=PortkeyRefusedError,
        words=[f"HTTP {answer.status}", *words],
        requests=2,
        **more,
    )


NO_SUCH_BATCH = provider_error(404, "No batch found with id 'batch_1'.")

MISTAKES = [
    refused(
        "400 with an unknown virtual key",
        portkey_error(400, "Following keys are not valid: openai-standin"),
        "Portkey answered",
        "Following keys are not valid: ***",
        "Check virtual_key, provider or config",
    ),
    refused(
        "400 from the provider",
        provider_error(400, "Invalid 'batch_id'"),
        "The provider 'openai'",
        "Invalid 'batch_id'",
        unsaid=["does not know such a name"],
    ),
    Case(
        "401 from Portkey",
        arrange=lambda world: world.connect(password="pk-wrong-0123456789"),
        error=PortkeyRefusedError,
        words=["Portkey answered HTTP 401", "Invalid API Key", "Check the Portkey API key"],
        requests=1,
    ),
    refused(
        "401 from the provider behind it",
        provider_error(401, "Incorrect API key provided"),
        "The provider 'openai' behind Portkey answered",
        "Portkey let the call pass",
    ),
    refused("401 from a page in front of it", page(401, "Authorization Required"), "The gateway answered"),
    refused("403", portkey_error(403, "Portkey Error: Forbidden!"), "Portkey answered", "completions.write"),
    refused("403 from the provider", provider_error(403, "Country not supported"), "The provider 'openai'"),
    refused(
        "404 of a wrong base URL",
        Answer(404, {"message": "Not Found", "ok": False}),
        "The gateway answered",
        "check the connection's host",
    ),
    Case(
        "404 of the batch",
        [NO_SUCH_BATCH],
        error=PortkeyRefusedError,
        words=["The provider 'openai'", "No batch found", "Check batch_id", "workspace"],
        requests=3,
    ),
    Case(
        "404 in the first seconds after creation", [NO_SUCH_BATCH, NO_SUCH_BATCH, "completed"], requests=3, warnings=0
    ),
    refused(
        "412",
        Answer(412, {"error": {"type": "credits_exhaust_error", "message": "exhausted"}}),
        "exhausted",
        "A budget",
    ),
    refused("446", Answer(446, {"error": {"message": "hooks failed", "type": "hooks_failed"}}), "A guardrail"),
    Case(
        "a provider that Portkey does not know",
        arrange=lambda world: world.connect(virtual_key=None, provider="@other"),
        error=PortkeyRefusedError,
        words=["Following keys are not valid: other", "Check virtual_key, provider or config"],
        requests=1,
    ),
    Case(
        "no provider named",
        arrange=lambda world: world.connect(virtual_key=None),
        error=PortkeyInputError,
        words=["virtual_key, provider and config is missing"],
        requests=0,
    ),
]

WHOLE = done("batch_1")
ODD = "not with what was asked for"
#: What a server that compresses makes of nothing at all.
BOMB = gzip.compress(bytes(1 << 26), 9)


def flat(world: World) -> None:
    """The server could not get rid of much more than the cap, thrice, and the buffers on the way."""
    assert world.standin.flooded <= 3 * (api.MAX_ANSWER_BYTES + 2**24)
    assert _peak() < 4 * api.MAX_ANSWER_BYTES


def watch_memory(world: World) -> None:
    tracemalloc.start()
    world.closing.callback(tracemalloc.stop)


def _peak() -> int:
    return tracemalloc.get_traced_memory()[1]


def times_in_seconds(world: World) -> None:
    assert world.answer is not None
    assert {name: world.answer[name] for name in ("created_at", "expires_at", "completed_at")} == {
        name: WHOLE[name] for name in ("created_at", "expires_at", "completed_at")
    }


LIES = [
    outlasted(
        "200 with an error",
        Answer(body={"error": {"message": "bedrock error: throttled"}, "provider": "bedrock"}),
        "The provider 'bedrock'",
        ODD,
        "bedrock error: throttled",
    ),
    outlasted("200 with an error as a string", Answer(body={"error": "what?"}), ODD, "It says: what?"),
    outlasted("200 with no status", Answer(body={"id": "batch_1", "object": "batch"}), ODD, "no 'status'"),
    outlasted("200 with no id", Answer(body={"status": "completed"}), ODD, "no 'id'"),
    Case("status null, then real", [{"status": None}, {"status": None}, "completed"], requests=3, warnings=1),
    *(
        Case(f"status {status!r}, then real", [{"status": status}, "completed"], requests=2, warnings=1)
        for status in (7, True, "", {"state": "completed"}, ["completed"])
    ),
    outlasted("a JSON list", Answer(body="[]"), ODD, "got list"),
    outlasted("a JSON list as an object", Answer(body={"0": WHOLE}), ODD, "no 'id'"),
    outlasted("a number", Answer(body="42"), ODD, "got int"),
    outlasted("a number of 5,000 digits", Answer(body="9" * 5000), ODD),
    outlasted("null", Answer(body="null"), ODD),
    outlasted("a string", Answer(body='"completed"'), ODD, "got str"),
    outlasted("brackets without end", Answer(body="[" * 100_000), ODD),
    outlasted("an empty body", Answer(), ODD, "It says: nothing"),
    outlasted("204", Answer(204), "HTTP 204"),
    outlasted("a login page", page(200, "Please sign in"), ODD, "Please sign in"),
    Case(
        "valid JSON as text/plain",
        [Answer(body=json.dumps(WHOLE))],
        requests=1,
        warnings=0,
        holds=answer_has(output_file_id="file-batch_1-output"),
    ),
    Case(
        "valid JSON as text/html", [Answer(body=json.dumps(WHOLE), headers={"content-type": "text/html"})], requests=1
    ),
    Case("valid JSON with a byte order mark", [Answer(body=b"\xef\xbb\xbf" + json.dumps(WHOLE).encode())], requests=1),
    Case("246 is a success", [Answer(246, WHOLE)], requests=1, warnings=0),
    outlasted(
        "another batch's id", Answer(body=batch_body("batch_2", "completed")), "is about another batch: 'batch_2'"
    ),
    Case(
        "another batch's bad end",
        [Answer(body=batch_body("batch_2", "failed"))],
        task={"timeout": 0.3},
        error=PortkeyBatchTimeoutError,
        words=["is about another batch: 'batch_2'"],
        holds=lambda world: same(world.xcoms, {}),
    ),
    Case(
        "output_file_id set from the start",
        [
            {"status": "validating", "output_file_id": "file-early", "error_file_id": "file-early-too"},
            {"status": "in_progress", "output_file_id": "file-early", "error_file_id": "file-early-too"},
            "completed",
        ],
        requests=3,
        holds=answer_has(output_file_id="file-batch_1-output"),
    ),
    Case(
        "counts as strings",
        [{"status": "completed", "request_counts": {"total": "100", "completed": "98", "failed": "2"}}],
        requests=1,
        words=["98 completed, 2 failed, 100 in all"],
        holds=answer_has(request_counts={"total": 100, "completed": 98, "failed": 2}),
    ),
    Case(
        "counts as strings, all failed",
        [{"status": "completed", "request_counts": {"total": "9", "completed": "0", "failed": "9"}}],
        error=PortkeyRequestsFailedError,
        words=["All requests in it failed"],
        requests=1,
    ),
    *(
        Case(
            f"counts {name}",
            [{"status": "completed", "request_counts": counts}],
            requests=1,
            warnings=0,
            holds=answer_has(request_counts={"total": None, "completed": None, "failed": None}),
        )
        for name, counts in {
            "null": None,
            "of nulls": {"total": None, "completed": None, "failed": None},
            "empty": {},
            "as a list": [1, 2, 3],
            "as words": {"total": "many", "completed": "most", "failed": "few"},
            "below zero": {"total": -1, "completed": -1, "failed": -1},
            "beyond number": {"total": 1e999, "completed": "1e999", "failed": "nan"},
        }.items()
    ),
    Case(
        "times in milliseconds",
        [
            {"status": "completed"}
            | {name: int(str(WHOLE[name])) * 1000 for name in ("created_at", "expires_at", "completed_at")}
        ],
        requests=1,
        holds=times_in_seconds,
    ),
    Case(
        "times as strings",
        [{"status": "completed"} | {n: str(WHOLE[n]) for n in ("created_at", "expires_at", "completed_at")}],
        requests=1,
        holds=times_in_seconds,
    ),
    Case(
        "only what can be relied on",
        [Answer(body={"id": "batch_1", "object": "batch", "status": "completed"})],
        requests=1,
        warnings=0,
        holds=answer_has(status="completed", output_file_id=None, created_at=None, errors=None),
    ),
    Case(
        "a key of the answer's own named provider_status",
        [{"status": "completed", "provider_status": None}],
        task={"timeout": 2.0},
        requests=1,
        holds=answer_has(status="completed", provider_status="completed"),
    ),
    *(
        Case(
            f"metadata of {name}, which no database takes for JSON",
            [Answer(body=json.dumps(WHOLE | {"metadata": {"a": "?"}}).replace('"?"', value))],
            requests=1,
            holds=lambda world: same(json.loads(json.dumps(world.answer, allow_nan=False)), world.answer),
        )
        for name, value in {"NaN": "NaN", "infinity": "-Infinity", "1e999": "1e999"}.items()
    ),
    *(
        outlasted(
            f"an error with half a character{how}",
            Answer(500, b'{"message": "cut ' + half + b'"}'),
            "HTTP 500",
            holds=lambda world: same(world.message.encode().decode(), world.message),
        )
        for how, half in {"": b"\\ud83d", " in bytes": b"\xed\xa0\xbd"}.items()
    ),
    Case(
        "NUL in metadata, which no JSONB takes",
        [Answer(body=done("batch_1") | {"metadata": {"a\0b": "c\0d", "path": "c:\\u0000"}})],
        requests=1,
        holds=lambda world: same((world.answer or {})["metadata"], {"ab": "cd", "path": "c:\\u0000"}),
    ),
    Case(
        "a status unknown for ever",
        ["paused"],
        task={"timeout": 0.5},
        error=PortkeyBatchTimeoutError,
        words=["the provider says 'paused'"],
        requests=range(5, 40),
        holds=in_turn(
            lasted(0.5, 2.0),
            lambda world: same(["'paused'" in text for text in world.log.at(logging.WARNING)], [True]),
        ),
    ),
    Case(
        "statuses unknown, one after another",
        ["paused", "paused", "queued", "queued", "paused", "completed"],
        words=["'paused'", "'queued'"],
        requests=6,
        warnings=2,
    ),
    outlasted(
        "a body without end",
        Answer(body="{", how="flood", size=2**26),
        "has more than",
        "Is something else answering at that address?",
        constants={"MAX_ANSWER_BYTES": 2**18},
    ),
    Case(
        "a body of a gigabyte, against the real cap",
        [Answer(body="{", how="flood", size=2**30), "completed"],
        arrange=watch_memory,
        requests=2,
        holds=flat,
    ),
    Case(
        "a batch followed by blanks without end",
        [Answer(body=WHOLE, how="flood", size=2**26), "completed"],
        constants={"MAX_ANSWER_BYTES": 2**18},
        requests=2,
    ),
    Case(
        "an error without end",
        [Answer(503, "<html>", how="flood", size=2**26)] * 4 + ["completed"],
        constants={"MAX_ANSWER_BYTES": 2**18},
        words=["has more than"],
        requests=5,
    ),
    Case(
        "a redirect without end",
        [Answer(302, "<html>", {"Location": "http://elsewhere.invalid/"}, how="flood", size=2**26)] * 4 + ["completed"],
        constants={"MAX_ANSWER_BYTES": 2**18},
        arrange=watch_memory,
        requests=5,
        holds=lambda world: same(_peak() < 2**24, True),
    ),
    Case(
        "64 MiB of nothing, compressed to 64 KiB",
        [Answer(body=BOMB, headers={"content-encoding": "gzip"}), "completed"],
        arrange=watch_memory,
        requests=2,
        holds=flat,
    ),
    outlasted(
        "a body that says it is compressed", Answer(body="plain", headers={"content-encoding": "gzip"}), "No answer"
    ),
    Case(
        "a batch that is compressed",
        [Answer(body=gzip.compress(json.dumps(WHOLE).encode()), headers={"content-encoding": "gzip"})],
        requests=1,
    ),
]

WORDS: dict[str, dict[str, str]] = {
    "openai": {
        "validating": "",
        "in_progress": "",
        "finalizing": "",
        "cancelling": "",
        "completed": "completed",
        "failed": "failed",
        "expired": "expired",
        "cancelled": "cancelled",
    },
    "bedrock": {
        "submitted": "",
        "validating": "",
        "scheduled": "",
        "in_progress": "",
        "stopping": "",
        "completed": "completed",
        "partially_completed": "completed",
        "failed": "failed",
        "stopped": "cancelled",
        "expired": "expired",
        "Submitted": "",
        "InProgress": "",
        "Stopping": "",
        "Completed": "completed",
        "PartiallyCompleted": "completed",
        "Failed": "failed",
        "Stopped": "cancelled",
        "Expired": "expired",
    },
    "vertex": {
        "validating": "",
        "in_progress": "",
        "completed": "completed",
        "failed": "failed",
        "expired": "expired",
        "cancelled": "cancelled",
    },
    "cohere": {
        "processing": "",
        "cancelling": "",
        "complete": "completed",
        "failed": "failed",
        "cancelled": "cancelled",
    },
    "anthropic": {
        "ended": "completed",
        "completed": "completed",
        "failed": "failed",
        "expired": "expired",
        "cancelled": "cancelled",
    },
    "managed": {
        "processing_post_request_guardrails": "",
        "completed": "completed",
        "failed": "failed",
        "expired": "expired",
        "cancelled": "cancelled",
        "file_upload_failed": "failed",
        "batch_start_failed": "failed",
    },
    "odd spellings": {
        "COMPLETED": "completed",
        " completed ": "completed",
        "In Progress": "",
        "partially-completed": "completed",
        "canceled": "cancelled",
        "Canceling": "",
    },
}
BAD_ENDS = {
    "failed": PortkeyBatchFailedError,
    "expired": PortkeyBatchExpiredError,
    "cancelled": PortkeyBatchCancelledError,
}


def word(provider: str, word: str, meaning: str) -> Case:
    name, snake = f"{provider}: {word!r}", api_word(word)
    batch_id = "pk_batch_1" if provider == "managed" else "batch_1"
    # No counts, as Bedrock and Cohere have it: the word alone has to tell.
    body = without(batch_body(batch_id, "in_progress"), "request_counts") | {"status": word}
    if not meaning:
        return Case(name, [Answer(body=body), "completed"], batch_id, requests=2, warnings=0)
    if meaning == "completed":
        # One word tells that some requests failed.
        return Case(
            name,
            [Answer(body=body)],
            batch_id,
            requests=1,
            warnings=int(snake == "partially_completed"),
            holds=answer_has(status="completed", provider_status=snake),
        )

    def holds(world: World) -> None:
        assert (world.xcoms["return_value"]["status"], world.xcoms["return_value"]["provider_status"]) == (
            meaning,
            snake,
        )
        assert {"output_file_id", "error_file_id"} <= world.xcoms.keys()

    return Case(
        name, [Answer(body=body)], batch_id, error=BAD_ENDS[meaning], words=[f"is {meaning}"], requests=1, holds=holds
    )


def api_word(word: str) -> str:
    camel = "".join(f"_{c}" if c.isupper() and n and word[n - 1].islower() else c for n, c in enumerate(word.strip()))
    return camel.lower().replace("-", "_").replace(" ", "_")


TERMINAL_WORDS = [word(provider, w, meaning) for provider, words in WORDS.items() for w, meaning in words.items()]

ARN = "arn:aws:bedrock:us-east-1:123456789012:model-invocation-job/abc"


def id_case(name: str, batch_id: str, segment: str) -> Case:
    return Case(name, batch_id=batch_id, requests=1, warnings=0, holds=sent_as(segment))


def bad_id(name: str, batch_id: str, *words: str) -> Case:
    return Case(name, batch_id=batch_id, error=PortkeyInputError, words=["batch_id", *words], requests=0)


IDS = [
    id_case("plain", "batch_68a1b2c3", "batch_68a1b2c3"),
    id_case("encoded ARN", quote(ARN, safe=""), quote(ARN, safe="")),
    id_case("encoded ARN in lower case", quote(ARN, safe="").replace("%3A", "%3a"), quote(ARN, safe="")),
    id_case("raw ARN", ARN, quote(ARN, safe="")),
    id_case("with a space", "batch 1", "batch%201"),
    id_case("with space around it", " batch_1 \t", "batch_1"),
    id_case("with a line break behind it", "batch_1\n", "batch_1"),
    id_case("with /", "projects/1/batches/2", "projects%2F1%2Fbatches%2F2"),
    id_case("with ../", "../files/x", "..%2Ffiles%2Fx"),
    id_case("with /../", "a/../b", "a%2F..%2Fb"),
    id_case("with ?", "batch_1?limit=1", "batch_1%3Flimit%3D1"),
    id_case("with #", "batch_1#2", "batch_1%232"),
    id_case("with &, +, = and ;", "a&b+c=d;e", "a%26b%2Bc%3Dd%3Be"),
    id_case("with @ and :", "user:pw@host", "user%3Apw%40host"),
    id_case("with a backslash", "a\\b", "a%5Cb"),
    id_case("with quotes", "a\"b'c", "a%22b%27c"),
    id_case("with a percent sign that encodes nothing", "50%", "50%25"),
    id_case("with dots in it", "a..b", "a..b"),
    id_case("of three dots", "...", "..."),
    id_case("unicode", "lot-ä-世界-😀", quote("lot-ä-世界-😀", safe="")),
    id_case("unicode, encoded", quote("lot-ä-世界", safe=""), quote("lot-ä-世界", safe="")),
    bad_id("%2e%2e", "%2e%2e", "'%2e%2e'", "another URL"),
    bad_id("%2E", "%2E", "another URL"),
    bad_id("..", "..", "another URL"),
    bad_id(".", ".", "another URL"),
    bad_id("empty", ""),
    bad_id("blank", " \n "),
    bad_id("None, as Jinja writes it", "None"),
    bad_id("with a line break", "batch_1\nX-Evil: 1", "line breaks"),
    bad_id("with a line break, encoded", "batch_1%0d%0aX-Evil:%201", "line breaks"),
    bad_id("with a NUL", "batch_1%00", "control characters"),
    bad_id("with half a character", "batch_\ud83d"),
    bad_id("with bytes that are no text", "batch_%ff"),
    bad_id("of 10 kB", "x" * 10_240, "10240 characters"),
]


def redirect(status: int, location: Callable[[World], str], *words: str, **more: Any) -> Case:
    """The target must be named, and must never be asked."""

    def arrange(world: World) -> None:
        world.other = world.serve()
        world.other.script("batch_1", "completed")

    def answers(world: World) -> list[Scripted]:
        arrange(world)
        return ["in_progress", Answer(status, "moved", {"Location": location(world)}), "completed"]

    def holds(world: World) -> None:
        assert world.other.connections == 0
        assert f"a redirect to {location(world).split('?')[0]}," in world.message

    return Case(
        f"{status}{more.pop('how', '')}",
        answers,
        error=PortkeyRefusedError,
        words=[f"HTTP {status}", "not followed", "Set the connection's host", *words],
        requests=2,
        holds=holds,
        **more,
    )


REDIRECTS = [
    *(redirect(n, lambda world: f"{world.other.url}/v1/batches/batch_1") for n in (301, 302, 303, 307, 308)),
    redirect(302, lambda world: "/login", how=" to a path of the same host"),
    redirect(302, lambda world: f"//{HOST}:{world.other.port}/v1/batches/batch_1", how=" without a scheme"),
    redirect(302, lambda world: "http://[broken/path", how=" to no address"),
    redirect(
        307,
        lambda world: f"{world.other.url}/v1/batches/batch_1?token=t0psecret",
        how=" with a query, which may be a secret",
        unsaid=["t0psecret"],
    ),
    Case(
        "302 to nowhere",
        ["in_progress", Answer(302), "completed"],
        error=PortkeyRefusedError,
        words=["HTTP 302", "nowhere"],
        requests=2,
    ),
]


def through_proxy(*, tls: bool = False, user: str | None = None) -> Callable[[World], None]:
    def holds(world: World) -> None:
        [head] = world.proxy.heads
        target = f"{HOST}:{world.standin.port}"
        assert head.startswith(f"CONNECT {target} " if tls else f"GET http://{target}/v1/batches/batch_1 ")
        if tls:
            assert world.standin.api_key not in head
        sent = [line for line in head.splitlines() if line.lower().startswith("proxy-authorization:")]
        expected = [f"Basic {base64.b64encode(user.encode()).decode()}"] if user else []
        assert [line.split(":", 1)[1].strip() for line in sent] == expected
        assert "Proxy-Authorization" not in world.standin.requests[0].headers or not tls

    return holds


def past_proxy(world: World) -> None:
    assert world.proxy.heads == []


def proxied(
    name: str, *variables: str, holds: Callable[[World], None], user: str = "", tls_: bool = False, **environ: str
) -> Case:
    """A proxy named in environment ``variables``, or in the connection if there are none."""

    def arrange(world: World) -> None:
        world.proxy = world.serve_proxy()
        url = world.proxy.url.replace("//", f"//{user}@" if user else "//")
        world.environ(**dict.fromkeys(variables, url), **environ)
        verify = {"verify": str(world.folder / "ca.pem")} if tls_ else {}
        world.connect(**({} if variables else {"proxy": url}), **verify)

    return Case(name, arrange=arrange, holds=holds, requests=1, warnings=0, tls=tls() if tls_ else None)


def netrc(world: World) -> None:
    world.environ(NETRC=world.file("netrc", f"machine {HOST}\nlogin me\npassword stray\n".encode()))


def netrc_at_home(world: World) -> None:
    world.file(".netrc", f"machine {HOST}\nlogin me\npassword stray\n".encode())
    world.environ(HOME=world.folder)


def no_authorization(world: World) -> None:
    [seen] = world.standin.requests
    assert "Authorization" not in seen.headers
    assert seen.headers["x-portkey-api-key"] == world.standin.api_key


def ca_from(*variables: str, names: str = "ca.pem", **extra: Any) -> Callable[[World], None]:
    def arrange(world: World) -> None:
        world.file("junk.pem", b"no certificate\n")
        world.environ(**dict.fromkeys(variables, world.folder / names))
        world.connect(**extra)

    return arrange


def proxy_refuses(world: World) -> None:
    world.proxy = world.serve_proxy(refuses=True)
    world.environ(HTTP_PROXY=world.proxy.url.replace("//", "//me:proxypass123@"))


def nothing_left_open(world: World) -> None:
    assert world.error is not None
    world.error.__traceback__ = None
    gc.collect()
    assert not any("Unclosed" in text for _, text in world.log.told)


def bad_tls(name: str, context: Callable[[World], ssl.SSLContext], *words: str, **more: Any) -> Case:
    """A server that can't prove who it is: nothing is sent to it, and the log says at once what is wrong."""

    def holds(world: World) -> None:
        [warning] = world.log.at(logging.WARNING)
        for text in words:
            assert text in warning

    return Case(
        name,
        tls=context,
        task={"timeout": 0.3},
        error=PortkeyBatchTimeoutError,
        words=words,
        requests=0,
        holds=holds,
        **{"arrange": trust} | more,
    )


AMBIENT = [
    Case(".netrc for the host", arrange=netrc, requests=1, holds=no_authorization),
    Case(".netrc for the host, at home", arrange=netrc_at_home, requests=1, holds=no_authorization),
    proxied("HTTP_PROXY", "HTTP_PROXY", holds=through_proxy()),
    proxied("http_proxy", "http_proxy", holds=through_proxy()),
    proxied("ALL_PROXY", "ALL_PROXY", holds=through_proxy()),
    proxied("HTTPS_PROXY", "HTTPS_PROXY", holds=through_proxy(tls=True), tls_=True),
    proxied("HTTPS_PROXY is not for http", "HTTPS_PROXY", holds=past_proxy),
    proxied(
        "HTTPS_PROXY with credentials",
        "HTTPS_PROXY",
        user="me%40corp:p%3Ass",
        holds=through_proxy(tls=True, user="me@corp:p:ss"),
        tls_=True,
    ),
    proxied("HTTP_PROXY with credentials", "HTTP_PROXY", user="me:pass", holds=through_proxy(user="me:pass")),
    proxied("NO_PROXY for the host", "HTTP_PROXY", NO_PROXY=f"example.com,{HOST}", holds=past_proxy),
    proxied("no_proxy for its network", "HTTP_PROXY", no_proxy="127.0.0.0/8", holds=past_proxy),
    proxied("NO_PROXY for all", "HTTP_PROXY", NO_PROXY="*", holds=past_proxy),
    proxied("NO_PROXY for another host", "HTTP_PROXY", NO_PROXY="example.com", holds=through_proxy()),
    proxied("NO_PROXY for the host, with TLS", "HTTPS_PROXY", NO_PROXY=HOST, holds=past_proxy, tls_=True),
    proxied("proxy of the connection", holds=through_proxy()),
    proxied("proxy of the connection, with TLS", holds=through_proxy(tls=True), tls_=True),
    proxied("proxy of the connection with credentials", user="me:pa%20ss", holds=through_proxy(user="me:pa ss")),
    proxied("proxy of the connection, against NO_PROXY", NO_PROXY="*", holds=through_proxy()),
    Case(
        "a proxy that refuses http",
        arrange=proxy_refuses,
        error=PortkeyRefusedError,
        words=["The gateway answered HTTP 407"],
        unsaid=["proxypass123"],
        requests=0,
    ),
    Case(
        "a proxy that refuses https",
        tls=tls(),
        arrange=in_turn(proxy_refuses, trust, lambda world: world.environ(HTTPS_PROXY=world.proxy.url)),
        task={"timeout": 0.3},
        error=PortkeyBatchTimeoutError,
        words=["No answer", "407"],
        requests=0,
    ),
    Case(
        "a proxy that is down",
        arrange=lambda world: world.environ(HTTP_PROXY="http://127.0.0.1:1"),
        task={"timeout": 0.3},
        error=PortkeyBatchTimeoutError,
        words=["No answer", "proxy between"],
        requests=0,
    ),
    Case(
        "a proxy with a port that is no number",
        arrange=lambda world: world.environ(HTTP_PROXY="http://me:proxypass123@127.0.0.1:port"),
        task={"timeout": 0.3},
        error=PortkeyInputError,
        words=["proxy"],
        unsaid=["proxypass123"],
        requests=0,
    ),
    Case(
        "a SOCKS proxy",
        arrange=lambda world: world.environ(ALL_PROXY="socks5://me:proxypass123@127.0.0.1:1"),
        error=PortkeyInputError,
        words=["socks5 proxy", "http and https"],
        unsaid=["proxypass123"],
        requests=0,
        holds=nothing_left_open,
    ),
    Case("REQUESTS_CA_BUNDLE", tls=tls(), arrange=ca_from("REQUESTS_CA_BUNDLE"), requests=1, warnings=0),
    Case("SSL_CERT_FILE", tls=tls(), arrange=ca_from("SSL_CERT_FILE"), requests=1, warnings=0),
    Case("CURL_CA_BUNDLE", tls=tls(), arrange=ca_from("CURL_CA_BUNDLE"), requests=1, warnings=0),
    Case("verify of the connection", tls=tls(), arrange=trust, requests=1, warnings=0),
    Case(
        "verify of the connection, against the environment",
        tls=tls(),
        arrange=in_turn(ca_from("REQUESTS_CA_BUNDLE", names="junk.pem"), trust),
        requests=1,
    ),
    Case(
        "verify false",
        tls=tls("elsewhere.example", expired=True),
        arrange=lambda world: world.connect(verify=False),
        requests=1,
    ),
    Case(
        "verify true in words",
        tls=tls(),
        arrange=ca_from("SSL_CERT_FILE", verify="true"),
        requests=1,
    ),
    *(
        Case(
            f"{where} names a file that is not there",
            arrange=arrange,
            error=PortkeyInputError,
            words=[where, "no such file"],
            requests=0,
        )
        for where, arrange in {
            "REQUESTS_CA_BUNDLE": ca_from("REQUESTS_CA_BUNDLE", names="gone.pem"),
            "SSL_CERT_FILE": ca_from("SSL_CERT_FILE", names="gone.pem"),
            "verify": lambda world: world.connect(verify="/gone/ca.pem"),
        }.items()
    ),
    *(
        Case(
            f"{where} names a file that holds no certificate",
            tls=tls(),
            arrange=arrange,
            task={"timeout": 0.3},
            error=PortkeyInputError,
            words=[where, "junk.pem"],
            requests=0,
        )
        for where, arrange in {
            "SSL_CERT_FILE": ca_from("SSL_CERT_FILE", names="junk.pem"),
            "verify": in_turn(ca_from(), lambda world: world.connect(verify=str(world.folder / "junk.pem"))),
        }.items()
    ),
    bad_tls(
        "a private CA that nobody named",
        tls(),
        "certificate verify failed",
        "verify in the connection's extra, or in REQUESTS_CA_BUNDLE or SSL_CERT_FILE",
        arrange=lambda world: None,
    ),
    bad_tls("another private CA", tls(signed_by=lambda world: trustme.CA()), "certificate verify failed"),
    bad_tls("an expired certificate", tls(expired=True), "certificate has expired"),
    bad_tls(
        "an expired certificate, and a long id",
        tls(expired=True),
        "certificate has expired",
        batch_id=quote(ARN + "x" * 200, safe=""),
    ),
    bad_tls("a certificate for another host", tls("elsewhere.example"), "certificate is not valid for '127.0.0.1'"),
]


def rotate(*, connection: str, server: str, after: int = 2) -> Callable[[World], None]:
    """Change the keys after some requests; the connection first, so that no look falls between the two."""

    def meanwhile(world: World) -> None:
        world.standin.wait_for(after)
        if connection:
            world.connect(password=connection)
        world.standin.api_key = server

    return meanwhile


def keys_sent(*expected: str) -> Callable[[World], None]:
    def holds(world: World) -> None:
        keys = [seen.headers["x-portkey-api-key"] for seen in world.standin.requests]
        assert [key for n, key in enumerate(keys) if n == 0 or keys[n - 1] != key] == list(expected)

    return holds


OLD, NEW, NEWER = "pk-standin-0123456789", "pk-new-9876543210", "pk-newer-9876543210"


def rotate_twice(world: World) -> None:
    rotate(connection=NEW, server=NEW)(world)
    world.standin.wait_for(len(world.standin.requests) + 3)
    world.connect(password=NEWER)
    world.standin.api_key = NEWER


ROTATION = [
    Case(
        "the key changes in mid-wait",
        [*["in_progress"] * 6, "completed"],
        meanwhile=rotate(connection=NEW, server=NEW),
        task={"poke_interval": 0.05},
        requests=8,
        warnings=0,
        holds=keys_sent(OLD, NEW),
    ),
    Case(
        "the key changes twice",
        [*["in_progress"] * 12, "completed"],
        meanwhile=rotate_twice,
        task={"poke_interval": 0.05},
        requests=15,
        warnings=0,
        holds=keys_sent(OLD, NEW, NEWER),
    ),
    Case(
        "the key changes, the connection does not",
        ["in_progress"],
        meanwhile=rotate(connection="", server=NEW),
        task={"poke_interval": 0.05},
        error=PortkeyRefusedError,
        words=["Portkey answered HTTP 401", "Check the Portkey API key"],
        holds=keys_sent(OLD),
    ),
    Case(
        "the key changes, the connection to another wrong one",
        ["in_progress"],
        meanwhile=rotate(connection=NEWER, server=NEW),
        task={"poke_interval": 0.05},
        error=PortkeyRefusedError,
        words=["Portkey answered HTTP 401"],
        holds=in_turn(
            keys_sent(OLD, NEWER),
            lambda world: same([s.headers["x-portkey-api-key"] for s in world.standin.requests].count(NEWER), 1),
        ),
    ),
    Case(
        "the key changes during an outage",
        ["in_progress", *[DOWN] * 8, "in_progress", "completed"],
        meanwhile=rotate(connection=NEW, server=NEW),
        task={"poke_interval": 0.05},
        requests=12,
        holds=keys_sent(OLD, NEW),
    ),
    Case(
        "the key changes just before the end of an outage",
        # The second call after the first look reads the old key, and meets the new one with its third attempt.
        ["in_progress", *[DOWN] * 4, replace(DOWN, delay=0.5), "in_progress", "completed"],
        meanwhile=rotate(connection=NEW, server=NEW, after=6),
        task={"poke_interval": 0.05},
        requests=9,
        holds=keys_sent(OLD, NEW),
    ),
    Case(
        "the connection is gone when the key is refused",
        ["in_progress"],
        meanwhile=in_turn(
            rotate(connection=OLD, server=OLD),
            lambda world: world.monkeypatch.delenv("AIRFLOW_CONN_PORTKEY_DEFAULT"),
            rotate(connection="", server=NEW),
        ),
        task={"poke_interval": 0.05},
        error=PortkeyConnectionNotFoundError,
        words=["portkey_default"],
        stacks=["requests"],  # a trigger goes on for a while: see test_trigger.py
    ),
]


def jump(hours: int) -> Callable[[World], None]:
    def meanwhile(world: World) -> None:
        world.standin.wait_for(2)
        world.clock.ahead = 3600.0 * hours

    return meanwhile


def one_request_beyond(world: World) -> None:
    """The request that was under way at the deadline may end; none that could outlast it by its limit follows."""
    deadline = world.began + 0.5
    assert len([seen for seen in world.standin.requests if seen.at > deadline + 0.1]) == 0
    assert 0.5 <= world.ended - world.began < 0.5 + 0.6 + 0.5


def at_the_deadline(world: World) -> None:
    assert world.standin.requests[-1].at - world.began > 0.35


TIMING = [
    *(
        Case(
            f"the clock jumps an hour {where}, the batch ends",
            [*["in_progress"] * 6, "completed"],
            meanwhile=jump(hours),
            task={"poke_interval": 0.05},
            requests=7,
            warnings=0,
            holds=lasted(0.2, 3.0),
        )
        for where, hours in (("ahead", 1), ("back", -1))
    ),
    *(
        Case(
            f"the clock jumps an hour {where}, the timeout stays",
            ["in_progress"],
            meanwhile=jump(hours),
            task={"poke_interval": 0.05, "timeout": 0.5},
            error=PortkeyBatchTimeoutError,
            words=["timeout of 0.5 s"],
            requests=range(5, 16),
            holds=lasted(0.5, 1.5),
        )
        for where, hours in (("ahead", 1), ("back", -1))
    ),
    Case(
        "the deadline passes during a slow request that brings the end",
        ["in_progress", Answer(body=WHOLE, delay=0.8)],
        task={"timeout": 0.4, "poke_interval": 0.1},
        requests=2,
        holds=lasted(0.8, 3.0),
    ),
    Case(
        "the deadline passes during a slow request that brings nothing",
        ["in_progress", Answer(delay=60)],
        task={"timeout": 0.5, "poke_interval": 0.1},
        extra={"timeout": 0.6},
        error=PortkeyBatchTimeoutError,
        words=["Last seen: Batch batch_1 is in_progress"],
        holds=one_request_beyond,
    ),
    Case(
        "the deadline passes during the pause between two attempts",
        [DOWN],
        constants=WITHIN_A_CALL,
        task={"timeout": 0.5},
        error=PortkeyBatchTimeoutError,
        words=["HTTP 503"],
        holds=lasted(0.5, 2.0),
    ),
    Case(
        "timeout 0 still looks once",
        ["in_progress"],
        task={"timeout": 0},
        error=PortkeyBatchTimeoutError,
        words=["timeout of 0 s", "Last seen: Batch batch_1 is in_progress"],
        requests=range(1, 3),
        holds=lasted(0.0, 1.0),
    ),
    Case("timeout 0, the batch has ended", task={"timeout": 0}, requests=1),
    Case(
        "poll interval longer than the timeout",
        ["in_progress"],
        task={"timeout": 0.4, "poke_interval": 60},
        error=PortkeyBatchTimeoutError,
        requests=range(1, 4),  # a trigger's first look comes at a random time, which may be all but the last
        holds=in_turn(lasted(0.4, 1.5), at_the_deadline),
    ),
]

AREAS = {
    "transient": TRANSIENT,
    "mistakes": MISTAKES,
    "lies": LIES,
    "words": TERMINAL_WORDS,
    "ids": IDS,
    "redirects": REDIRECTS,
    "ambient": AMBIENT,
    "rotation": ROTATION,
    "timing": TIMING,
}
CASES = {f"{area}: {case.name}": case for area, cases in AREAS.items() for case in cases}
assert len(CASES) == sum(map(len, AREAS.values())), "each case has a name of its own"


def test_a_session_of_one_s_own_follows_no_redirect_either(standin: StandIn, connection: str) -> None:
    hook = PortkeyHook(connection)
    with StandIn() as other, hook.get_conn() as session:
        standin.script("batch_1", Answer(302, headers={"location": f"{other.base_url}/batches/batch_1"}), "completed")
        with pytest.raises(requests.TooManyRedirects, match="redirect, which is not followed"):
            session.get(f"{hook.base_url}/batches/batch_1", timeout=10)
        assert session.get(f"{hook.base_url}/batches/batch_1", timeout=10).json()["status"] == "completed"
        assert not other.requests


@pytest.mark.parametrize(
    ("case", "stack"),
    [pytest.param(case, stack, id=f"{name}-{stack}") for name, case in CASES.items() for stack in case.stacks],
)
def test_case(case: Case, stack: Stack, world: World) -> None:
    for name, value in ({"MAX_PAUSE": 0.02} | dict(case.constants)).items():
        world.monkeypatch.setattr(api, name, value)
    if case.chance is not None:
        chance = case.chance
        world.monkeypatch.setattr(random, "random", lambda: chance)
    world.monkeypatch.setattr(time, "time", world.clock)
    world.batch_id = case.batch_id
    world.standin = world.serve(case.tls(world) if case.tls else None)
    world.connect(**case.extra)
    if case.arrange:
        case.arrange(world)
    answers = case.answers(world) if callable(case.answers) else case.answers
    known_as = unquote(case.batch_id.strip())
    world.standin.script(
        known_as, *(Answer(body=done(known_as)) if answer == "completed" else answer for answer in answers)
    )

    with beside(lambda: case.meanwhile(world) if case.meanwhile else None):
        wait(stack, world, case.batch_id, **case.task)

    if case.error is None and world.error is not None:
        raise world.error
    assert type(world.error) is (case.error or type(None)), world.answer
    if case.error is None:
        assert world.answer is not None
        assert world.answer["status"] == "completed"
        assert world.xcoms == {name: world.answer[name] for name in ("output_file_id", "error_file_id")}
    for text in case.words:
        assert text in world.message
    for text in case.unsaid:
        assert text not in world.message
        assert not any(text in told for _, told in world.log.told)
    seen = world.standin.requests
    if case.requests is not None:
        assert len(seen) in (case.requests if isinstance(case.requests, range) else [case.requests])
    if case.warnings is not None:
        assert len(world.log.at(logging.WARNING)) == case.warnings, world.log.told
    if case.holds:
        case.holds(world)
    assert world.ended - world.began < 15


# --- What only one of the two can meet. -------------------------------------------------------------------------------


class TestTriggererRestart:
    def restart(self, world: World, *, timeout: float, **kwargs: Any) -> dict[str, Any]:
        """Let a triggerer go down in mid-wait and another take over what Airflow stored."""
        now = time.time()
        trigger = PortkeyBatchTrigger("batch_1", poke_interval=0.05, started_at=now, deadline=now + timeout, **kwargs)
        world.began = time.monotonic()

        async def first() -> None:
            task = asyncio.ensure_future(only_event(revive(trigger)))
            await asyncio.to_thread(world.standin.wait_for, 3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(first())
        event = asyncio.run(only_event(revive(trigger)))
        world.ended = time.monotonic()
        return event

    @pytest.fixture(autouse=True)
    def _serve(self, world: World) -> None:
        world.standin = world.serve()
        world.connect()

    def test_the_first_deadline_stays(self, world: World) -> None:
        world.standin.script("batch_1", "in_progress")
        event = self.restart(world, timeout=1.0)
        assert event["event"] == "timeout"
        assert 1.0 <= world.ended - world.began < 1.6

    def test_the_wait_goes_on(self, world: World) -> None:
        world.standin.script("batch_1", *["in_progress"] * 8, "completed")
        event = self.restart(world, timeout=20.0)
        assert event["batch"]["status"] == "completed"

    def test_a_deadline_that_passed_meanwhile_leaves_one_look(self, world: World) -> None:
        world.standin.script("batch_1", "completed")
        event = asyncio.run(only_event(PortkeyBatchTrigger("batch_1", started_at=0.0, deadline=1.0)))
        assert event["event"] == "ended"
        assert len(world.standin.requests) == 1


ENDED = {"batch_id": "batch_1", "event": "ended", "batch": Batch.from_dict(WHOLE).to_dict()}

EVENTS: dict[str, Any] = {
    "None": None,
    "a string": "success",
    "a list": [ENDED],
    "a number": 1,
    "true": True,
    "an empty dict": {},
    "no batch id": without(ENDED, "batch_id"),
    "batch id null": ENDED | {"batch_id": None},
    "no event": without(ENDED, "event"),
    "event null": ENDED | {"event": None},
    "event as a list": ENDED | {"event": ["ended"]},
    "an event nobody knows": ENDED | {"event": "success"},
    "a peer's event": {"status": "success", "message": "Batch batch_1 has completed.", "batch_id": "batch_1"},
    "no batch": without(ENDED, "batch"),
    "batch null": ENDED | {"batch": None},
    "batch as a string": ENDED | {"batch": json.dumps(ENDED["batch"])},
    "batch as a list": ENDED | {"batch": [ENDED["batch"]]},
    "batch empty": ENDED | {"batch": {}},
    "batch without id": ENDED | {"batch": without(WHOLE, "id")},
    "batch without status": ENDED | {"batch": without(WHOLE, "status")},
    "a foreign batch id": ENDED | {"batch_id": "batch_2"},
    "a foreign batch": {"batch_id": "batch_2", "event": "ended", "batch": batch_body("batch_2", "completed")},
    "another batch's dict": ENDED | {"batch": batch_body("batch_2", "completed")},
    "another batch's bad end": ENDED | {"batch": batch_body("batch_2", "failed")},
    "a batch in flight": ENDED | {"batch": batch_body("batch_1", "in_progress")},
    "a batch with an unknown status": ENDED | {"batch": batch_body("batch_1", "paused")},
    "timeout without a message": {"batch_id": "batch_1", "event": "timeout"},
    "refused without a message": {"batch_id": "batch_1", "event": "refused", "status_code": 401},
    "input_error without a message": {"batch_id": "batch_1", "event": "input_error"},
    "timeout of a foreign batch": {"batch_id": "batch_2", "event": "timeout", "message": "never seen"},
    "refused, with a message that is none": {"batch_id": "batch_1", "event": "refused", "message": {"a": 1}},
}


class TestMalformedEvents:
    @pytest.mark.parametrize("event", [pytest.param(event, id=name) for name, event in EVENTS.items()])
    def test_it_fails_closed(self, event: Any) -> None:
        sensor, ti = PortkeyBatchSensor(task_id="wait", batch_id="batch_1"), TaskInstance()
        with pytest.raises(PortkeyEventError):
            sensor.execute_complete(ti.context, event)
        assert ti.xcoms == {}

    def test_the_whole_event_passes(self) -> None:
        sensor, ti = PortkeyBatchSensor(task_id="wait", batch_id="batch_1"), TaskInstance()
        assert sensor.execute_complete(ti.context, ENDED) == ENDED["batch"]
        assert set(ti.xcoms) == {"output_file_id", "error_file_id"}

    def test_no_event_at_all(self) -> None:
        with pytest.raises(PortkeyEventError):
            PortkeyBatchSensor(task_id="wait", batch_id="batch_1").execute_complete(TaskInstance().context)


# --- What no table has room for. --------------------------------------------------------------------------------------

SETTINGS = api.Settings.from_connection("c", password="pk-0123456789", extra='{"virtual_key": "openai-prod"}')
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
MEMBERS = (
    "id object status provider_status endpoint errors input_file_id output_file_id error_file_id completion_window "
    "created_at expires_at completed_at request_counts metadata error message provider data"
).split()
STATUS = st.sampled_from([w for words in WORDS.values() for w in words]) | JSON
ANSWERS = st.one_of(
    JSON,
    st.dictionaries(st.sampled_from(MEMBERS), JSON),
    st.builds(
        lambda members, status: members | {"id": "batch_1", "status": status},
        st.dictionaries(st.sampled_from(MEMBERS), JSON),
        STATUS,
    ),
)


class TestProperties:
    @given(answer=ANSWERS, status=st.sampled_from([200, 246, 302, 400, 401, 404, 429, 500, 503]))
    def test_an_answer_is_a_batch_or_one_of_our_errors(self, answer: Any, status: int) -> None:
        self.read(json.dumps(answer).encode(), status)

    @given(body=st.binary(max_size=200), status=st.integers(200, 599))
    def test_bytes_are_a_batch_or_one_of_our_errors(self, body: bytes, status: int) -> None:
        self.read(body, status)

    @given(headers=st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "location"]), st.text()))
    def test_headers_do_no_harm(self, headers: dict[str, str]) -> None:
        for status in (302, 429, 503):
            self.read(b"", status, headers)

    def read(self, body: bytes, status: int, headers: dict[str, str] | None = None) -> None:
        request = api.retrieve_batch(SETTINGS, "batch_1")
        try:
            batch = api.read_batch(api.Response(status, headers or {}, body), request, SETTINGS, "batch_1")
        except PortkeyApiError as error:
            told: PortkeyApiError | Batch = error
        else:
            told = batch
        # What is told can be written to a log and to a database.
        assert len(str(told).encode()) < 5_000
        if isinstance(told, PortkeyApiError):
            assert told.retry_after is None or 0 <= told.retry_after <= api.MAX_RETRY_AFTER
            return
        answer = told.to_dict()
        stored = json.dumps(answer, allow_nan=False, ensure_ascii=False).encode()
        assert json.loads(stored) == answer
        assert Batch.from_dict(answer) == told

    @given(batch_id=st.text() | st.text("./%2eEfF\\?#:@ ab\n", max_size=12))
    def test_an_id_is_sent_as_one_segment_or_refused(self, batch_id: str) -> None:
        try:
            request = api.retrieve_batch(SETTINGS, batch_id)
        except PortkeyInputError:
            return
        for path in (
            urlsplit(requests.Request("GET", request.url).prepare().url or "").path,
            URL(request.url, encoded=True).raw_path,
        ):
            [_, v1, batches, segment] = path.split("/")
            assert (v1, batches) == ("v1", "batches")
            assert unquote(segment) == unquote(batch_id.strip())
            assert segment == encode_id(segment)
            assert re.fullmatch(r"[A-Za-z0-9_.~%-]+", segment)

    @given(batch_id=JSON.filter(lambda value: not isinstance(value, str)))
    def test_an_id_that_is_no_text_is_refused(self, batch_id: Any) -> None:
        with pytest.raises(PortkeyInputError):
            api.retrieve_batch(SETTINGS, batch_id)
