"""Hostile reality for what creates, lists and cancels batches and moves their files, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import logging
import random
import re
import signal
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from urllib.parse import quote, unquote

import pytest

from airflow_provider_portkey import api
from airflow_provider_portkey.batch import BatchStatus
from airflow_provider_portkey.exceptions import (
    PortkeyApiError,
    PortkeyError,
    PortkeyInputError,
    PortkeyOutcomeUnknownError,
    PortkeyRefusedError,
    PortkeyTransientError,
)
from airflow_provider_portkey.files import Tally
from airflow_provider_portkey.hooks import portkey
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from tests.server.standin import HOST, Answer, StandIn, batch_body
from tests.test_hostile import (
    World,
    be_deaf,
    beside,
    give_up,
    page,
    portkey_error,
    provider_error,
    raw_answer,
    tls,
    unknown_in_dns,
)

ENDPOINT = "/v1/chat/completions"


def requests_of(count: int) -> bytes:
    line = b'{"custom_id": "%d", "method": "POST", "url": "/v1/chat/completions", "body": {"x": "%s"}}\n'
    return b"".join(line % (n, b"x" * 10_000) for n in range(count))


CONTENT = requests_of(50)
#: More than what the way buffers, so that it breaks off in its midst.
LARGE = requests_of(800)


class Place(World):
    """Where one case happens: a server that has a file and a batch, and a folder with one of ours."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, closing: ExitStack) -> None:
        super().__init__(monkeypatch, folder, closing)
        self.content = CONTENT
        self.standin = self.serve_all()
        self.target = folder / "results" / "output.jsonl"
        self.source = self.file("requests.jsonl", CONTENT)
        self.hook = PortkeyHook()
        self.connect()

    def serve_all(self, context: ssl.SSLContext | None = None) -> StandIn:
        standin = self.serve(context)
        standin.course = ((0, "in_progress"),)
        standin.files |= {"file-1": CONTENT, "file-in": b""}
        standin.script("batch_1", "in_progress")
        return standin

    def grow(self) -> None:
        self.content = self.standin.files["file-1"] = LARGE
        self.source.write_bytes(LARGE)

    def begin(self) -> None:
        """Use the hook, so that what follows happens in its mid-life."""
        self.hook.get_batch("batch_1")
        self.standin.requests.clear()

    def create(self, **fields: Any) -> Any:
        return self.hook.create_batch(**{"input_file_id": "file-in", "endpoint": ENDPOINT} | fields)

    def create_many(self, count: int) -> None:
        with self.hook.get_conn() as session:
            for _ in range(count):
                body = {"input_file_id": "file-in", "endpoint": ENDPOINT, "completion_window": "24h"}
                session.post(f"{self.standin.base_url}/batches", json=body, timeout=10)

    @property
    def results(self) -> set[str]:
        return {path.name for path in self.target.parent.iterdir()} if self.target.parent.exists() else set()


@dataclass(frozen=True)
class Call:
    """A call of the hook, the request it makes, its words, and how to see that it took effect once and no more."""

    do: Callable[[Place], Any]
    method: str
    path: str
    subject: str
    took_effect: Callable[[Place], bool]

    def fail(self, place: Place, *answers: Answer, **how: Any) -> None:
        place.standin.fail(self.method, self.path, *answers, **how)

    def sent(self, place: Place) -> list[float]:
        """When each of its requests came."""
        seen = place.standin.requests
        wanted = [s for s in seen if s.method == self.method and re.fullmatch(self.path, s.raw_path.partition("?")[0])]
        return [s.at for s in wanted]


def uploaded(place: Place) -> bool:
    digest = hashlib.sha256(place.content).hexdigest()
    return [(u.filename, u.purpose, u.sha256) for u in place.standin.uploads][-1:] == [
        ("requests.jsonl", "batch", digest)
    ]


def downloaded(place: Place) -> bool:
    return place.results == {"output.jsonl"} and place.target.read_bytes() == place.content


CALLS = {
    "upload": Call(
        lambda place: place.hook.upload_file(place.source), "POST", "/v1/files", "uploading file 'requests.", uploaded
    ),
    "create": Call(
        Place.create,
        "POST",
        "/v1/batches",
        "creating a batch of file 'file-in'",
        lambda place: len(place.standin.batches) == 1,
    ),
    "list": Call(
        lambda place: list(place.hook.list_batches()), "GET", "/v1/batches", "listing batches", lambda _: True
    ),
    "cancel": Call(
        lambda place: place.hook.cancel_batch("batch_1"),
        "POST",
        "/v1/batches/batch_1/cancel",
        "cancelling batch 'batch_1'",
        lambda place: set(place.standin.cancelled) == {"batch_1"},
    ),
    "download": Call(
        lambda place: place.hook.download_file("file-1", place.target),
        "GET",
        "/v1/files/file-1/content",
        "downloading file 'file-1'",
        downloaded,
    ),
    "tally": Call(
        lambda place: place.hook.tally_file("file-1"),
        "GET",
        "/v1/files/file-1/content",
        "downloading file 'file-1'",
        lambda place: place.results == set(),
    ),
}
REPEATABLE = {name: call for name, call in CALLS.items() if name != "create"}


def each(calls: dict[str, Call]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in calls.items()])


def cases(name: str, them: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(name, [pytest.param(value, id=key) for key, value in them.items()])


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Place]:
    be_deaf(monkeypatch)
    monkeypatch.setattr(api, "MAX_PAUSE", 0.002)
    logger = logging.Logger("hostile", logging.DEBUG)
    # Airflow 3 logs through structlog, which knows nothing of handlers.
    monkeypatch.setattr(PortkeyHook, "log", logger)
    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 20)
    with ExitStack() as closing:
        closing.callback(signal.setitimer, signal.ITIMER_REAL, 0)
        place = Place(monkeypatch, tmp_path, closing)
        logger.addHandler(place.log)
        yield place
        assert not any(place.standin.api_key in text for _, text in place.log.told)


# --- What passes. -----------------------------------------------------------------------------------------------------

FAILURES = {
    "reset": Answer(how="reset"),
    "closed without a word": Answer(body=b"", how="raw"),
    "not HTTP": Answer(body=b"220 mail.example.com ESMTP\r\n", how="raw"),
    "closed in mid-answer": Answer(body=raw_answer(b'{"id": "fi', 900), how="raw"),
    "408": Answer(408, {"error": {"type": "timeout_error", "message": "too slow"}}),
    "429": portkey_error(429, "slow down"),
    "500": portkey_error(500, "Something went wrong"),
    "500 of the provider": provider_error(500, "broken"),
    "502 with HTML": page(502, "Bad Gateway"),
    "503 with HTML": page(503, "down"),
    "503 that breaks off": Answer(503, "x" * 1_000, how="truncate"),
    "504": Answer(504, "upstream timeout"),
    "529": provider_error(529, "overloaded"),
    "an error without an end": Answer(500, "{", how="flood"),
    "200 with an error": Answer(200, {"error": {"message": "No luck"}, "provider": "bedrock"}),
    "200 with a failure": Answer(200, {"status": "failure", "message": "No luck"}),
}
#: Any 2xx will do, since the batch is retrieved then.
ACCEPTED_BY_CANCEL = {"200 with an error", "200 with a failure"}

