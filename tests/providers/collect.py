"""What comes back of a batch, read through the gateway."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

import requests

from airflow_provider_portkey.answers import Answer, read_row
from tests.providers.provider import Provider
from tests.server.gateway import Gateway

TIMEOUT = 30


class Client:
    """A client of the gateway that is not this package."""

    def __init__(self, gateway: Gateway, provider: Provider, **headers: str) -> None:
        self._base_url = provider.base_url or gateway.base_url
        self.headers = {"x-portkey-provider": provider.name, **provider.headers, **headers}
        self.provider = provider

    def call(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        """Send one request."""
        headers = self.headers | kwargs.pop("headers", {})
        return requests.request(method, f"{self._base_url}{path}", headers=headers, timeout=TIMEOUT, **kwargs)

    def upload(self, lines: list[dict[str, Any]], *, ascii_only: bool = True) -> str:
        """Upload the requests of a batch, and return the file's id."""
        content = "".join(json.dumps(line, ensure_ascii=ascii_only) + "\n" for line in lines).encode()
        form = [("purpose", (None, "batch")), ("file", ("requests.jsonl", content))]
        response = self.call("POST", "/files", files=form)
        response.raise_for_status()
        return str(response.json()["id"])

    def wait_until_processed(self, file_id: str) -> None:
        """Retrieve a file until the provider has processed it."""
        deadline = time.monotonic() + TIMEOUT
        while self.call("GET", f"/files/{file_id}").json()["status"] != "processed":
            assert time.monotonic() < deadline, f"file {file_id} is not processed"

    def create(self, file_id: str) -> str:
        """Create a batch, and return its id."""
        response = self.call("POST", "/batches", json=self.creation(file_id))
        response.raise_for_status()
        return str(response.json()["id"])

    def creation(self, file_id: str) -> dict[str, Any]:
        """Return the body of the call that creates a batch."""
        body = {"input_file_id": file_id, "endpoint": self.provider.endpoint, "completion_window": "24h"}
        return body | self.provider.extra_body

    def wait(self, batch_id: str) -> dict[str, Any]:
        """Retrieve a batch until it has ended, and return it."""
        ends = ("completed", "complete", "ended", "expired", "partially_completed", "failed", "cancelled", "stopped")
        deadline = time.monotonic() + TIMEOUT
        while (batch := self.call("GET", f"/batches/{batch_id}").json())["status"] not in ends:
            assert time.monotonic() < deadline, batch
        return dict(batch)

    def run(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        """Run a batch, and return it once it has ended."""
        file_id = self.upload(lines)
        self.wait_until_processed(file_id)
        return self.wait(self.create(file_id))

    def rows(self, path: str) -> list[Any]:
        """Return the rows of a file or an output; what is not JSON raises."""
        response = self.call("GET", path)
        assert response.status_code == 200, response.text
        return [json.loads(line) for line in response.content.split(b"\n") if line.strip()]


def collect(client: Client, batch: dict[str, Any]) -> list[Answer]:
    """Return a batch's answers, fetched by a client that is not this package."""
    name = client.provider.name
    if name in ("bedrock", "cohere"):  # have no files
        rows = client.rows(f"/batches/{batch['id']}/output")
    else:
        # Vertex names a folder as its error file, and has the failed requests in its output file.
        members = ("output_file_id",) if name == "vertex-ai" else ("output_file_id", "error_file_id")
        files = [batch[member] for member in members if batch[member]]
        rows = [row for file_id in files for row in client.rows(f"/files/{file_id}/content")]
    return [read_row(json.dumps(row).encode()) for row in rows]


def contents(answers: Iterable[Answer]) -> dict[str | None, Any]:
    """Return the text, or the embedding, of each request that was answered."""
    return {answer.custom_id: _content(answer) for answer in answers if answer.error is None}


def error_codes(answers: Iterable[Answer]) -> dict[str | None, str]:
    """Return the code of each error."""
    return {answer.custom_id: answer.error.code for answer in answers if answer.error is not None}


def _content(answer: Answer) -> Any:
    return answer.body["data"][0]["embedding"] if answer.text is None else answer.text
