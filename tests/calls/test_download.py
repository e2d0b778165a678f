"""Downloads: the file is there whole or not at all, and an error is not taken for a file."""

from __future__ import annotations

import gzip
import zlib
from typing import Any
from urllib.parse import quote

import pytest

from airflow_provider_portkey.exceptions import PortkeyInputError, PortkeyTransientError
from airflow_provider_portkey.manifest import FileStats
from tests.calls.case import Case, Given, Step, Then, When, each
from tests.calls.operations import COUNT, DOWNLOAD, was_downloaded
from tests.calls.run import run_case
from tests.calls.world import LARGE_FILE, SMALL_FILE, CallWorld
from tests.server.standin import Answer
from tests.support.answers import raw_answer

CHECK_HOST = "Unexpected response from the gateway (HTTP 200): check the host of connection 'portkey_default'"
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BROKEN_CONNECTIONS = {
    "reset after the first byte": Answer(how="truncate", after_bytes=1),
    "reset after 5 MB": Answer(how="truncate", after_bytes=5_000_000),
    "reset before the last byte": Answer(how="truncate", after_bytes=len(LARGE_FILE) - 1),
    "closed in order after 500 kB": Answer(body=raw_answer(LARGE_FILE[:500_000], len(LARGE_FILE)), how="raw"),
    "closed within a chunk": Answer(body=_CHUNKED + b"ffff\r\n" + LARGE_FILE[:1_000], how="raw"),
    "closed between two chunks": Answer(body=_CHUNKED + b"64\r\n" + LARGE_FILE[:100] + b"\r\n", how="raw"),
}
#: What a file may contain, and must not be taken for an error.
CONTENTS = {
    "nothing": b"",
    "one line, with an error": b'{"custom_id": "a", "response": null, "error": {"code": "x"}}\n',
    "two lines, with errors": b'{"custom_id": "a", "error": {"code": "x"}}\n{"error": {"code": "y"}}\n',
    "one line of Bedrock's": b'{"recordId": "a", "error": null}',
    "null": b"null",
    "a list": b"[1]",
    "angle brackets": b"<html-like",
    "bytes that are not text": b"\xff\x00",
    "a member 'error' that is larger than any error": b'{"error": "' + b"x" * 200_000 + b'"}',
}
#: Errors with HTTP 200, the first line of the message, and what is wrong with the body.
ERRORS: dict[str, tuple[Answer, str, str]] = {
    "an error of the provider": (
        Answer(200, {"error": {"message": "Try later"}, "provider": "bedrock"}),
        "Unexpected response from provider 'bedrock' (HTTP 200): Try later",
        "an error, not a file",
    ),
    "an error as text": (Answer(200, '{"error": "Try later"}\n'), CHECK_HOST, "an error, not a file"),
    "an error of Portkey": (
        Answer(200, {"status": "failure", "message": "Try later"}),
        "Unexpected response from Portkey (HTTP 200): Try later",
        "an error, not a file",
    ),
    "a page that the gateway wraps": (
        Answer(200, b'{"html-message":"Try later"}'),
        CHECK_HOST,
        "that the gateway wrapped into JSON, not a file",
    ),
    **{
        f"{name} of {size} bytes": (Answer(200, page + b" " * (size - len(page))), CHECK_HOST, "not a file")
        for name, page in {
            "a page of HTML": b"<!DOCTYPE html><p>Try later</p>",
            "a page of HTML after blanks": b"\xef\xbb\xbf \n<html>Try later</html>",
            "an error in XML": b"<?xml version='1.0'?><Error>Try later</Error>",
        }.items()
        for size in (100, 200_000)
    },
    "a part of the file": (Answer(206, b"Try later"), CHECK_HOST.replace("200", "206"), "not a file"),
    "a page of 200 kB that the gateway wraps": (
        Answer(200, b'{"html-message":"Try later' + b" " * 200_000 + b'"}'),
        CHECK_HOST,
        "that the gateway wrapped into JSON, not a file",
    ),
}
COMPRESSED = {"gzip": gzip.compress(SMALL_FILE), "deflate": zlib.compress(SMALL_FILE)}


def serve_content(content: bytes) -> Step:
    def serve(world: CallWorld) -> None:
        world.content = world.standin.files["file-1"] = content

    return serve


def content_is_on_disk(world: CallWorld) -> bool:
    lines = sum(bool(line.strip()) for line in world.content.split(b"\n"))
    stats = world.returned.stats
    return world.target_files == {"output.jsonl": world.content} and (stats.bytes, stats.lines) == (
        len(world.content),
        lines,
    )


REPEATED = [
    *(
        Case(
            f"{call.name}: connection {name}, twice",
            given=Given(setup=CallWorld.use_large_files),
            when=When(call, [response] * 2),
            then=Then(requests=3),
        )
        for name, response in BROKEN_CONNECTIONS.items()
        for call in (DOWNLOAD, COUNT)
    ),
    *(
        Case(
            f"download: {encoding} cut short",
            when=When(
                DOWNLOAD,
                [
                    Answer(200, packed, {"Content-Encoding": encoding}, how="truncate"),
                    Answer(200, packed, {"Content-Encoding": encoding}),
                ],
            ),
            then=Then(requests=2),
        )
        for encoding, packed in COMPRESSED.items()
    ),
]


