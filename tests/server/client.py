"""A client of the stand-in, of the provider behind it, or of the real gateway, without this package."""

from __future__ import annotations

import json
import time
from typing import Any

import requests

ARN = "arn:aws:bedrock:us-east-1:123456789012:model-invocation-job/abc"

KEY = {"x-portkey-api-key": "pk-standin-0123456789"}
KEY_AS_BEARER = {"Authorization": "Bearer pk-standin-0123456789"}
VIRTUAL_KEY = {"x-portkey-virtual-key": "openai-standin"}
SLUG = {"x-portkey-provider": "@openai-standin"}
CONFIG = {"x-portkey-config": "pc-anything"}
#: What the provider behind Portkey accepts.
PROVIDER_KEY = {"Authorization": "Bearer sk-standin-0123456789"}
#: What the hosted service accepts.
HOSTED = KEY | VIRTUAL_KEY
#: The required members of a creation, except the file.
CREATION = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
#: The body for a path that the server does not know.
NO_ROUTE = {"message": "Not Found", "ok": False}


def openai_error(message: str, code: str | None = None) -> dict[str, object]:
    """Return the body of an error as OpenAI words it."""
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


def passed_on(message: str, code: str | None = None) -> dict[str, object]:
    """Return the body of OpenAI's error as Portkey passes it on."""
    return openai_error(f"openai error: {message}", code) | {"provider": "openai"}


def get(url: str, headers: dict[str, str]) -> requests.Response:
    """Send a GET on a new connection, without proxies and credentials of the environment."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, headers=headers, timeout=10)


class Client:
    """The calls on batches and files, with a base URL and headers."""

    def __init__(self, base_url: str, headers: dict[str, str]) -> None:
        self.base_url, self.headers = base_url, headers

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            options = {"timeout": 10} | options
            return session.request(method, f"{self.base_url}{path}", headers=self.headers, **options)

    def upload(self, *custom_ids: str) -> str:
        """Upload a file with a request of each custom_id, and return its id."""
        content = "".join(json.dumps({"custom_id": custom_id, "body": {}}) + "\n" for custom_id in custom_ids)
        response = self.call("POST", "/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", content)})
        return str(response.json()["id"])

    def create(self, input_file_id: str, **fields: object) -> requests.Response:
        return self.call("POST", "/batches", json={"input_file_id": input_file_id} | CREATION | fields)

    def upload_and_create(self, *custom_ids: str, **fields: object) -> str:
        """Create a batch of a request of each custom_id, and return its id."""
        return str(self.create(self.upload(*custom_ids), **fields).json()["id"])

    def batch(self, batch_id: str, until: str | None = None) -> dict[str, Any]:
        """Retrieve a batch, repeatedly until it has the status ``until`` if that is given."""
        deadline = time.monotonic() + 10
        while True:
            body: dict[str, Any] = self.call("GET", f"/batches/{batch_id}").json()
            if until in (None, body["status"]):
                return body
            assert time.monotonic() < deadline, body
            time.sleep(0.02)

    def lines(self, file_id: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.call("GET", f"/files/{file_id}/content").iter_lines()]
