"""OpenAI's own SDK, as a client that knows nothing of this project, drives the stand-in's files and batches."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import openai
import pytest
from openai.types import Batch

from tests.server.batches import input_line
from tests.server.client import Client
from tests.server.standin import StandIn

IDS = ["a", "b", "c", "d"]


@pytest.fixture
def sdk(each_client: Client) -> Iterator[openai.OpenAI]:
    """The SDK, against the hosted service, the provider, and the real gateway in front of the provider."""
    # The SDK always sends Authorization; the hosted service accepts Portkey's own key there.
    key = each_client.headers.get("x-portkey-api-key", "unused: the headers have it")
    with openai.OpenAI(
        base_url=each_client.base_url, api_key=key, default_headers=each_client.headers, max_retries=0, timeout=10
    ) as sdk:
        yield sdk


def create(sdk: openai.OpenAI, custom_ids: list[str]) -> Batch:
    """Upload the requests, and create a batch of them."""
    content = b"".join(input_line(custom_id) for custom_id in custom_ids)
    file = sdk.files.create(file=("in.jsonl", content), purpose="batch")
    assert sdk.files.retrieve(file.id).filename == "in.jsonl"
    assert sdk.files.content(file.id).content == content
    return sdk.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"team": "search"}
    )


def wait(sdk: openai.OpenAI, batch: Batch, status: str) -> Batch:
    """Retrieve a batch until it has a status."""
    deadline = time.monotonic() + 10
    while (batch := sdk.batches.retrieve(batch.id)).status != status:
        assert time.monotonic() < deadline, batch
    return batch


def test_a_batch_runs_from_its_upload_to_both_of_its_files(sdk: openai.OpenAI, standin: StandIn) -> None:
    standin.respond = lambda line: {"status_code": 400 if line["custom_id"] == "c" else 200, "body": {}}
    batch = create(sdk, IDS)
    assert (batch.status, batch.metadata) == ("validating", {"team": "search"})

    batch = wait(sdk, batch, "completed")

    counts = batch.request_counts
    assert counts and (counts.total, counts.completed, counts.failed) == (4, 3, 1)
    assert batch.output_file_id and batch.error_file_id
    rows = [json.loads(row) for row in sdk.files.content(batch.output_file_id).iter_lines()]
    assert [row["custom_id"] for row in rows] == ["a", "b", "d"]
    [row] = [json.loads(row) for row in sdk.files.content(batch.error_file_id).iter_lines()]
    assert (row["custom_id"], row["response"]["status_code"]) == ("c", 400)


def test_an_expired_batch_names_what_it_did_not_reach(sdk: openai.OpenAI, standin: StandIn) -> None:
    standin.course = [(0, "expired")]

    batch = wait(sdk, create(sdk, IDS), "expired")

    assert batch.output_file_id and batch.error_file_id and batch.expired_at
    assert len(sdk.files.content(batch.output_file_id).text.splitlines()) == 2
    rows = [json.loads(row) for row in sdk.files.content(batch.error_file_id).iter_lines()]
    assert [(row["custom_id"], row["response"], row["error"]["code"]) for row in rows] == [
        ("c", None, "batch_expired"),
        ("d", None, "batch_expired"),
    ]


def test_a_list_is_paged_to_its_end(sdk: openai.OpenAI, standin: StandIn) -> None:
    file = sdk.files.create(file=("in.jsonl", input_line("a")), purpose="batch")
    for _ in range(5):
        sdk.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")

    listed = [batch.id for batch in sdk.batches.list(limit=2)]

    assert listed == [batch.id for batch in reversed(standin.batches)]
    assert sum("GET /v1/batches?" in f"{seen.method} {seen.raw_path}" for seen in standin.requests) == 3


def test_a_batch_is_cancelled_once(sdk: openai.OpenAI, standin: StandIn) -> None:
    standin.course, standin.cancelling_for = [(0, "in_progress")], 0.1
    batch = create(sdk, IDS)

    assert sdk.batches.cancel(batch.id).status == "cancelling"

    assert wait(sdk, batch, "cancelled").cancelled_at
    with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'cancelled'"):
        sdk.batches.cancel(batch.id)


def test_its_errors_are_those_that_the_sdk_knows(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="batch_none"):
        sdk.batches.retrieve("batch_none")
    with pytest.raises(openai.BadRequestError, match="file-none"):
        sdk.batches.create(input_file_id="file-none", endpoint="/v1/chat/completions", completion_window="24h")
