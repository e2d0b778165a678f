"""The stand-in's scripted batches: which response each GET receives."""

from __future__ import annotations

import json
import time
from urllib.parse import quote

import pytest
import requests

from tests.server.client import ARN, HOSTED, NO_ROUTE, Client, get, passed_on
from tests.server.standin import StandIn, batch_body


def test_scripted_responses_come_in_turn_and_the_last_one_repeats(standin: StandIn, client: Client) -> None:
    standin.script("batch_1", "validating", {"metadata": {"team": "a"}}, "completed")
    assert [client.batch("batch_1") for _ in range(4)] == [
        batch_body("batch_1", "validating"),
        batch_body("batch_1", "in_progress", metadata={"team": "a"}),
        batch_body("batch_1", "completed"),
        batch_body("batch_1", "completed"),
    ]


def test_a_timeline_runs_by_the_time_since_the_first_get(standin: StandIn, session: requests.Session) -> None:
    standin.timeline("batch_1", [(0, "validating"), (0.2, "in_progress"), (0.4, "completed")])
    started_at = time.monotonic()
    seen: dict[str, float] = {}
    while "completed" not in seen and time.monotonic() < started_at + 10:
        status = session.get(f"{standin.base_url}/batches/batch_1").json()["status"]
        seen.setdefault(status, time.monotonic() - started_at)
    assert list(seen) == ["validating", "in_progress", "completed"]
    assert seen["in_progress"] >= 0.2
    assert seen["completed"] >= 0.4


@pytest.mark.parametrize(
    ("status", "has_files"),
    [
        ("validating", False),
        ("in_progress", False),
        ("failed", False),
        ("completed", True),
        ("expired", True),
        ("nobody_knows", False),
    ],
)
def test_the_body_of_a_batch_fits_its_status(status: str, has_files: bool) -> None:
    body = batch_body("batch_1", status)
    assert body["status"] == status
    assert (body["output_file_id"] is not None) == has_files
    assert (body["error_file_id"] is not None) == has_files
    assert (body["errors"] is not None) == (status == "failed")
    assert body.get(f"{status}_at", 0) is not None


def test_an_encoded_id_is_decoded_once(standin: StandIn) -> None:
    standin.script(ARN, "completed")
    once, twice = quote(ARN, safe=""), quote(quote(ARN, safe=""), safe="")
    assert get(f"{standin.base_url}/batches/{once}", HOSTED).json()["id"] == ARN
    assert get(f"{standin.base_url}/batches/{twice}", HOSTED).json() == passed_on(f"No batch found with id '{once}'.")
    assert get(f"{standin.base_url}/batches/{ARN}", HOSTED).json() == NO_ROUTE


@pytest.mark.parametrize(("member", "lines"), [("output_file_id", 98), ("error_file_id", 2)])
def test_files_of_a_scripted_batch_have_a_line_per_request_in_its_counts(
    standin: StandIn, member: str, lines: int
) -> None:
    standin.script(ARN, "completed")
    file_id = quote(str(batch_body(ARN, "completed")[member]), safe="")
    response = get(f"{standin.base_url}/files/{file_id}/content", HOSTED)
    assert response.headers["content-type"] == "application/octet-stream"
    assert len({json.loads(line)["custom_id"] for line in response.content.splitlines()}) == lines


def test_a_scripted_batch_can_be_cancelled(standin: StandIn, client: Client) -> None:
    standin.cancelling_for, standin.cancel_body = 0.1, {"status": "success"}
    standin.script("batch_1", "in_progress", "completed")
    assert client.call("POST", "/batches/batch_1/cancel").json() == {"status": "success"}
    assert client.batch("batch_1")["status"] == "cancelling"
    client.batch("batch_1", "cancelled")
    assert client.call("POST", "/batches/batch_1/cancel").status_code == 409
    assert client.call("POST", "/batches/batch_x/cancel").status_code == 404
    assert standin.cancelled == ["batch_1"]
