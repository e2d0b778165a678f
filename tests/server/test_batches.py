"""Batches that a client creates on the stand-in: how they run, end, are listed and cancelled."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.client import PROVIDER_KEY, Client, openai_error
from tests.server.standin import Answer, StandIn


def test_a_batch_is_created_runs_and_has_an_output_file(standin: StandIn, each_client: Client) -> None:
    file_id = each_client.upload("a", "b")
    assert each_client.call("GET", f"/files/{file_id}").json()["filename"] == "in.jsonl"
    created = each_client.create(file_id, metadata={"team": "x"}).json()
    assert (created["status"], created["input_file_id"]) == ("validating", file_id)
    assert created["metadata"] == {"team": "x"}
    assert each_client.batch(created["id"], "in_progress")["output_file_id"] is None
    batch = each_client.batch(created["id"], "completed")
    assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    assert batch["error_file_id"] is None
    answers = {
        line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"]
        for line in each_client.lines(batch["output_file_id"])
    }
    assert answers == {"a": "Answer to a", "b": "Answer to b"}
    assert each_client.call("GET", "/batches?limit=5").json()["data"] == [batch]
    rejected = each_client.call("POST", f"/batches/{created['id']}/cancel")
    assert rejected.status_code == 409
    assert "Cannot cancel a batch with status 'completed'." in rejected.json()["error"]["message"]
    assert [batch.id for batch in standin.batches] == [created["id"]]


def test_a_cancelled_batch_keeps_the_answers_so_far(standin: StandIn, each_client: Client) -> None:
    standin.course = [(0, "in_progress")]
    standin.cancelling_for = 0.1
    batch_id = each_client.upload_and_create("a", "b", "c")
    response = each_client.call("POST", f"/batches/{batch_id}/cancel")
    assert (response.status_code, response.json()["status"]) == (200, "cancelling")
    batch = each_client.batch(batch_id, "cancelled")
    assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 0}
    assert [line["custom_id"] for line in each_client.lines(batch["output_file_id"])] == ["a", "b"]
    [unreached] = each_client.lines(batch["error_file_id"])
    assert (unreached["custom_id"], unreached["response"]) == ("c", None)
    assert unreached["error"]["code"] == "batch_cancelled"
    assert standin.cancelled == [batch_id]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input_file_id": "file-x"}, "input_file_id", None),
        ({"endpoint": None}, "endpoint", "missing_required_parameter"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "object_above_max_properties"),
    ],
)
def test_an_invalid_creation_is_rejected(
    standin: StandIn, client: Client, fields: dict[str, Any], param: str, code: str | None
) -> None:
    response = client.create(**{"input_file_id": client.upload("a")} | fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)
    assert not standin.batches


def test_metadata_is_returned_unless_the_stand_in_drops_it(standin: StandIn, client: Client) -> None:
    metadata = {f"{n:064}": "b" * 512 for n in range(16)}
    assert client.create(client.upload("a"), metadata=metadata, model="m").json()["metadata"] == metadata
    assert standin.batches[0].body["metadata"] == metadata
    assert standin.batches[0].body["model"] == "m"
    standin.drops_metadata = True
    assert client.batch(standin.batches[0].id)["metadata"] is None


def test_answers_with_an_error_status_are_in_the_error_file(standin: StandIn, client: Client) -> None:
    standin.course = [(0, "completed")]
    standin.respond = lambda line: {"status_code": 429 if line["custom_id"] == "b" else 200, "body": {}}
    batch = client.batch(client.upload_and_create("a", "b", "c"))
    assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert [line["custom_id"] for line in client.lines(batch["output_file_id"])] == ["a", "c"]
    assert [line["response"]["status_code"] for line in client.lines(batch["error_file_id"])] == [429]
    standin.respond = lambda _: {"status_code": 500}
    assert client.batch(client.upload_and_create("a"))["output_file_id"] is None


def test_an_expired_batch_lists_what_it_did_not_reach_in_the_error_file(standin: StandIn, client: Client) -> None:
    standin.course = [(0, "expired")]
    standin.respond = lambda line: {"status_code": 400 if line["custom_id"] == "b" else 200, "body": {}}
    batch = client.batch(client.upload_and_create("a", "b", "c", "d"))
    assert batch["request_counts"] == {"total": 4, "completed": 1, "failed": 1}
    errors = {
        line["custom_id"]: line["error"] and line["error"]["code"] for line in client.lines(batch["error_file_id"])
    }
    assert errors == {"b": None, "c": "batch_expired", "d": "batch_expired"}


def test_a_request_can_be_lost(standin: StandIn, client: Client) -> None:
    standin.course = [(0, "completed")]
    standin.respond = lambda line: None if line["custom_id"] == "b" else {"status_code": 200, "body": {}}
    batch = client.batch(client.upload_and_create("a", "b"))
    assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 0}
    assert [line["custom_id"] for line in client.lines(batch["output_file_id"])] == ["a"]
    assert batch["error_file_id"] is None


def test_a_batch_of_an_invalid_line_fails_and_names_the_line(standin: StandIn, client: Client) -> None:
    standin.course, standin.files["file-a"] = [(0, "completed")], b'{"custom_id": "a"}\n{\n'
    batch = client.create("file-a").json()
    assert (batch["status"], batch["errors"]["data"][0]["line"]) == ("failed", 2)


def test_a_script_replaces_the_course_of_a_created_batch(standin: StandIn, client: Client) -> None:
    batch_id = client.upload_and_create("a", metadata={"team": "x"})
    standin.script(batch_id, Answer(503), "failed")
    assert client.call("GET", "/batches").json()["data"][0]["status"] == "validating"
    assert client.call("GET", f"/batches/{batch_id}").status_code == 503
    assert client.batch(batch_id)["status"] == "failed"
    assert client.call("GET", "/batches").json()["data"] == [client.batch(batch_id)]
    assert client.batch(batch_id)["metadata"] == {"team": "x"}


def test_a_list_comes_in_pages_newest_first(standin: StandIn, client: Client) -> None:
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


@pytest.mark.parametrize(
    ("fields", "param"), [({"endpoint": "/v1/chat"}, "endpoint"), ({"completion_window": "1h"}, "completion_window")]
)
def test_an_unknown_endpoint_or_window_is_rejected(
    standin: StandIn, client: Client, fields: dict[str, Any], param: str
) -> None:
    error = client.create(client.upload("a"), **fields).json()["error"]
    assert (error["param"], error["code"]) == (param, "invalid_value")
    assert not standin.batches


@pytest.mark.parametrize(
    ("lines", "code", "line"),
    [
        (b'{"custom_id": "a"}\n{"custom_id": "a"}\n', "duplicate_custom_id", 2),
        (b'{"custom_id": "a", "url": "/v1/embeddings"}\n', "url_mismatch", 1),
        (b"\n", "empty_file", None),
    ],
)
def test_a_batch_of_invalid_input_fails(
    standin: StandIn, client: Client, lines: bytes, code: str, line: int | None
) -> None:
    standin.course, standin.files["file-a"] = [(0, "completed")], lines
    batch = client.create("file-a").json()
    [error] = batch["errors"]["data"]
    assert (batch["status"], error["code"], error["line"]) == ("failed", code, line)


class TestOutput:
    def test_it_is_the_output_file(self, standin: StandIn, client: Client) -> None:
        standin.course = [(0, "completed")]
        batch = client.batch(client.upload_and_create("a", "b"))
        response = client.call("GET", f"/batches/{batch['id']}/output")
        assert response.headers["content-type"] == "application/octet-stream"
        assert response.content == client.call("GET", f"/files/{batch['output_file_id']}/content").content

    def test_of_a_batch_that_has_none_it_is_a_404(self, standin: StandIn, client: Client) -> None:
        standin.course, standin.respond = [(0, "completed")], lambda _: {"status_code": 500}
        response = client.call("GET", f"/batches/{client.upload_and_create('a')}/output")
        assert (response.status_code, response.json()) == (404, openai_error("No such File object: null"))

    def test_of_a_failed_batch_it_is_the_list_of_its_errors(self, standin: StandIn, client: Client) -> None:
        standin.script("batch_1", "failed")
        response = client.call("GET", "/batches/batch_1/output")
        assert (response.status_code, response.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert response.json() == client.batch("batch_1")["errors"]

    def test_the_provider_has_no_such_route(self, standin: StandIn) -> None:
        standin.script("batch_1", "completed")
        assert Client(standin.base_url, PROVIDER_KEY).call("GET", "/batches/batch_1/output").status_code == 404
