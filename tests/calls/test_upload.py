"""Uploads: the file arrives whole, or the error says why not."""

from __future__ import annotations

import io
import json
from urllib.parse import unquote

import pytest

from airflow_provider_portkey.exceptions import PortkeyRefusedError, PortkeyTransientError
from airflow_provider_portkey.hooks import portkey
from tests.calls.case import Case, Given, Then, When, each
from tests.calls.checks import returned
from tests.calls.operations import UPLOAD, was_uploaded
from tests.calls.run import run_case
from tests.calls.sources import ChangedFile, EarlyResponder, ExpiredStore, SlowStore
from tests.calls.world import LARGE_FILE, SMALL_FILE, CallWorld
from tests.server.standin import Answer

INVALID_RESPONSES = {
    "text": Answer(200, "OK"),
    "an empty body": Answer(200, ""),
    "null": Answer(200, b"null"),
    "a list": Answer(200, b'["file-1"]'),
    "no id": Answer(200, {"object": "file"}),
    "a number as id": Answer(200, {"id": 5}),
    "a blank id": Answer(200, {"id": " "}),
    "a body without end": Answer(200, {"id": "file-1"}, how="flood"),
}
UNUSUAL_RESPONSES = {
    "HTTP 246": Answer(246, {"id": "file-9"}),
    "JSON as text, with white space around the id": Answer(200, '{"id": " file-9\\n"}'),
    "a byte order mark": Answer(200, b'\xef\xbb\xbf{"id": "file-9"}'),
}


def no_copy_is_left(world: CallWorld) -> None:
    assert len(world.standin.uploads) == 1


def second_copy_is_used(world: CallWorld) -> None:
    assert [upload.file_id for upload in world.standin.uploads] == ["file-1001", world.returned]


REPEATED = [
    *(
        Case(
            f"connection reset twice after {name}",
            given=Given(setup=CallWorld.use_large_files),
            when=When(UPLOAD, [Answer(how="reset", after_bytes=after_bytes)] * 2),
            then=Then(requests=3, check=no_copy_is_left),
        )
        for name, after_bytes in {"the headers": 0, "1 kB": 1_000, "3 MB": 3_000_000, "8 MB": len(LARGE_FILE)}.items()
    ),
    Case(
        "response lost, so that the server has two copies",
        when=When(UPLOAD, [Answer(how="reset")], with_effect=True),
        then=Then(requests=2, check=second_copy_is_used),
    ),
    *(
        Case(f"invalid response: {name}", when=When(UPLOAD, [response]), then=Then(requests=2))
        for name, response in INVALID_RESPONSES.items()
    ),
]
GIVEN_UP = [
    Case(
        name,
        when=When(UPLOAD, [response] * 3),
        then=Then(
            error=PortkeyTransientError,
            message_has=["larger than any Portkey response" if response.how == "flood" else "an 'id'"],
            requests=3,
        ),
    )
    for name, response in INVALID_RESPONSES.items()
]
ACCEPTED = [
    Case(
        name,
        when=When(UPLOAD, [response], with_effect=True),
        then=Then(took_effect=returned("file-9"), requests=1),
    )
    for name, response in UNUSUAL_RESPONSES.items()
]


@each(REPEATED)
def test_an_upload_is_repeated_after_a_failure(case: Case, world: CallWorld) -> None:
    run_case(case, world)


@each(GIVEN_UP)
def test_an_upload_gives_up_after_three_invalid_responses(case: Case, world: CallWorld) -> None:
    run_case(case, world)


@each(ACCEPTED)
def test_an_upload_accepts_an_unusual_response(case: Case, world: CallWorld) -> None:
    run_case(case, world)


@pytest.mark.parametrize("lingers", [True, False], ids=["that reads the rest", "that closes the connection"])
@pytest.mark.parametrize("received", [0, 200_000], ids=["before the body", "within the body"])
def test_an_upload_reports_the_error_of_a_server_that_responds_early(
    received: int, lingers: bool, world: CallWorld
) -> None:
    world.use_large_files()
    body = json.dumps({"status": "failure", "message": "Invalid API Key"}).encode()
    head = f"HTTP/1.1 401 Unauthorized\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with EarlyResponder(head.encode() + body, received, lingers=lingers) as server:
        world.set_connection(host=server.url)
        with pytest.raises(PortkeyRefusedError, match="HTTP 401 from Portkey while uploading file"):
            world.hook.upload_file(world.source)
    assert server.connections == 1


class TestSource:
    """The file that is uploaded."""

    def upload(self, source: ChangedFile, world: CallWorld) -> str:
        world.monkeypatch.setattr(portkey, "storage_path", lambda path: source)
        return world.hook.upload_file("x")

    def test_a_file_that_shrinks_during_the_upload_raises_an_os_error(self, world: CallWorld) -> None:
        with pytest.raises(OSError, match="truncated during its upload: its last 1 bytes are missing"):
            self.upload(ChangedFile(len(SMALL_FILE) + 1, io.BytesIO(SMALL_FILE)), world)
        assert not world.standin.uploads

    def test_a_file_that_grows_during_the_upload_is_sent_up_to_its_first_size(self, world: CallWorld) -> None:
        world.returned = self.upload(ChangedFile(len(SMALL_FILE), io.BytesIO(SMALL_FILE + SMALL_FILE)), world)
        assert was_uploaded(world)

    def test_an_error_of_the_store_is_raised_as_it_is_and_not_retried(self, world: CallWorld) -> None:
        source = ChangedFile(len(SMALL_FILE), ExpiredStore(SMALL_FILE))
        with pytest.raises(PermissionError, match="the store's token has expired"):
            self.upload(source, world)
        assert source.opened == 1
        assert not world.standin.uploads

    def test_reading_the_file_may_take_longer_than_the_timeout_of_a_request(self, world: CallWorld) -> None:
        world.set_connection(timeout=0.3)
        world.returned = self.upload(ChangedFile(len(SMALL_FILE), SlowStore(SMALL_FILE)), world)
        assert was_uploaded(world)
        assert len(world.standin.requests) == 1

    def test_a_missing_file_raises_file_not_found_and_sends_nothing(self, world: CallWorld) -> None:
        with pytest.raises(FileNotFoundError):
            world.hook.upload_file(world.folder / "none.jsonl")
        assert not world.standin.requests

    def test_an_empty_file_is_uploaded(self, world: CallWorld) -> None:
        world.hook.upload_file(world.write_file("empty.jsonl", b""))
        assert [upload.bytes for upload in world.standin.uploads] == [0]

    @pytest.mark.parametrize("name", ["ä ö.jsonl", 'a"b.jsonl', "a;b=c%0d.jsonl"])
    def test_an_unusual_file_name_arrives_unchanged(self, name: str, world: CallWorld) -> None:
        world.hook.upload_file(world.write_file(name, b"x\n"))
        [upload] = world.standin.uploads
        assert (upload.bytes, upload.purpose) == (2, "batch")
        assert unquote(upload.filename) == unquote(name)

    def test_the_purpose_is_sent_as_given(self, world: CallWorld) -> None:
        with pytest.raises(PortkeyRefusedError, match="'other' is not one of"):
            world.hook.upload_file(world.source, purpose="other")
        assert len(world.standin.requests) == 1
