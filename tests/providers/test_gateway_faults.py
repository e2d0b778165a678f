"""
What Portkey's real gateway gets wrong, provider by provider.

Each test shows a fault that the package works around, or that its documentation names. If a test fails after an update
of the gateway, the fault may be fixed.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from airflow_provider_portkey.answers import read_row
from tests.providers.collect import Client, collect, contents
from tests.providers.conftest import Clouds, connect
from tests.providers.job import Ending
from tests.providers.openai import OpenAI
from tests.providers.prompts import LONG, prompts


@pytest.fixture
def client(clouds: Clouds, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client of the provider that the test names."""
    return Client(clouds.gateway, connect(clouds, request.param, monkeypatch))


@pytest.mark.parametrize("client", ["vertex-ai"], indirect=True)
class TestChunkBorders:
    """The gateway decodes each network chunk by itself: a character that lies in two of them becomes U+FFFD."""

    def test_vertex_output_is_damaged_and_its_file_is_not(self, client: Client) -> None:
        batch = client.run(client.provider.requests(LONG))
        output = client.call("GET", f"/batches/{batch['id']}/output").content.decode()
        file = client.call("GET", f"/files/{batch['output_file_id']}/content").content.decode()
        assert "�" in output
        assert "�" not in file

    def test_vertex_uploads_are_damaged_unless_they_are_ascii(self, client: Client) -> None:
        lines = client.provider.requests(LONG)
        utf8, ascii_only = client.upload(lines, ascii_only=False), client.upload(lines)
        assert "�" in client.call("GET", f"/files/{utf8}/content").content.decode()
        assert [row["requestId"] for row in client.rows(f"/files/{ascii_only}/content")] == list(LONG)
        assert "�" not in client.call("GET", f"/files/{ascii_only}/content").content.decode()


@pytest.mark.parametrize("client", ["bedrock"], indirect=True)
class TestBedrock:
    def test_an_upload_above_1_mb_is_refused_by_s3(self, client: Client) -> None:
        lines = client.provider.requests({f"request-{n}": "x" * 1_000 for n in range(2_500)})
        with pytest.raises(requests.HTTPError) as refused:
            client.upload(lines)
        error = refused.value.response.json()
        assert (refused.value.response.status_code, error["type"], error["code"]) == (500, "provider_error", 400)
        assert "EntityTooSmall" in error["message"]

    @pytest.mark.parametrize("name", ["requests.jsonl", "folder/requests.jsonl"])
    def test_its_output_file_is_a_folder(self, client: Client, name: str) -> None:
        client.headers["x-portkey-provider-file-name"] = name
        batch = client.run(client.provider.requests(prompts(3)))
        response = client.call("GET", f"/files/{batch['output_file_id']}/content")
        if "/" in name:
            assert (response.status_code, response.json()["code"]) == (500, 404)
            assert "NoSuchKey" in response.json()["message"]
        else:
            assert (response.status_code, response.content) == (200, b"")

    def test_a_failed_request_comes_back_without_its_id(self, client: Client) -> None:
        client.provider.ending = Ending(failed=frozenset(["request-001"]))
        batch = client.run(client.provider.requests(prompts(3)))
        rows = client.rows(f"/batches/{batch['id']}/output")
        assert [row.get("custom_id") for row in rows] == ["request-000", None, "request-002"]
        assert rows[1].keys() == {"errorCode", "errorMessage"}

    def test_the_object_in_its_folder_has_each_id(self, client: Client) -> None:
        """A client that builds the object's name itself gets Bedrock's own rows, in which each request has its id."""
        client.provider.ending = Ending(failed=frozenset(["request-001"]))
        client.headers["x-portkey-provider-file-name"] = "folder/requests.jsonl"
        batch = client.run(client.provider.requests(prompts(3)))
        job_id = batch["id"].rpartition("%2F")[2]
        rows = client.rows(f"/files/{batch['output_file_id']}{job_id}%2Frequests.jsonl.out/content")
        assert [row["recordId"] for row in rows] == list(prompts(3))
        assert [sorted(row.keys() - {"recordId", "modelInput"}) for row in rows] == [
            ["modelOutput"],
            ["error"],
            ["modelOutput"],
        ]


@pytest.mark.parametrize("client", ["vertex-ai"], indirect=True)
class TestVertex:
    @pytest.mark.parametrize("name", ["requests.jsonl", "folder/requests.jsonl"])
    def test_its_error_file_is_a_folder(self, client: Client, name: str) -> None:
        client.headers["x-portkey-provider-file-name"] = name
        batch = client.run(client.provider.requests(prompts(3)))
        assert batch["request_counts"]["completed"] == "3"
        response = client.call("GET", f"/files/{batch['error_file_id']}/content")
        assert (response.status_code, response.json()["message"]) == (500, "Something went wrong")

    def test_the_second_page_of_its_list_is_refused(self, client: Client) -> None:
        for _ in range(2):
            client.run(client.provider.requests(prompts(1)))
        page = client.call("GET", "/batches?limit=1").json()
        assert page["has_more"]
        assert client.call("GET", f"/batches?limit=1&after={page['last_id']}").status_code == 400


