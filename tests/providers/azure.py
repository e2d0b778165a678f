"""
Azure OpenAI: a shim of its files and batches. A file must be processed before a batch can read it.

.. seealso:: https://learn.microsoft.com/azure/ai-services/openai/how-to/batch
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.providers import keys
from tests.providers.job import Job, Jobs
from tests.providers.openai_rows import output_rows
from tests.providers.provider import Provider
from tests.providers.shim import Received, Reply, Route, Shim

RESOURCE = "batches-resource"
API_VERSION = "2024-10-21"
DEPLOYMENT = "gpt-4o-mini-batch"

_STATUS = {
    "queued": "validating",
    "running": "in_progress",
    "ended": "completed",
    "expired": "expired",
    "cancelling": "cancelling",
    "cancelled": "cancelled",
}


@dataclass
class File:
    """
    A file.

    :param retrieved: how many times it was retrieved: that processes it, as time does at Azure
    """

    id: str
    purpose: str
    content: bytes
    retrieved: int = 0


class Azure(Provider, Shim):
    """
    Azure's API, and its blob storage.

    :ivar blobs: what lies in its blob storage, by path
    """

    name = "azure-openai"
    processes_files = True
    names_unreached = True

    def __init__(self) -> None:
        super().__init__()
        self.jobs = Jobs()
        self.files: dict[str, File] = {}
        self.blobs: dict[str, bytes] = {}

    @property
    def headers(self) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {keys.AZURE}",
            "x-portkey-azure-resource-name": RESOURCE,
            "x-portkey-azure-deployment-id": DEPLOYMENT,
            "x-portkey-azure-api-version": API_VERSION,
        }

    def body(self, prompt: str) -> dict[str, Any]:
        return super().body(prompt) | {"model": DEPLOYMENT}

    def routes(self) -> Sequence[Route]:
        return (
            ("POST", "/openai/files", self._upload),
            ("GET", "/openai/files/([^/]+)", self._retrieve_file),
            ("GET", "/openai/files/([^/]+)/content", self._content),
            ("POST", "/openai/batches", self._create),
            ("GET", "/openai/batches", self._list),
            ("GET", "/openai/batches/([^/]+)", self._retrieve),
            ("POST", "/openai/batches/([^/]+)/cancel", self._cancel),
            ("GET", "(/container/.+)", self._blob),
        )

    def refuse(self, request: Received) -> Reply | None:
        if request.headers.get("api-key") != keys.AZURE:
            return _error(401, "401", "Access denied due to invalid subscription key.")
        if "api-version" not in request.query and request.path.startswith("/openai/"):
            return _error(404, "404", "Resource not found")
        return None

    def _upload(self, request: Received) -> Reply:
        form = request.form()
        if form.get("purpose") != b"batch":
            return _error(400, "invalidPayload", "The purpose of the file is invalid.")
        return Reply(201, self._file_body(self._keep("batch", form["file"])))

    def _keep(self, purpose: str, content: bytes) -> File:
        file = File(f"file-{len(self.files) + 1:032x}", purpose, content)
        self.files[file.id] = file
        return file

    def _file_body(self, file: File) -> dict[str, Any]:
        return {
            "id": file.id,
            "object": "file",
            "bytes": len(file.content),
            "created_at": int(time.time()),
            "filename": f"{file.id}.jsonl",
            "purpose": file.purpose,
            "status": "processed" if self._is_processed(file) else "pending",
        }

    def _is_processed(self, file: File) -> bool:
        return file.purpose != "batch" or file.retrieved >= self.processed_after

    def _retrieve_file(self, request: Received, file_id: str) -> Reply:
        if (file := self.files.get(file_id)) is None:
            return _error(404, "404", f"File {file_id} not found.")
        file.retrieved += 1
        return Reply(body=self._file_body(file))

    def _content(self, request: Received, file_id: str) -> Reply:
        if (file := self.files.get(file_id)) is None:
            return _error(404, "404", f"File {file_id} not found.")
        return Reply(body=file.content)

    def _blob(self, request: Received, path: str) -> Reply:
        if path not in self.blobs:
            return Reply(404, b"BlobNotFound")
        return Reply(body=self.blobs[path])

    def _create(self, request: Received) -> Reply:
        asked = request.json()
        file = self.files.get(asked.get("input_file_id") or "")
        if file is None and _path(asked.get("input_blob")) not in self.blobs:
            return _error(400, "invalidPayload", "The input file or blob does not exist.")
        if file is not None and not self._is_processed(file):
            return _error(400, "invalidPayload", f"The file {file.id} is not processed yet.")
        if not asked.get("endpoint") or asked.get("completion_window") != "24h":
            return _error(400, "invalidPayload", "endpoint and a completion_window of 24h are required.")
        batch_id = f"batch_{len(self.jobs) + 1:08}-aaaa-bbbb-cccc-000000000000"
        names = ("endpoint", "completion_window", "input_file_id", "input_blob", "metadata")
        record = {
            "id": batch_id,
            "object": "batch",
            **{name: asked.get(name) for name in names},
            **dict.fromkeys(("output_file_id", "error_file_id", "output_blob", "error_blob", "errors")),
            "created_at": int(time.time()),
            "expires_at": int(time.time()) + 86_400,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }
        self.jobs[batch_id] = job = Job(batch_id, asked, self.ending, record)
        return Reply(body=_shown(job))

    def _retrieve(self, request: Received, batch_id: str) -> Reply:
        if (job := self.jobs.get(batch_id)) is None:
            return _error(404, "404", f"Batch {batch_id} not found.")
        if job.advance():
            self._finish(job)
        return Reply(body=_shown(job))

    def _list(self, request: Received) -> Reply:
        ids = [job.id for job in self.jobs.newest_first()]
        after, most = request.query.get("after"), int(request.query.get("limit", 20))
        ids = ids[ids.index(after) + 1 :] if after in ids else ids
        page = [_shown(self.jobs[batch_id]) for batch_id in ids[:most]]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
        return Reply(body={"object": "list", "data": page, "has_more": len(ids) > most, **ends})

    def _cancel(self, request: Received, batch_id: str) -> Reply:
        if (job := self.jobs.get(batch_id)) is None:
            return _error(404, "404", f"Batch {batch_id} not found.")
        if not job.cancel():
            return _error(409, "409", f"Cannot cancel a batch with status '{_STATUS[job.state]}'.")
        return Reply(body=_shown(job))

    def _finish(self, job: Job) -> None:
        """Answer the requests, into files or into blobs beside the input."""
        file = self.files.get(job.request.get("input_file_id") or "")
        content = file.content if file else self.blobs[_path(job.request["input_blob"])]
        lines = [json.loads(line) for line in content.split(b"\n") if line.strip()]
        good, bad = output_rows(lines, job.fates(line["custom_id"] for line in lines), _STATUS[job.state])
        job.record["request_counts"] = {
            "total": len(lines),
            "completed": len(good),
            "failed": sum(row["response"] is not None for row in bad),
        }
        for kind, rows in (("output", good), ("error", bad)):
            written = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
            if file and rows:
                job.record[f"{kind}_file_id"] = self._keep("batch_output", written).id
            elif rows:
                url = f"{job.request['output_folder']['url'].rstrip('/')}/{job.id}/{kind}.jsonl"
                self.blobs[_path(url)] = written
                job.record[f"{kind}_blob"] = url


def _path(url: object) -> str:
    return "/" + str(url).partition("://")[2].partition("/")[2]


def _shown(job: Job) -> dict[str, Any]:
    return {**job.record, "status": _STATUS[job.state]}


def _error(status: int, code: str, message: str) -> Reply:
    return Reply(status, {"error": {"code": code, "message": message}})