def given_up(name: str, response: Answer, target: bytes | None, *message_has: str) -> Case:
    """Build a case of a response that comes three times."""
    return Case(
        name,
        given=Given(target=target, setup=CallWorld.use_large_files),
        when=When(DOWNLOAD, [response] * 3),
        then=Then(error=PortkeyTransientError, message_has=message_has, requests=3),
    )


# That an older file stays, or that there is none, is asserted for each error: see run_case.
GIVEN_UP = [
    *(
        given_up(f"connection {name}", response, b"old", "No response while downloading file 'file-1'")
        for name, response in BROKEN_CONNECTIONS.items()
    ),
    given_up(
        "connection reset after 5 MB, without an older file",
        BROKEN_CONNECTIONS["reset after 5 MB"],
        None,
        "No response while",
    ),
    given_up(
        "text that its header says is gzip",
        Answer(200, b"not gzip", {"Content-Encoding": "gzip"}),
        None,
        "No response while",
    ),
    *(
        given_up(
            f"instead of a file: {name}",
            response,
            None,
            f"{first_line}\n",
            f"{problem}): ",
            "Try later",
        )
        for name, (response, first_line, problem) in ERRORS.items()
    ),
]
KEPT = [
    Case(
        name,
        given=Given(target=b"old", setup=serve_content(content)),
        when=When(DOWNLOAD),
        then=Then(took_effect=content_is_on_disk, requests=1),
    )
    for name, content in CONTENTS.items()
]


@each(REPEATED)
def test_a_download_is_repeated_after_a_failure(case: Case, world: CallWorld) -> None:
    run_case(case, world)


@each(GIVEN_UP)
def test_a_download_that_fails_three_times_leaves_its_target_as_it_was(case: Case, world: CallWorld) -> None:
    run_case(case, world)


@each(KEPT)
def test_a_download_replaces_an_older_file_whatever_it_contains(case: Case, world: CallWorld) -> None:
    run_case(case, world)


@pytest.mark.parametrize("length", ["abc", "-5", "1_0", "", "27, 27"])
def test_a_download_with_an_invalid_content_length_fails_or_has_the_file(length: str, world: CallWorld) -> None:
    body = b'{"custom_id": "a", "n": 12}'
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n".encode()
    world.standin.fail(DOWNLOAD.method, DOWNLOAD.path, *[Answer(body=head + body, how="raw")] * 3)
    try:
        world.hook.download_file("file-1", world.target)
    except PortkeyTransientError:
        assert world.target_files == {}
    else:
        assert world.target.read_bytes()[:10] == body[:10]


@pytest.mark.parametrize("name", ["s3://bucket/a b/out.jsonl", "gs://b/é.jsonl"])
def test_a_file_id_is_percent_encoded_exactly_once(name: str, world: CallWorld) -> None:
    encoded = quote(name, safe="")
    world.standin.files[name] = SMALL_FILE
    for file_id in (name, encoded, encoded.replace("%2F", "%2f"), f" {encoded}\n"):
        world.returned = world.hook.download_file(file_id, world.target)
        assert was_downloaded(world)
    assert {seen.raw_path for seen in world.standin.requests} == {f"/v1/files/{encoded}/content"}


def test_an_invalid_file_id_raises_an_input_error_and_sends_nothing(world: CallWorld) -> None:
    with pytest.raises(PortkeyInputError, match=r"file_id .*\nNothing was sent"):
        world.hook.download_file("None", world.target)
    assert not world.standin.requests
    assert world.target_files == {}


def test_a_full_disk_raises_the_os_error_and_is_not_retried(world: CallWorld) -> None:
    def write(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    world.monkeypatch.setattr(FileStats, "add", write)
    with pytest.raises(OSError, match="No space left"):
        world.hook.download_file("file-1", world.target)
    assert world.target_files == {}
    assert len(world.standin.requests) == 1


def test_a_path_that_is_a_folder_raises_an_error_and_leaves_the_folder_as_it_was(world: CallWorld) -> None:
    with pytest.raises(IsADirectoryError):
        world.hook.download_file("file-1", world.folder)
    assert {path.name for path in world.folder.iterdir()} == {"requests.jsonl"}


@pytest.mark.parametrize("status", [204, 205])
def test_a_response_without_content_is_not_an_empty_file(status: int, world: CallWorld) -> None:
    world.write_target(b"old")
    world.standin.fail(DOWNLOAD.method, DOWNLOAD.path, *[Answer(status)] * 3)
    with pytest.raises(PortkeyTransientError, match="no content or a part of it, not a file"):
        world.hook.download_file("file-1", world.target)
    assert world.target_files == {"output.jsonl": b"old"}