@pytest.mark.parametrize("client", ["bedrock", "vertex-ai"], indirect=True)
def test_batches_with_one_fixed_file_name_answer_the_last_ones_requests(client: Client) -> None:
    client.headers["x-portkey-provider-file-name"] = "requests.jsonl"
    first, second = ({f"{batch}-{n}": f"{batch} {n}" for n in range(3)} for batch in ("first", "second"))
    files = [client.upload(client.provider.requests(each)) for each in (first, second)]
    batches = [client.wait(client.create(file_id)) for file_id in files]
    assert files[0] == files[1]
    for batch in batches:
        assert contents(collect(client, batch)) == client.provider.expected(second)


@pytest.mark.parametrize("client", ["cohere"], indirect=True)
class TestCohere:
    def test_a_dataset_has_no_content(self, client: Client) -> None:
        batch = client.run(client.provider.requests(prompts(3)))
        for member in ("input_file_id", "output_file_id"):
            assert client.call("GET", f"/files/{batch[member]}/content").status_code == 404
        assert len(client.rows(f"/batches/{batch['id']}/output")) == 3

    def test_of_a_dataset_in_parts_only_the_first_one_comes_back(self, client: Client) -> None:
        """The gateway closes the stream after it: status 200, and nothing shows that the others are missing."""
        cohere: Any = client.provider
        cohere.parts = 2
        batch = client.run(cohere.requests(prompts(10)))
        response = client.call("GET", f"/batches/{batch['id']}/output")
        assert (response.status_code, len(response.content.splitlines())) == (200, 5)


@pytest.mark.parametrize("client", ["openai"], indirect=True)
class TestOpenAI:
    def test_an_error_file_alone_is_no_output(self, client: Client) -> None:
        client.provider.ending = Ending(failed=frozenset(prompts(3)))
        batch = client.run(client.provider.requests(prompts(3)))
        response = client.call("GET", f"/batches/{batch['id']}/output")
        assert response.status_code == 404
        assert "No such File object: null" in response.text
        assert len(client.rows(f"/files/{batch['error_file_id']}/content")) == 3

    def test_the_output_of_a_failed_batch_is_a_200_with_its_errors(self, client: Client) -> None:
        openai: Any = client.provider
        assert isinstance(openai, OpenAI)
        openai.standin.script("batch_failed", "failed")
        response = client.call("GET", "/batches/batch_failed/output")
        assert (response.status_code, response.headers["content-type"]) == (200, "text/plain;charset=UTF-8")
        assert json.loads(response.content)["data"][0]["code"] == "invalid_json_line"

    def test_the_output_ignores_the_custom_host_and_sends_the_key_to_openai(self, client: Client) -> None:
        batch = client.run(client.provider.requests(prompts(3)))
        client.headers["x-portkey-custom-host"] = "http://127.0.0.1:9/v1"
        assert client.call("GET", f"/batches/{batch['id']}").status_code == 500
        assert len(client.rows(f"/batches/{batch['id']}/output")) == 3


@pytest.mark.parametrize("client", ["azure-openai"], indirect=True)
class TestAzure:
    def test_its_output_is_the_error_file_if_there_is_no_other(self, client: Client) -> None:
        client.provider.ending = Ending(failed=frozenset(prompts(3)))
        batch = client.run(client.provider.requests(prompts(3)))
        rows = client.rows(f"/batches/{batch['id']}/output")
        assert [row["response"]["status_code"] for row in rows] == [400, 400, 400]

    def test_blobs_come_through_its_output_alone(self, client: Client) -> None:
        azure: Any = client.provider
        lines = azure.requests(prompts(3))
        azure.blobs["/container/in.jsonl"] = "".join(json.dumps(line) + "\n" for line in lines).encode()
        account = "https://account.blob.core.windows.net/container"
        body = {
            "input_blob": f"{account}/in.jsonl",
            "output_folder": {"url": f"{account}/out"},
            "endpoint": "/chat/completions",
            "completion_window": "24h",
        }
        created = client.call("POST", "/batches", json=body)
        batch = client.wait(created.json()["id"])
        assert (batch["input_file_id"], batch["output_file_id"]) == (None, None)
        rows = client.rows(f"/batches/{batch['id']}/output")
        answers = [read_row(json.dumps(row).encode()) for row in rows]
        assert contents(answers) == azure.expected(prompts(3))


@pytest.mark.parametrize("client", ["azure-openai", "cohere"], indirect=True)
def test_a_batch_of_a_file_that_is_not_processed_is_refused(client: Client) -> None:
    file_id = client.upload(client.provider.requests(prompts(3)))
    refused = client.call("POST", "/batches", json=client.creation(file_id))
    assert refused.status_code == 400, refused.text
    client.wait_until_processed(file_id)
    assert client.create(file_id)