mishaps = pytest.mark.parametrize(
    ("call", "name"),
    [
        pytest.param(call, name, id=f"{what}-{name}")
        for what, call in REPEATABLE.items()
        for name in FAILURES
        if not (what == "cancel" and name in ACCEPTED_BY_CANCEL)
    ],
)


@mishaps
def test_two_failures_pass(call: Call, name: str, place: Place) -> None:
    call.fail(place, FAILURES[name], FAILURES[name])
    call.do(place)
    assert len(call.sent(place)) == 3
    assert call.took_effect(place)
    [first, second] = [text for text in place.log.at(logging.DEBUG) if "failed" in text]
    assert first.startswith("Attempt 1 of 3 failed: ")
    assert second.startswith("Attempt 2 of 3 failed: ")
    assert call.subject in first


@mishaps
def test_three_failures_end_the_call(call: Call, name: str, place: Place) -> None:
    answer = FAILURES[name]
    place.target.parent.mkdir()
    place.target.write_bytes(b"old")
    call.fail(place, *[answer] * 3)
    with pytest.raises(PortkeyTransientError) as caught:
        call.do(place)
    assert call.subject in str(caught.value)
    answered = answer.how in ("plain", "flood")
    assert caught.value.status_code == (answer.status if answer.how == "plain" else None)
    assert answered or caught.value.origin == "network"
    assert len(call.sent(place)) == 3
    assert place.results == {"output.jsonl"}
    assert place.target.read_bytes() == b"old"
    assert not place.standin.uploads
    assert not place.standin.cancelled


@each(CALLS)
def test_the_network_is_down_for_a_while(call: Call, place: Place) -> None:
    outage = place.closing.enter_context(ExitStack())
    outage.enter_context(place.standin.outage())

    def come_back() -> None:
        place.log.wait_for("Attempt 1 of 3 failed")
        outage.close()

    place.monkeypatch.setattr(api, "MAX_PAUSE", 0.3)
    with beside(come_back):
        call.do(place)
    assert call.took_effect(place)
    assert len(call.sent(place)) == 1


@each(CALLS)
def test_the_network_is_down(call: Call, place: Place) -> None:
    with place.standin.outage(), pytest.raises(PortkeyTransientError, match="Check the connection's host") as caught:
        call.do(place)
    assert call.subject in str(caught.value)
    assert caught.value.origin == "network"
    assert not caught.value.was_sent
    assert place.results == set()
    assert len([text for text in place.log.at(logging.DEBUG) if "of 3 failed" in text]) == 2


@each(CALLS)
def test_a_host_that_moved_is_found_by_the_next_call(call: Call, place: Place) -> None:
    place.begin()
    with place.standin.outage():
        with pytest.raises(PortkeyTransientError):
            call.do(place)
        place.standin = place.serve_all()
        place.connect()
        call.do(place)
    assert call.took_effect(place)


@pytest.mark.parametrize(
    ("call", "status"),
    [
        *(pytest.param(call, 429, id=f"{name}-429") for name, call in CALLS.items()),
        *(pytest.param(call, 503, id=f"{name}-503") for name, call in REPEATABLE.items()),
    ],
)
def test_retry_after_is_waited_for(call: Call, status: int, place: Place) -> None:
    place.monkeypatch.setattr(api, "MAX_PAUSE", 10.0)
    place.monkeypatch.setattr(random, "random", lambda: 0.0)
    call.fail(place, Answer(status, headers={"retry-after-ms": "150"}))
    call.do(place)
    first, second = call.sent(place)
    assert 0.15 <= second - first < 0.9
    assert call.took_effect(place)


@each(CALLS)
@cases(
    "value",
    {"seconds": lambda: "30", "a date": lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=30), True)},
)
def test_a_long_retry_after_ends_the_call(call: Call, value: Callable[[], str], place: Place) -> None:
    call.fail(place, *[Answer(429, headers={"Retry-After": value()})] * 3)
    with pytest.raises(PortkeyTransientError, match="A rate limit") as caught:
        call.do(place)
    assert caught.value.retry_after is not None
    assert 28 < caught.value.retry_after <= 30
    assert len(call.sent(place)) == 1


@each({name: call for name, call in REPEATABLE.items() if name not in ("download", "tally")})
def test_an_answer_that_trickles(call: Call, place: Place) -> None:
    place.connect(timeout=0.25)
    slow = Answer(how="trickle", pause=0.02, body=" " * 10_000)
    call.fail(place, slow, slow)
    place.began = time.monotonic()
    call.do(place)
    assert 0.5 <= time.monotonic() - place.began < 3.0
    assert len(call.sent(place)) == 3
    assert call.took_effect(place)
    assert "The limits are timeout=0.25 s" in place.log.at(logging.DEBUG)[0]


@each(CALLS)
def test_an_answer_that_does_not_come(call: Call, place: Place) -> None:
    place.connect(timeout=0.2)
    call.fail(place, *[Answer(delay=60)] * 3)
    with pytest.raises(PortkeyApiError, match=re.escape("The limits are timeout=0.2 s")):
        call.do(place)
    assert len(call.sent(place)) == (1 if call is CALLS["create"] else 3)
    assert place.results == set()


# --- What does not. ---------------------------------------------------------------------------------------------------

REFUSALS: dict[str, tuple[Answer, str, Sequence[str]]] = {
    "400 of Portkey": (portkey_error(400, "Following keys are not valid: x"), "portkey", ["Check virtual_key"]),
    "400 of the provider": (provider_error(400, "no"), "provider", ["The provider does not accept"]),
    "401 of Portkey": (
        portkey_error(401, "Portkey Error: Invalid API Key. Error Code: 03"),
        "portkey",
        ["Portkey answered HTTP 401", "Check the Portkey API key"],
    ),
    "401 of the provider": (
        provider_error(401, "Incorrect API key"),
        "provider",
        ["The provider 'openai' behind Portkey answered", "the provider's own credential"],
    ),
    "403 of Portkey": (portkey_error(403, "Forbidden!"), "portkey", ["Forbidden!", "lacks a scope"]),
    "403 of the provider": (provider_error(403, "no"), "provider", ["lacks a permission"]),
    "404 of no route": (
        Answer(404, {"message": "Not Found", "ok": False}),
        "gateway",
        ["Nothing answers to that path: check the connection's host"],
    ),
    "405 of a proxy": (page(405, "Not Allowed"), "gateway", ["Not Allowed"]),
    "412": (
        Answer(412, {"error": {"type": "budget_exhaust_error", "message": "Budget is used up"}}),
        "gateway",
        ["Budget is used up", "raise it there"],
    ),
    "413 of a proxy": (page(413, "Request Entity Too Large"), "gateway", ["Request Entity Too Large"]),
    "446": (Answer(446, {"error": {"message": "hooks_failed"}}), "gateway", ["A guardrail set in Portkey"]),
}


