"""The stand-in's responses as bytes on a connection: whole, slow, endless or broken."""

from __future__ import annotations

import threading
import time

import pytest
import requests

from tests.server.client import HOSTED, get
from tests.server.standin import Answer, StandIn


@pytest.fixture
def url(standin: StandIn) -> str:
    return f"{standin.base_url}/batches/batch_1"


@pytest.mark.parametrize(
    ("answer", "content_type", "content"),
    [
        (Answer(246, {"a": 1}), "application/json", b'{"a": 1}'),
        (Answer(503, "Bad gatewäy"), "text/plain; charset=utf-8", "Bad gatewäy".encode()),
        (Answer(500, b"\xff\x00"), "application/octet-stream", b"\xff\x00"),
        (Answer(429, "{}", {"content-type": "text/html", "Retry-After": "7"}), "text/html", b"{}"),
    ],
)
def test_a_plain_answer_has_its_status_headers_and_body(
    standin: StandIn, url: str, answer: Answer, content_type: str, content: bytes
) -> None:
    standin.script("batch_1", answer)
    response = get(url, HOSTED)
    assert (response.status_code, response.content) == (answer.status, content)
    assert response.headers["Content-Type"] == content_type
    assert response.headers.get("Retry-After") == answer.headers.get("Retry-After")


def test_a_delayed_answer_arrives_after_the_delay(standin: StandIn, session: requests.Session, url: str) -> None:
    standin.script("batch_1", Answer(delay=0.1))
    assert session.get(url).elapsed.total_seconds() >= 0.1


def test_reset_breaks_the_connection_before_any_response(standin: StandIn, session: requests.Session, url: str) -> None:
    standin.script("batch_1", Answer(how="reset"), "completed")
    with pytest.raises(requests.ConnectionError, match="Connection reset by peer"):
        session.get(url)
    assert session.get(url).json()["status"] == "completed"


def test_truncate_breaks_the_connection_within_the_body(standin: StandIn, session: requests.Session, url: str) -> None:
    standin.script("batch_1", Answer(body=b"0123456789", how="truncate"))
    with session.get(url, stream=True) as response:
        assert response.headers["Content-Length"] == "10"
        pieces = response.iter_content(5)
        assert next(pieces) == b"01234"
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            next(pieces)


def test_trickle_sends_one_byte_at_a_time(standin: StandIn, session: requests.Session, url: str) -> None:
    standin.script("batch_1", Answer(body=b"slow", how="trickle", pause=0.05))
    with session.get(url, stream=True) as response:
        arrived = {byte: time.monotonic() for byte in response.iter_content(1)}
    assert list(arrived) == [b"s", b"l", b"o", b"w"]
    assert arrived[b"w"] - arrived[b"s"] >= 0.1


def test_flood_sends_a_practically_endless_body(standin: StandIn, session: requests.Session, url: str) -> None:
    standin.script("batch_1", Answer(body="{", how="flood"))
    with session.get(url, stream=True) as response:
        assert "Content-Length" not in response.headers
        assert response.raw.read(1 << 20) == b"{" + b" " * ((1 << 20) - 1)


def test_flood_with_a_size_sends_so_many_blanks_after_the_body(
    standin: StandIn, session: requests.Session, url: str
) -> None:
    standin.script("batch_1", Answer(body={"a": 1}, how="flood", size=100_000))
    assert session.get(url).content == b'{"a": 1}' + b" " * 100_000


def test_the_stand_in_stops_without_waiting_for_delayed_answers(session: requests.Session) -> None:
    with StandIn() as standin:
        standin.script("batch_1", Answer(delay=60))
        url = f"{standin.base_url}/batches/batch_1"
        errors: list[requests.ConnectionError] = []

        def call() -> None:
            with pytest.raises(requests.ConnectionError) as caught:
                session.get(url)
            errors.append(caught.value)

        thread = threading.Thread(target=call)
        thread.start()
        standin.wait_for(1)
    thread.join(timeout=5)
    assert errors
