"""
What Portkey's open-source gateway does not have: its own batches and Anthropic's, scripted after their documentation.

No code of Portkey runs here: the package talks to a server that was written after what they document. It can show
that the package follows the documentation, and not that the documentation is right.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tests.providers import keys
from tests.providers.job import Fate, Job, Jobs
from tests.providers.openai_rows import output_rows
from tests.providers.prompts import reply, text_of
from tests.providers.provider import Provider
from tests.providers.shim import HOST, Received, Reply, Route, Shim


class Scripted(Provider, Shim):
    """Portkey's hosted API for batches of one kind."""

    words: Mapping[str, str]
    prefix: str

    def __init__(self) -> None:
        super().__init__()
        self.jobs = Jobs()

    @property
    def base_url(self) -> str:
        return f"http://{HOST}:{self.port}/v1"

    @property
    def headers(self) -> dict[str, str]:
        return {"x-portkey-api-key": keys.PORTKEY}

    def routes(self) -> Sequence[Route]:
        return (
            ("POST", "/v1/batches", self._create),
            ("GET", "/v1/batches", self._list),
            ("GET", "/v1/batches/([^/]+)", self._retrieve),
            ("POST", "/v1/batches/([^/]+)/cancel", self._cancel),
            ("GET", "/v1/batches/([^/]+)/output", self._output),
        )

    def refuse(self, request: Received) -> Reply | None:
        if request.headers.get("x-portkey-api-key") == keys.PORTKEY:
            return None
        message = "Portkey Error: Invalid API Key. Error Code: 03"
        return Reply(401, {"status": "failure", "message": message, "error": {"message": message, "code": "03"}})

    def problem(self, asked: Any) -> str | None:
        """Return why a batch cannot be created, if it cannot."""
        raise NotImplementedError

    def record(self, asked: Any) -> dict[str, Any]:
        """Return what a batch shows besides its status and its moments."""
        raise NotImplementedError

    def finish(self, job: Job) -> None:
        """Make the answers of a job that has ended."""
        raise NotImplementedError

    def output(self, job: Job) -> bytes | None:
        """Return the answers of a job that has ended."""
        raise NotImplementedError

    def _create(self, request: Received) -> Reply:
        asked = request.json()
        if (problem := self.problem(asked)) is not None:
            return error(400, problem)
        batch_id = f"{self.prefix}{len(self.jobs) + 1:024}"
        now = int(time.time())
        record = {"id": batch_id, "object": "batch", "created_at": now, "expires_at": now + 86_400}
        self.jobs[batch_id] = job = Job(batch_id, asked, self.ending, record | self.record(asked))
        return Reply(body=self._shown(job))

    def _retrieve(self, request: Received, batch_id: str) -> Reply:
        if (job := self.jobs.get(batch_id)) is None:
            return error(404, f"No batch found with id '{batch_id}'.")
        if job.advance():
            self.finish(job)
        return Reply(body=self._shown(job))

    def _list(self, request: Received) -> Reply:
        ids = [job.id for job in self.jobs.newest_first()]
        after, most = request.query.get("after"), int(request.query.get("limit", 20))
        ids = ids[ids.index(after) + 1 :] if after in ids else ids
        page = [self._shown(self.jobs[batch_id]) for batch_id in ids[:most]]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
        return Reply(body={"object": "list", "data": page, "has_more": len(ids) > most, **ends})

    def _cancel(self, request: Received, batch_id: str) -> Reply:
        if (job := self.jobs.get(batch_id)) is None:
            return error(404, f"No batch found with id '{batch_id}'.")
        if not job.cancel():
            return error(409, f"Cannot cancel a batch with status '{self.words[job.state]}'.")
        return Reply(body=self._shown(job))

    def _output(self, request: Received, batch_id: str) -> Reply:
        job = self.jobs.get(batch_id)
        content = self.output(job) if job and job.has_ended else None
        return error(404, f"No output of batch '{batch_id}'.") if content is None else Reply(body=content)

    def _shown(self, job: Job) -> dict[str, Any]:
        return {**job.record, "status": self.words[job.state]}