@each(CALLS)
@cases("refusal", REFUSALS)
def test_a_refusal_ends_it_at_once(call: Call, refusal: tuple[Answer, str, Sequence[str]], place: Place) -> None:
    answer, origin, words = refusal
    place.begin()
    call.fail(place, *[answer] * 4)
    with pytest.raises(PortkeyRefusedError) as caught:
        call.do(place)
    assert (caught.value.status_code, caught.value.origin) == (answer.status, origin)
    for text in (f"HTTP {answer.status} to {call.subject}", *words):
        assert text in str(caught.value)
    assert len(call.sent(place)) == 1
    assert place.results == set()
    assert not place.standin.batches
    assert not place.standin.uploads


@each(CALLS)
def test_what_is_not_found_yet(call: Call, place: Place) -> None:
    """The replica that is asked may not know of a batch or file that another has just made."""
    call.fail(place, *[provider_error(404, "No such thing")] * 2)
    call.do(place)
    assert len(call.sent(place)) == 3
    assert call.took_effect(place)


@each(CALLS)
def test_what_is_not_found(call: Call, place: Place) -> None:
    call.fail(place, *[provider_error(404, "No such thing")] * 3)
    with pytest.raises(PortkeyRefusedError) as caught:
        call.do(place)
    assert caught.value.status_code == 404
    assert len(call.sent(place)) == 3
    assert ("that the file was created in" in str(caught.value)) == (call.path.endswith("/content"))
    assert ("that the batch was created in" in str(caught.value)) != (call.path.endswith("/content"))


@each(CALLS)
def test_a_key_that_was_rotated(call: Call, place: Place) -> None:
    place.begin()
    place.standin.api_key = "pk-the-new-one-0123"
    place.connect()
    call.do(place)
    assert call.took_effect(place)
    assert len(call.sent(place)) == 2


@each(CALLS)
def test_a_key_that_was_rotated_before_the_connection(call: Call, place: Place) -> None:
    place.begin()
    place.standin.api_key = "pk-the-new-one-0123"
    with pytest.raises(PortkeyRefusedError, match="HTTP 401"):
        call.do(place)
    assert len(call.sent(place)) == 1
    place.connect()
    call.do(place)
    assert call.took_effect(place)


