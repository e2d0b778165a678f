"""Files on the stand-in: uploads, and files that are made as they are sent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.server.client import HOSTED, Client, get, passed_on
from tests.server.standin import StandIn


@pytest.mark.parametrize("keep", [True, False])
def test_an_upload_is_recorded_and_its_content_kept_on_demand(standin: StandIn, client: Client, keep: bool) -> None:
    standin.keep_uploads = keep
    content = b"\r\n--x\n" * 50_000
    form: dict[str, Any] = {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", content)}}
    described = client.call("POST", "/files", **form).json()
    [upload] = standin.uploads
    assert (upload.bytes, upload.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (described["id"], described["bytes"], described["filename"]) == (upload.file_id, upload.bytes, "a.jsonl")
    assert standin.files.get(upload.file_id) == (content if keep else None)


def test_an_upload_without_a_purpose_is_rejected(standin: StandIn, client: Client) -> None:
    response = client.call("POST", "/files", files={"file": ("a", b"{}")})
    assert (response.status_code, response.json()) == (400, passed_on("'purpose' is a required property"))
    assert not standin.uploads


def test_an_unknown_file_is_the_provider_s_404(standin: StandIn) -> None:
    response = get(f"{standin.base_url}/files/file-x/content", HOSTED)
    assert (response.status_code, response.json()) == (404, passed_on("No such File object: file-x"))


@pytest.mark.parametrize(("line", "length"), [(b"{}", "3000000"), (lambda n: b"%d\n" % n, None)])
def test_a_generated_file_is_made_as_it_is_sent(
    standin: StandIn, client: Client, line: bytes | Callable[[int], bytes], length: str | None
) -> None:
    standin.generate("s3%3A%2F%2Fa", line, 1_000_000)
    response = client.call("GET", "/files/s3%3A%2F%2Fa/content")
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers.get("Content-Length") == length
    lines = response.content.splitlines()
    assert (len(lines), lines[-1]) == (1_000_000, b"999999" if length is None else b"{}")
    assert client.call("GET", "/files/s3%3A%2F%2Fa").json()["bytes"] == len(response.content)