class Managed(Scripted):
    """
    Portkey's own batches, with a guardrail: the batch's input is not the file that was uploaded.

    .. seealso:: https://portkey.ai/docs/product/ai-gateway/batches
    .. seealso:: https://portkey.ai/docs/product/guardrails/guardrails-for-batches
    """

    name = "portkey"
    prefix = "pk_batch_"
    reads_input = False
    names_unreached = True
    words = {
        "queued": "validating",
        "running": "processing_post_request_guardrails",
        "ended": "completed",
        "expired": "expired",
        "cancelling": "cancelling",
        "cancelled": "cancelled",
    }

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}

    @property
    def extra_body(self) -> dict[str, Any]:
        return {"portkey_options": {"x-portkey-provider": "@openai-prod"}}

    @property
    def parameters(self) -> dict[str, Any]:
        return super().parameters | {"completion_window": "immediate"}

    def connection(self, base_url: str) -> dict[str, Any]:
        return {"host": base_url, "password": keys.PORTKEY, "extra": {"managed": True, "headers": {}}}

    def routes(self) -> Sequence[Route]:
        return (
            ("POST", "/v1/files", self._upload),
            ("GET", "/v1/files/([^/]+)", self._retrieve_file),
            ("GET", "/v1/files/([^/]+)/content", self._content),
            *super().routes(),
        )

    def _upload(self, request: Received) -> Reply:
        form = request.form()
        if form.get("purpose") != b"batch":
            return error(400, "'purpose' must be 'batch'")
        return self._retrieve_file(request, self._keep(form["file"]))

    def _keep(self, content: bytes) -> str:
        file_id = f"pk_file_{len(self.files) + 1:024}"
        self.files[file_id] = content
        return file_id

    def _retrieve_file(self, request: Received, file_id: str) -> Reply:
        if (content := self.files.get(file_id)) is None:
            return error(404, f"No such File object: {file_id}")
        return Reply(body={"id": file_id, "object": "file", "bytes": len(content), "purpose": "batch"})

    def _content(self, request: Received, file_id: str) -> Reply:
        content = self.files.get(file_id)
        return error(404, f"No such File object: {file_id}") if content is None else Reply(body=content)

    def problem(self, asked: Any) -> str | None:
        if asked.get("input_file_id") not in self.files:
            return f"No such File object: {asked.get('input_file_id')}"
        if asked.get("completion_window") not in ("24h", "immediate") or not asked.get("endpoint"):
            return "endpoint and a completion_window of 24h or immediate are required"
        return None if asked.get("portkey_options") else "portkey_options are required"

    def record(self, asked: Any) -> dict[str, Any]:
        names = ("endpoint", "completion_window", "input_file_id", "metadata")
        return {name: asked.get(name) for name in names} | {"output_file_id": None, "error_file_id": None}

    def finish(self, job: Job) -> None:
        content = self.files[job.request["input_file_id"]]
        job.record["input_file_id"] = self._keep(content)  # what the guardrail left of it
        lines = [json.loads(line) for line in content.split(b"\n") if line.strip()]
        good, bad = output_rows(lines, job.fates(line["custom_id"] for line in lines), self.words[job.state])
        failed = sum(row["response"] is not None for row in bad)
        job.record["request_counts"] = {"total": len(lines), "completed": len(good), "failed": failed}
        for kind, rows in (("output", good), ("error", bad)):
            job.record[f"{kind}_file_id"] = self._keep(jsonl(rows)) if rows else None

    def output(self, job: Job) -> bytes | None:
        return self.files.get(job.record["output_file_id"])


class Anthropic(Scripted):
    """
    Anthropic's message batches: the requests are in the call itself, and the answers in the output alone.

    Their statuses are Anthropic's own words. Which counts Portkey shows is not documented, so there are none.

    .. seealso:: https://portkey.ai/docs/integrations/llms/anthropic/batches
    .. seealso:: https://docs.anthropic.com/en/api/creating-message-batches
    """

    name = "anthropic"
    endpoint = "/v1/messages"
    prefix = "msgbatch_"
    reads_input = False
    source = "output"
    names_unreached = True
    words = {
        "queued": "in_progress",
        "running": "in_progress",
        "ended": "ended",
        "expired": "ended",
        "cancelling": "canceling",
        "cancelled": "ended",
    }

    def __init__(self) -> None:
        super().__init__()
        self.results: dict[str, bytes] = {}

    @property
    def parameters(self) -> dict[str, Any]:
        return {"inline": True, "endpoint": self.endpoint}

    def connection(self, base_url: str) -> dict[str, Any]:
        return {"host": base_url, "password": keys.PORTKEY, "extra": {"provider": "@anthropic-prod", "headers": {}}}

    def body(self, prompt: str) -> dict[str, Any]:
        return super().body(prompt) | {"model": "claude-sonnet-4-20250514"}

    def problem(self, asked: Any) -> str | None:
        if asked.keys() != {"requests"}:
            return f"Extra inputs are not permitted: {sorted(asked.keys() - {'requests'})}"
        ids = [request.get("custom_id") for request in asked["requests"]]
        if len(set(ids)) < len(ids) or not all(re.fullmatch("[a-zA-Z0-9_-]{1,64}", str(each)) for each in ids):
            return "requests: each custom_id must be unique and match [a-zA-Z0-9_-]{1,64}"
        needed = {"model", "max_tokens", "messages"}
        if any(
            request.keys() != {"custom_id", "params"} or needed - request["params"].keys()
            for request in asked["requests"]
        ):
            return "requests: expected custom_id and params, with model, max_tokens and messages"
        return None

    def record(self, asked: Any) -> dict[str, Any]:
        return {"endpoint": self.endpoint, "results_url": None}

    def finish(self, job: Job) -> None:
        fates = job.fates(request["custom_id"] for request in job.request["requests"])
        results = [self._result(job, request, fates[request["custom_id"]]) for request in job.request["requests"]]
        self.results[job.id] = jsonl([result for result in results if result["result"]])
        job.record["results_url"] = f"https://api.anthropic.com/v1/messages/batches/{job.id}/results"

    def output(self, job: Job) -> bytes | None:
        return self.results.get(job.id)

    def _result(self, job: Job, request: Mapping[str, Any], fate: Fate) -> dict[str, Any]:
        result: dict[str, Any] | None = None
        if fate == "answered":
            text = reply(text_of(request["params"]["messages"][-1]))
            message = {
                "id": f"msg_{request['custom_id']}",
                "type": "message",
                "role": "assistant",
                "model": request["params"]["model"],
                "content": [{"type": "text", "text": text}],
                "stop_reason": "end_turn",
                "stop_sequence": None,
                "usage": {"input_tokens": 11, "output_tokens": 7},
            }
            result = {"type": "succeeded", "message": message}
        elif fate == "failed":
            cause = {"type": "invalid_request_error", "message": "max_tokens: must be greater than or equal to 1"}
            result = {"type": "errored", "error": {"type": "error", "error": cause}}
        elif fate == "unreached":
            result = {"type": "canceled" if job.state == "cancelled" else "expired"}
        return {"custom_id": request["custom_id"], "result": result}


def jsonl(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return rows as the lines of a file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def error(status: int, message: str) -> Reply:
    """Return an error as Portkey passes it on."""
    return Reply(status, {"error": {"message": message, "type": "invalid_request_error"}, "provider": "portkey"})