@each(CALLS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(call: Call, status: int, place: Place) -> None:
    other = place.serve()
    call.fail(place, Answer(status, b"moved\n", {"Location": f"{other.base_url}/files?token=t0psecret"}))
    with pytest.raises(PortkeyRefusedError, match=f"HTTP {status} to .* a redirect to {other.url}") as caught:
        call.do(place)
    assert other.connections == 0
    assert "t0psecret" not in str(caught.value)
    assert len(call.sent(place)) == 1
    assert place.results == set()


# --- Uploads. ---------------------------------------------------------------------------------------------------------


class Impatient:
    """A server that answers as soon as it has taken some of a request's body, and hangs up."""

    def __init__(self, answer: bytes, taken: int, *, lingers: bool) -> None:
        self._answer = answer
        self._taken = taken
        self._lingers = lingers
        self.connections = 0

    def __enter__(self) -> Impatient:
        self._socket = socket.create_server((HOST, 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(timeout=10)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            with client, client.makefile("rb") as sent:
                while sent.readline() not in (b"\r\n", b""):
                    pass
                sent.read(self._taken)
                client.sendall(self._answer)
                if self._lingers:  # as nginx does, so that the answer is not lost
                    client.shutdown(socket.SHUT_WR)
                    while sent.read(65_536):
                        pass


class Source:
    """A file that is read once its length is known, and is another by then."""

    name = "requests.jsonl"

    def __init__(self, size: int, content: IO[bytes]) -> None:
        self._size = size
        self._content = content
        self.opened = 0

    def stat(self) -> Any:
        return SimpleNamespace(st_size=self._size)

    def open(self, mode: str) -> IO[bytes]:
        self.opened += 1
        self._content.seek(0)
        return nullcontext(self._content)  # type: ignore[return-value]


class Broken(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > 200_000:
            raise PermissionError("the token of the store is over")
        return super().read(size)


class TestUpload:
    @pytest.mark.parametrize("after_bytes", [0, 1_000, 3_000_000, len(LARGE)])
    def test_a_reset_in_its_midst(self, after_bytes: int, place: Place) -> None:
        place.grow()
        broken = Answer(how="reset", after_bytes=after_bytes)
        place.standin.fail("POST", "/v1/files", broken, broken)
        assert place.hook.upload_file(place.source) == place.standin.uploads[0].file_id
        assert uploaded(place)
        assert len(place.standin.uploads) == 1

    def test_a_server_that_takes_its_time(self, place: Place) -> None:
        """It may let the body wait for longer than a connection."""
        place.connect(connect_timeout=0.2, timeout=5)
        with place.source.open("wb") as file:
            file.truncate(32 * 2**20)
        place.standin.fail("POST", "/v1/files", Answer(delay=0.6))
        place.hook.upload_file(place.source)
        assert [upload.bytes for upload in place.standin.uploads] == [32 * 2**20]
        assert len(place.standin.requests) == 1

    def test_its_answer_is_lost(self, place: Place) -> None:
        place.standin.fail("POST", "/v1/files", Answer(how="reset"), after=True)
        assert place.hook.upload_file(place.source) == place.standin.uploads[1].file_id

    @cases(
        "answer",
        {
            "nonsense": Answer(200, "OK"),
            "nothing": Answer(200, ""),
            "null": Answer(200, b"null"),
            "a list": Answer(200, b'["file-1"]'),
            "no id": Answer(200, {"object": "file"}),
            "an id that is none": Answer(200, {"id": 5}),
            "an empty id": Answer(200, {"id": " "}),
            "too large": Answer(200, {"id": "file-1"}, how="flood"),
        },
    )
    def test_an_answer_that_is_none(self, answer: Answer, place: Place) -> None:
        place.standin.fail("POST", "/v1/files", answer)
        assert place.hook.upload_file(place.source) == "file-1001"
        assert len(place.standin.requests) == 2
        place.standin.fail("POST", "/v1/files", *[answer] * 3)
        with pytest.raises(PortkeyTransientError, match=r"an 'id'|no answer of Portkey's"):
            place.hook.upload_file(place.source)

    @cases(
        "answer",
        {
            "246": Answer(246, {"id": "file-9"}),
            "as text": Answer(200, '{"id": " file-9\\n"}'),
            "with a byte order mark": Answer(200, b'\xef\xbb\xbf{"id": "file-9"}'),
        },
    )
    def test_an_odd_answer(self, answer: Answer, place: Place) -> None:
        place.standin.fail("POST", "/v1/files", answer)
        assert place.hook.upload_file(place.source) == "file-9"

    @pytest.mark.parametrize("lingers", [True, False])
    @pytest.mark.parametrize("taken", [0, 200_000])
    def test_a_refusal_while_it_is_being_sent(self, lingers: bool, taken: int, place: Place) -> None:
        place.grow()
        body = json.dumps({"status": "failure", "message": "Invalid API Key"}).encode()
        head = f"HTTP/1.1 401 Unauthorized\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        with Impatient(head.encode() + body, taken, lingers=lingers) as server:
            place.connect(host=f"http://{HOST}:{server.port}")
            with pytest.raises(PortkeyRefusedError, match="HTTP 401 to uploading file"):
                place.hook.upload_file(place.source)
        assert server.connections == 1

    def test_a_file_that_is_cut_short_meanwhile(self, place: Place) -> None:
        place.monkeypatch.setattr(portkey, "storage_path", lambda path: Source(len(CONTENT) + 1, io.BytesIO(CONTENT)))
        with pytest.raises(OSError, match="cut short while it was uploaded: its last 1 bytes"):
            place.hook.upload_file("x")
        assert not place.standin.uploads

    def test_a_file_that_grows_meanwhile(self, place: Place) -> None:
        source = Source(len(CONTENT), io.BytesIO(CONTENT + CONTENT))
        place.monkeypatch.setattr(portkey, "storage_path", lambda path: source)
        place.hook.upload_file("x")
        assert uploaded(place)

    def test_a_file_that_can_be_read_no_longer(self, place: Place) -> None:
        """It is no fault of the network."""
        source = Source(len(CONTENT), Broken(CONTENT))
        place.monkeypatch.setattr(portkey, "storage_path", lambda path: source)
        with pytest.raises(PermissionError, match="the token of the store is over"):
            place.hook.upload_file("x")
        assert source.opened == 1
        assert not place.standin.uploads

    def test_no_such_file(self, place: Place) -> None:
        with pytest.raises(FileNotFoundError):
            place.hook.upload_file(place.folder / "none.jsonl")
        assert not place.standin.requests

    def test_an_empty_file(self, place: Place) -> None:
        place.hook.upload_file(place.file("empty.jsonl", b""))
        assert [upload.bytes for upload in place.standin.uploads] == [0]

    @pytest.mark.parametrize("name", ["ä ö.jsonl", 'a"b.jsonl', "a;b=c%0d.jsonl"])
    def test_an_odd_name(self, name: str, place: Place) -> None:
        place.hook.upload_file(place.file(name, b"x\n"))
        [upload] = place.standin.uploads
        assert (upload.bytes, upload.purpose) == (2, "batch")
        assert unquote(upload.filename) == unquote(name)

    def test_a_purpose_that_is_refused(self, place: Place) -> None:
        with pytest.raises(PortkeyRefusedError, match="is not one of"):
            place.hook.upload_file(place.source, purpose="other")
        assert len(place.standin.requests) == 1


# --- Downloads. -------------------------------------------------------------------------------------------------------


class TestDownload:
    BREAKS = {
        "at once": Answer(how="truncate", after_bytes=1),
        "in its midst": Answer(how="truncate", after_bytes=5_000_000),
        "at its last byte": Answer(how="truncate", after_bytes=len(LARGE) - 1),
        "orderly": Answer(body=raw_answer(LARGE[:500_000], len(LARGE)), how="raw"),
        "within a chunk": Answer(
            body=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + LARGE[:1_000], how="raw"
        ),
        "between two chunks": Answer(
            body=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n" + LARGE[:100] + b"\r\n", how="raw"
        ),
    }

    @cases("answer", BREAKS)
    @pytest.mark.parametrize("call", [CALLS["download"], CALLS["tally"]], ids=["download", "tally"])
    def test_it_breaks_off_twice(self, answer: Answer, call: Call, place: Place) -> None:
        place.grow()
        call.fail(place, answer, answer)
        done = call.do(place)
        tally = getattr(done, "tally", done)
        assert (tally.bytes, tally.lines, len(tally.custom_ids), tally.doubled) == (len(LARGE), 800, 800, set())
        assert tally.sha256 == hashlib.sha256(LARGE).hexdigest()
        assert call.took_effect(place)

    @cases("answer", BREAKS)
    @pytest.mark.parametrize("old", [None, b"old"])
    def test_it_breaks_off_for_good(self, answer: Answer, old: bytes | None, place: Place) -> None:
        place.grow()
        if old:
            place.target.parent.mkdir()
            place.target.write_bytes(old)
        CALLS["download"].fail(place, *[answer] * 3)
        with pytest.raises(PortkeyTransientError, match="No answer to downloading file 'file-1'"):
            place.hook.download_file("file-1", place.target)
        assert len(place.standin.requests) == 3
        assert place.results == ({"output.jsonl"} if old else set())
        if old:
            assert place.target.read_bytes() == old

    def test_it_replaces_an_old_one(self, place: Place) -> None:
        place.target.parent.mkdir()
        place.target.write_bytes(b"old")
        place.hook.download_file("file-1", place.target)
        assert downloaded(place)

    def test_a_trickle_may_last_longer_than_the_limit_of_a_call(self, place: Place) -> None:
        place.connect(timeout=0.3)
        place.standin.files["file-1"] = CONTENT[:20]
        CALLS["download"].fail(place, Answer(how="trickle", pause=0.03))
        assert place.hook.download_file("file-1", place.target).tally.bytes == 20
        assert len(place.standin.requests) == 1

    def test_a_trickle_that_stops(self, place: Place) -> None:
        place.connect(timeout=0.2)
        CALLS["download"].fail(place, *[Answer(how="trickle", pause=60)] * 2)
        place.hook.download_file("file-1", place.target)
        assert downloaded(place)
        assert len(place.standin.requests) == 3

    def test_an_error_that_trickles(self, place: Place) -> None:
        place.connect(timeout=0.2)
        CALLS["download"].fail(place, *[Answer(503, "x" * 1_000, how="trickle", pause=0.02)] * 3)
        place.began = time.monotonic()
        with pytest.raises(PortkeyTransientError, match=r"was not complete after 0\.2 s"):
            place.hook.download_file("file-1", place.target)
        assert time.monotonic() - place.began < 2

    @cases(
        "content",
        {
            "nothing": b"",
            "a line with an error": b'{"custom_id": "a", "response": null, "error": {"code": "x"}}\n',
            "some with errors": b'{"custom_id": "a", "error": {"code": "x"}}\n{"error": {"code": "y"}}\n',
            "Bedrock's line": b'{"recordId": "a", "error": null}',
            "null": b"null",
            "a list": b"[1]",
            "no text": b"\xff\x00",
            "an error larger than any": b'{"error": "' + b"x" * 200_000 + b'"}',
        },
    )
    def test_what_may_be_in_a_file_is_taken_as_it_is(self, content: bytes, place: Place) -> None:
        place.standin.files["file-1"] = content
        place.hook.download_file("file-1", place.target)
        assert place.target.read_bytes() == content
        assert len(place.standin.requests) == 1

    @cases(
        "answer",
        {
            "the provider's": Answer(200, {"error": {"message": "Try later"}, "provider": "bedrock"}),
            "text": Answer(200, '{"error": "Try later"}\n'),
            "Portkey's": Answer(200, {"status": "failure", "message": "Try later"}),
        },
    )
    def test_an_error_is_no_file(self, answer: Answer, place: Place) -> None:
        CALLS["download"].fail(place, *[answer] * 3)
        with pytest.raises(PortkeyTransientError, match=r"HTTP 200 to downloading .* it is an error.*Try later"):
            place.hook.download_file("file-1", place.target)
        assert place.results == set()
        assert len(place.standin.requests) == 3

    @pytest.mark.parametrize("size", [0, 200_000])
    def test_a_page_that_the_gateway_wraps_is_no_file(self, size: int, place: Place) -> None:
        page = Answer(200, b'{"html-message":"Try later' + b" " * size + b'"}')
        CALLS["download"].fail(place, *[page] * 3)
        with pytest.raises(PortkeyTransientError, match=r"HTTP 200 to downloading .* which it wraps.*Try later"):
            place.hook.download_file("file-1", place.target)
        assert place.results == set()
        assert len(place.standin.requests) == 3

    @pytest.mark.parametrize("encoding", ["gzip", "deflate"])
    def test_one_that_is_compressed(self, encoding: str, place: Place) -> None:
        packed = gzip.compress(CONTENT) if encoding == "gzip" else zlib.compress(CONTENT)
        headers = {"Content-Encoding": encoding}
        CALLS["download"].fail(place, Answer(200, packed, headers, how="truncate"), Answer(200, packed, headers))
        tally = place.hook.download_file("file-1", place.target).tally
        assert downloaded(place)
        assert (tally.bytes, tally.lines) == (len(CONTENT), 50)

    def test_one_that_is_compressed_and_broken(self, place: Place) -> None:
        broken = Answer(200, b"no gzip at all", {"Content-Encoding": "gzip"})
        CALLS["download"].fail(place, broken, broken, broken)
        with pytest.raises(PortkeyTransientError, match="No answer"):
            place.hook.download_file("file-1", place.target)
        assert place.results == set()

    @pytest.mark.parametrize("length", ["abc", "-5", "1_0", "", "27, 27"])
    def test_a_length_that_is_none(self, length: str, place: Place) -> None:
        body = b'{"custom_id": "a", "n": 12}'
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n".encode()
        CALLS["download"].fail(place, *[Answer(body=head + body, how="raw")] * 3)
        with suppress(PortkeyTransientError):  # or it is taken as it is
            place.hook.download_file("file-1", place.target)
            assert place.target.read_bytes()[:10] == body[:10]

    @pytest.mark.parametrize("known_as", ["s3://bucket/a b/out.jsonl", "gs://b/é.jsonl"])
    def test_an_id_is_encoded_exactly_once(self, known_as: str, place: Place) -> None:
        once = quote(known_as, safe="")
        place.standin.files[known_as] = CONTENT
        for given in (known_as, once, once.replace("%2F", "%2f"), f" {once}\n"):
            place.hook.download_file(given, place.target)
            assert downloaded(place)
        assert {seen.raw_path for seen in place.standin.requests} == {f"/v1/files/{once}/content"}

    @pytest.mark.parametrize("file_id", ["", " ", "None", None, 5, ".", "..", "%2E%2e", "a\nb", "a%0Ab", "x" * 3_000])
    def test_an_id_that_can_t_be_meant(self, file_id: Any, place: Place) -> None:
        with pytest.raises(PortkeyInputError, match=r"file_id .*Nothing was sent"):
            place.hook.download_file(file_id, place.target)
        assert not place.standin.requests
        assert place.results == set()

    def test_a_disk_that_is_full(self, place: Place) -> None:
        """It is no fault of the network, and nothing that another attempt could mend."""

        def write(tally: object, chunk: bytes) -> None:
            raise OSError(28, "No space left on device")

        place.monkeypatch.setattr(Tally, "add", write)
        with pytest.raises(OSError, match="No space left"):
            place.hook.download_file("file-1", place.target)
        assert place.results == set()
        assert len(place.standin.requests) == 1

    def test_a_folder_in_its_place(self, place: Place) -> None:
        with pytest.raises(IsADirectoryError):
            place.hook.download_file("file-1", place.folder)
        assert {path.name for path in place.folder.iterdir()} == {"requests.jsonl"}


# --- Creating: no batch twice. ----------------------------------------------------------------------------------------

UNKNOWN = {
    "reset": Answer(how="reset"),
    "closed without a word": Answer(body=b"", how="raw"),
    "truncated": Answer(200, batch_body("batch_9"), how="truncate"),
    "408": Answer(408, {"error": {"type": "timeout_error"}}),
    "500": portkey_error(500, "Something went wrong"),
    "500 of the provider": provider_error(500, "broken"),
    "502": page(502, "Bad Gateway"),
    "503": page(503, "down"),
    "503 with Retry-After": Answer(503, headers={"retry-after": "0"}),
    "504": Answer(504, "upstream timeout"),
    "529": provider_error(529, "overloaded"),
    "200 with an error": Answer(200, {"error": {"message": "No luck"}, "provider": "bedrock"}),
    "nonsense": Answer(200, "OK"),
    "nothing": Answer(200, ""),
    "null": Answer(200, b"null"),
    "a list": Answer(200, b"[]"),
    "no id": Answer(200, {"object": "batch", "status": "validating"}),
    "an id that is none": Answer(200, {"id": 5, "status": "validating"}),
    "too large": Answer(200, {"id": "batch_9"}, how="flood"),
}


class TestCreate:
    @pytest.mark.parametrize("after", [False, True], ids=["without effect", "with effect"])
    @cases("answer", UNKNOWN)
    def test_it_is_not_sent_again(self, answer: Answer, after: bool, place: Place) -> None:
        place.begin()
        place.standin.fail("POST", "/v1/batches", answer, after=after)
        with pytest.raises(PortkeyOutcomeUnknownError, match="creating a batch of file 'file-in'") as caught:
            place.create()
        assert "Whether it took effect all the same is not known" in str(caught.value)
        assert not isinstance(caught.value, (PortkeyTransientError, PortkeyRefusedError))
        assert len(place.standin.requests) == 1
        assert len(place.standin.batches) == after

    def test_the_next_call_reads_the_connection_again(self, place: Place) -> None:
        place.begin()
        place.standin.fail("POST", "/v1/batches", Answer(how="reset"))
        with pytest.raises(PortkeyOutcomeUnknownError):
            place.create()
        place.standin = place.serve_all()
        place.connect()
        place.create()
        assert len(place.standin.batches) == 1

    @pytest.mark.parametrize("count", [1, 2])
    def test_a_rate_limit_is_waited_out(self, count: int, place: Place) -> None:
        place.standin.fail("POST", "/v1/batches", *[portkey_error(429, "slow down")] * count)
        assert place.create().id == "batch_1001"
        assert len(place.standin.requests) == count + 1
        assert len(place.standin.batches) == 1

    def test_a_rate_limit_that_lasts(self, place: Place) -> None:
        place.standin.fail("POST", "/v1/batches", *[portkey_error(429, "slow down")] * 3)
        with pytest.raises(PortkeyTransientError, match="A rate limit"):
            place.create()
        assert len(place.standin.requests) == 3
        assert not place.standin.batches

    def test_a_rate_limit_then_a_reset(self, place: Place) -> None:
        place.standin.fail("POST", "/v1/batches", portkey_error(429, "slow down"), Answer(how="reset"))
        with pytest.raises(PortkeyOutcomeUnknownError):
            place.create()
        assert len(place.standin.requests) == 2

    def test_a_name_that_dns_does_not_know(self, place: Place) -> None:
        unknown_in_dns(place)
        with pytest.raises(PortkeyTransientError) as caught:
            place.create()
        assert not caught.value.was_sent

    def test_a_certificate_that_is_not_trusted(self, place: Place) -> None:
        place.standin = place.serve_all(tls(expired=True)(place))
        place.connect(verify=str(place.folder / "ca.pem"))
        with pytest.raises(PortkeyTransientError, match="certificate has expired") as caught:
            place.create()
        assert not caught.value.was_sent
        assert not place.standin.requests

    @pytest.mark.parametrize("secure", [False, True])
    def test_a_proxy_that_is_down(self, secure: bool, place: Place) -> None:
        place.connect(host=f"{'https' if secure else 'http'}://127.0.0.2:1", proxy=f"http://{HOST}:1")
        with pytest.raises(PortkeyTransientError) as caught:
            place.create()
        assert not caught.value.was_sent

    def test_a_proxy_that_goes_after_it_was_sent_all(self, place: Place) -> None:
        place.connect(host="http://portkey.example", proxy=place.standin.url)
        place.standin.fail("POST", ".*/v1/batches", *[Answer(how="reset")] * 3)
        with pytest.raises(PortkeyOutcomeUnknownError):
            place.create()
        assert len(place.standin.requests) == 1

    def test_a_proxy_that_opens_no_tunnel(self, place: Place) -> None:
        place.proxy = place.serve_proxy(refuses=True)
        place.connect(host=f"https://{HOST}:1", proxy=place.proxy.url)
        with pytest.raises(PortkeyTransientError) as caught:
            place.create()
        assert not caught.value.was_sent
        assert len(place.proxy.heads) == 3

    @cases(
        "answer",
        {
            "the id alone": Answer(200, {"id": "batch_9", "object": "batch"}),
            "246": Answer(246, batch_body("batch_9", "validating")),
            "as text": Answer(200, json.dumps(batch_body("batch_9", "validating"))),
            "status null": Answer(200, batch_body("batch_9", "validating") | {"status": None}),
        },
    )
    def test_an_odd_answer(self, answer: Answer, place: Place) -> None:
        place.standin.fail("POST", "/v1/batches", answer, after=True)
        batch = place.create()
        assert (batch.id, batch.status) == ("batch_9", BatchStatus.VALIDATING)
        assert len(place.standin.requests) == 1

    def test_what_is_sent(self, place: Place) -> None:
        batch = place.create(metadata={"a": "b"}, extra_body={"model": "m", "role_arn": None})
        [created] = place.standin.batches
        assert created.body == {
            "input_file_id": "file-in",
            "endpoint": ENDPOINT,
            "completion_window": "24h",
            "metadata": {"a": "b"},
            "model": "m",
        }
        assert place.standin.requests[0].headers["content-type"] == "application/json"
        assert (batch.id, batch.status, batch.input_file_id) == (created.id, "in_progress", "file-in")

    @cases(
        "wrong",
        {
            "no file": ({"input_file_id": None}, "input_file_id is None: did the task"),
            "file None": ({"input_file_id": "None"}, "input_file_id is 'None': did the task"),
            "file empty": ({"input_file_id": " "}, "input_file_id is ' '"),
            "file no text": ({"input_file_id": ["file-1"]}, "input_file_id is ['file-1']"),
            "endpoint without a slash": ({"endpoint": "v1/embeddings"}, "endpoint must be a path"),
            "endpoint a URL": ({"endpoint": "https://api.openai.com/v1/embeddings"}, "endpoint must be a path"),
            "no endpoint": ({"endpoint": None}, "endpoint must be a path"),
            "window": ({"completion_window": 24}, "completion_window must be a string"),
            "window empty": ({"completion_window": ""}, "completion_window must be a string"),
            "metadata text": ({"metadata": "a=b"}, "metadata must be a dict"),
            "metadata list": ({"metadata": [("a", "b")]}, "metadata must be a dict"),
            "17 pairs": ({"metadata": {str(n): "" for n in range(17)}}, "at most 16 pairs"),
            "a number": ({"metadata": {"a": 1}}, "'a' and its value must be strings"),
            "a null": ({"metadata": {"a": None}}, "'a' and its value must be strings"),
            "a name that is none": ({"metadata": {1: "a"}}, "metadata: 1 and its value"),
            "a name that is empty": ({"metadata": {"": "a"}}, "metadata: ''"),
            "a name too long": ({"metadata": {"x" * 65: "a"}}, "at most 64 and 512"),
            "a value too long": ({"metadata": {"x": "x" * 513}}, "at most 64 and 512"),
            "extra_body text": ({"extra_body": "{}"}, "extra_body must be a dict, got str"),
            "extra_body taken": (
                {"extra_body": {"metadata": {}, "endpoint": "/x"}},
                "extra_body has endpoint, metadata",
            ),
            "extra_body a set": ({"extra_body": {"a": {1}}}, "extra_body can't be sent as JSON"),
            "extra_body NaN": ({"extra_body": {"a": float("nan")}}, "extra_body can't be sent as JSON"),
        },
    )
    def test_what_can_t_be_meant_is_not_sent(self, wrong: tuple[dict[str, Any], str], place: Place) -> None:
        fields, words = wrong
        with pytest.raises(PortkeyInputError, match="nothing was sent") as caught:
            place.create(**fields)
        assert words in str(caught.value)
        assert len(str(caught.value).splitlines()) == 2
        assert not place.standin.connections

    def test_all_that_can_t_be_meant_is_told(self, place: Place) -> None:
        with pytest.raises(PortkeyInputError) as caught:
            place.create(
                input_file_id=None, endpoint="x", completion_window=None, metadata={"a": 1, "b": 2}, extra_body=5
            )
        assert len(str(caught.value).splitlines()) == 7


# --- Lists. -----------------------------------------------------------------------------------------------------------


def listed(*ids: str, **members: object) -> Answer:
    return Answer(200, {"object": "list", "data": [batch_body(batch_id) for batch_id in ids]} | members)


class TestList:
    def ids(self, place: Place, *answers: Answer) -> list[str]:
        if answers:
            place.standin.fail("GET", "/v1/batches", *answers)
        return [batch.id for batch in place.hook.list_batches()]

    @pytest.mark.parametrize("pages", [True, False])
    def test_more_than_a_page(self, pages: bool, place: Place) -> None:
        place.standin.pages = pages
        place.create_many(250)
        place.standin.requests.clear()
        assert self.ids(place) == [batch.id for batch in reversed(place.standin.batches)]
        paths = [seen.raw_path for seen in place.standin.requests]
        first = "/v1/batches?limit=100"
        assert paths == [first, *[f"{first}&after=batch_{n}" for n in (1151, 1051)]][: 3 if pages else 1]

    def test_a_page_is_asked_for_when_it_is_needed(self, place: Place) -> None:
        place.create_many(101)
        place.standin.requests.clear()
        batches = place.hook.list_batches()
        assert not place.standin.requests
        for _ in range(100):
            next(batches)
        assert len(place.standin.requests) == 1
        place.standin.api_key = "pk-the-new-one-0123"
        place.connect()
        assert len(list(batches)) == 1

    def test_a_page_that_fails_at_first(self, place: Place) -> None:
        place.create_many(150)
        batches = place.hook.list_batches()
        first = next(batches)
        place.standin.fail("GET", "/v1/batches", page(503, "down"), Answer(how="reset"))
        assert [first.id, *(batch.id for batch in batches)] == [b.id for b in reversed(place.standin.batches)]

    @cases(
        "answer",
        {
            "no members of paging": listed("batch_1", "batch_2"),
            "no more": listed("batch_1", "batch_2", has_more=False, last_id="batch_2"),
            "more, but null": listed("batch_1", "batch_2", has_more=None, last_id="batch_2"),
            "more, but as text": listed("batch_1", "batch_2", has_more="true", last_id="batch_2"),
            "more, behind what is no id": listed("batch_1", "batch_2", has_more=True, last_id=["batch_2"]),
        },
    )
    def test_one_page(self, answer: Answer, place: Place) -> None:
        assert self.ids(place, answer, listed("batch_3")) == ["batch_1", "batch_2"]

    @pytest.mark.parametrize("members", [{}, {"last_id": None}, {"last_id": ""}], ids=str)
    def test_the_last_id_is_missing(self, members: dict[str, Any], place: Place) -> None:
        assert self.ids(place, listed("batch_1", "a/b c", has_more=True, **members), listed("batch_3")) == [
            "batch_1",
            "a/b c",
            "batch_3",
        ]
        assert place.standin.requests[-1].raw_path == "/v1/batches?limit=100&after=a%2Fb%20c"

    def test_the_last_id_is_the_same_for_ever(self, place: Place) -> None:
        same = listed("batch_1", has_more=True, last_id="batch_1")
        assert set(self.ids(place, *[same] * 99)) == {"batch_1"}
        assert len(place.standin.requests) == 2

    def test_the_pages_go_round(self, place: Place) -> None:
        one, two = listed("a", has_more=True, last_id="a"), listed("b", has_more=True, last_id="b")
        assert set(self.ids(place, *[one, two] * 50)) == {"a", "b"}
        assert len(place.standin.requests) == 3

    def test_more_behind_an_empty_page(self, place: Place) -> None:
        assert self.ids(place, listed(has_more=True), listed("batch_1")) == []
        place.standin.requests.clear()
        # One that names where to go on may be a page whose batches are all hidden.
        assert self.ids(place, listed(has_more=True, last_id="x")) == ["batch_1"]

    def test_entries_that_are_no_batches(self, place: Place) -> None:
        good = batch_body("batch_1")
        odd: list[Any] = [
            None,
            5,
            "batch_2",
            [],
            {},
            {"id": None, "status": "failed"},
            {"id": "batch_3"},
            {"error": {"message": ""}},
        ]
        assert self.ids(place, Answer(200, {"data": [*odd, good, *odd], "has_more": False})) == ["batch_1"]

    @cases(
        "answer",
        {
            "nonsense": Answer(200, "OK"),
            "nothing": Answer(200, ""),
            "null": Answer(200, b"null"),
            "a list": Answer(200, b"[]"),
            "a list as the gateway hands it on": Answer(200, {"0": batch_body("batch_1")}),
            "no data": Answer(200, {"object": "list"}),
            "data null": Answer(200, {"object": "list", "data": None}),
            "data a dict": Answer(200, {"object": "list", "data": {}}),
            "too large": Answer(200, "{", how="flood"),
        },
    )
    def test_an_answer_that_is_none(self, answer: Answer, place: Place) -> None:
        assert self.ids(place, answer, answer, listed("batch_1")) == ["batch_1"]
        with pytest.raises(PortkeyTransientError, match=r"a list named 'data'|no answer of Portkey's"):
            self.ids(place, *[answer] * 3)

    @cases("answer", {"246": Answer(246, {"data": []}), "as text": Answer(200, '{"data": []}')})
    def test_an_odd_answer(self, answer: Answer, place: Place) -> None:
        assert self.ids(place, answer) == []
        assert len(place.standin.requests) == 1


# --- Cancelling. ------------------------------------------------------------------------------------------------------

CANCEL = ("POST", "/v1/batches/batch_1/cancel")


class TestCancel:
    @pytest.mark.parametrize("body", [None, {}, {"status": "success"}, {"status": "cancelling"}], ids=str)
    def test_whatever_it_is_answered(self, body: dict[str, object] | None, place: Place) -> None:
        place.standin.cancel_body = body
        assert place.hook.cancel_batch("batch_1").status is BatchStatus.CANCELLING
        assert [seen.method for seen in place.standin.requests] == ["POST", "GET"]

    @cases(
        "answer",
        {
            "nothing": Answer(204),
            "text": Answer(200, "OK"),
            "null": Answer(202, b"null"),
            "a list": Answer(200, b"[]"),
            "246": Answer(246, {}),
        },
    )
    def test_any_success_will_do(self, answer: Answer, place: Place) -> None:
        place.standin.fail(*CANCEL, answer, after=True)
        assert place.hook.cancel_batch("batch_1").status is BatchStatus.CANCELLING
        assert place.standin.cancelled == ["batch_1"]

    @pytest.mark.parametrize("status", ["completed", "failed", "expired", "cancelled"])
    def test_a_batch_that_has_ended(self, status: str, place: Place) -> None:
        place.standin.script("batch_1", status)
        assert place.hook.cancel_batch("batch_1").status == status
        assert [seen.method for seen in place.standin.requests] == ["POST", "GET"]

    def test_a_batch_that_is_being_cancelled(self, place: Place) -> None:
        """As by an attempt of this very call whose answer was lost."""
        place.standin.fail(*CANCEL, Answer(how="reset"), after=True)
        place.standin.fail(*CANCEL, provider_error(409, "Cannot cancel a batch with status 'cancelling'."))
        assert place.hook.cancel_batch("batch_1").status is BatchStatus.CANCELLING

    def test_a_batch_that_goes_on(self, place: Place) -> None:
        place.standin.fail(*CANCEL, provider_error(409, "It is too late"))
        with pytest.raises(PortkeyRefusedError, match=r"HTTP 409 to cancelling batch 'batch_1'.*It is too late"):
            place.hook.cancel_batch("batch_1")

    def test_it_is_sent_twice(self, place: Place) -> None:
        place.standin.fail(*CANCEL, Answer(how="reset"), after=True)
        assert place.hook.cancel_batch("batch_1").status is BatchStatus.CANCELLING
        assert place.standin.cancelled == ["batch_1", "batch_1"]

    def test_it_can_t_be_retrieved_then(self, place: Place) -> None:
        place.standin.fail("GET", "/v1/batches/batch_1", *[page(503, "down")] * 3)
        with pytest.raises(PortkeyTransientError, match="retrieving batch 'batch_1'"):
            place.hook.cancel_batch("batch_1")
        assert place.standin.cancelled == ["batch_1"]

    def test_no_further_attempt_where_there_is_no_time(self, place: Place) -> None:
        place.standin.fail(*CANCEL, page(503, "down"))
        with pytest.raises(PortkeyTransientError):
            place.hook.cancel_batch("batch_1", retry_within=0)
        assert len(place.standin.requests) == 1

    def test_an_id_is_encoded_exactly_once(self, place: Place) -> None:
        arn = "arn:aws:bedrock:us-east-1:123456789012:model-invocation-job/a b"
        place.standin.script(arn, "in_progress")
        once = quote(arn, safe="")
        for given in (arn, once):
            place.hook.cancel_batch(given)
        assert {seen.raw_path for seen in place.standin.requests} == {
            f"/v1/batches/{once}/cancel",
            f"/v1/batches/{once}",
        }

    @pytest.mark.parametrize("batch_id", ["", "None", None, "..", "a\nb"])
    def test_an_id_that_can_t_be_meant(self, batch_id: Any, place: Place) -> None:
        for cancel in (place.hook.cancel_batch, lambda given: asyncio.run(place.hook.acancel_batch(given))):
            with pytest.raises(PortkeyInputError, match=r"batch_id .*Nothing was sent"):
                cancel(batch_id)
        assert not place.standin.requests


class TestAsyncCancel:
    def cancel(self, place: Place) -> None:
        asyncio.run(place.hook.acancel_batch("batch_1"))

    @pytest.mark.parametrize("body", [None, {}, {"status": "success"}], ids=str)
    def test_whatever_it_is_answered(self, body: dict[str, object] | None, place: Place) -> None:
        place.standin.cancel_body = body
        self.cancel(place)
        [seen] = place.standin.requests
        assert (seen.method, seen.raw_path) == CANCEL
        assert place.standin.cancelled == ["batch_1"]

    @cases("name", {name: name for name in FAILURES if name not in ACCEPTED_BY_CANCEL})
    def test_two_failures_pass_and_three_do_not(self, name: str, place: Place) -> None:
        place.standin.fail(*CANCEL, *[FAILURES[name]] * 2)
        self.cancel(place)
        assert len(place.standin.requests) == 3
        assert place.standin.cancelled == ["batch_1"]
        place.standin.fail(*CANCEL, *[FAILURES[name]] * 3)
        with pytest.raises(PortkeyTransientError, match="cancelling batch 'batch_1'"):
            self.cancel(place)

    @cases("refusal", REFUSALS)
    def test_a_refusal_ends_it_at_once(self, refusal: tuple[Answer, str, Sequence[str]], place: Place) -> None:
        place.standin.fail(*CANCEL, refusal[0])
        with pytest.raises(PortkeyRefusedError, match=f"HTTP {refusal[0].status} to cancelling"):
            self.cancel(place)
        assert len(place.standin.requests) == 1

    def test_a_redirect_is_not_followed(self, place: Place) -> None:
        other = place.serve()
        place.standin.fail(*CANCEL, Answer(307, headers={"Location": other.url}))
        with pytest.raises(PortkeyRefusedError, match="not followed"):
            self.cancel(place)
        assert not other.connections

    def test_a_key_that_was_rotated(self, place: Place) -> None:
        async def in_mid_life() -> None:
            async with place.hook as hook:
                await hook.aget_batch("batch_1")
                place.standin.api_key = "pk-the-new-one-0123"
                place.connect()
                await hook.acancel_batch("batch_1")

        asyncio.run(in_mid_life())
        assert [seen.method for seen in place.standin.requests] == ["GET", "POST", "POST"]
        assert place.standin.cancelled == ["batch_1"]

    def test_the_network_is_down(self, place: Place) -> None:
        with place.standin.outage(), pytest.raises(PortkeyTransientError, match="Check the connection's host"):
            self.cancel(place)


def test_each_error_is_one_of_ours(place: Place) -> None:
    """What a caller catches to go on without the service."""
    for call in CALLS.values():
        with place.standin.outage(), pytest.raises(PortkeyError):
            call.do(place)
