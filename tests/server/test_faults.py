"""The stand-in's faults: responses that replace the real ones, before or after a request took effect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.server.client import CREATION, Client
from tests.server.standin import Answer, StandIn


def test_faults_come_in_turn_and_then_the_real_response(standin: StandIn, each_client: Client) -> None:
    file_id = each_client.upload("a")
    standin.fail("POST", "/v1/batches", Answer(429), Answer(503, "down"))
    assert each_client.call("GET", "/batches").json()["data"] == []
    assert [each_client.create(file_id).status_code for _ in range(3)] == [429, 503, 200]
    assert len(standin.batches) == 1


def test_a_fault_after_the_effect_loses_only_the_response(standin: StandIn, client: Client) -> None:
    file_id = client.upload("a")
    standin.fail("POST", "/v1/batches", Answer(502), Answer(how="reset"), Answer(how="truncate"), after=True)
    assert client.create(file_id).status_code == 502
    for _ in range(2):
        with pytest.raises(requests.RequestException, match="Connection reset by peer"):
            client.create(file_id)
    assert len(standin.batches) == len(client.call("GET", "/batches").json()["data"]) == 3


@pytest.mark.parametrize(("after", "created"), [(False, 0), (True, 1)])
def test_a_delay_is_before_the_effect_or_after_it(standin: StandIn, client: Client, after: bool, created: int) -> None:
    file_id = client.upload("a")
    standin.fail("POST", "/v1/batches", Answer(delay=60), after=after)
    with pytest.raises(requests.ReadTimeout):
        client.call("POST", "/batches", json={"input_file_id": file_id, **CREATION}, timeout=0.2)
    assert len(standin.batches) == created


def test_a_fault_of_an_upload_is_sent_after_the_whole_body_was_read(standin: StandIn, client: Client) -> None:
    standin.fail("POST", "/v1/files", Answer(413, "Too large"))
    form: dict[str, Any] = {"data": {"purpose": "batch"}, "files": {"file": ("a", b"x" * 5_000_000)}}
    assert client.call("POST", "/files", **form).text == "Too large"
    assert not standin.uploads


def test_a_reset_can_come_within_an_upload(standin: StandIn, client: Client) -> None:
    standin.fail("POST", "/v1/files", Answer(how="reset", after_bytes=100_000))
    sent = 0

    def content() -> Iterator[bytes]:
        nonlocal sent
        while sent < 1 << 30:
            yield b"x" * 10_000
            sent += 10_000

    with pytest.raises(requests.ConnectionError):
        client.call("POST", "/files", data=content())
    assert 90_000 <= sent < 1 << 28


@pytest.mark.parametrize("at", [None, 10_000])
def test_a_download_can_be_truncated(standin: StandIn, session: requests.Session, at: int | None) -> None:
    standin.generate("file-a", b"x" * 99, 1_000)
    standin.fail("GET", "/v1/files/[^/]+/content", Answer(how="truncate", after_bytes=at))
    url = f"{standin.base_url}/files/file-a/content"
    arrived: list[bytes] = []
    with session.get(url, stream=True) as response:
        assert response.headers["Content-Length"] == "100000"
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            arrived.extend(response.iter_content(100))
    assert len(b"".join(arrived)) == (at or 50_000)
    assert len(session.get(url).content) == 100_000
