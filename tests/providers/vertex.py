"""
Google's Vertex AI: a shim of its batch prediction jobs over an emulator of Google Cloud Storage.

Only the ``batchPredictionJobs`` routes are made here. ``test_vertex_shim.py`` checks each response against Google's
discovery document.

.. seealso:: https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/batch-prediction-gemini
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from tests.providers import keys
from tests.providers.job import Job, Jobs
from tests.providers.prompts import reply, text_of
from tests.providers.provider import Provider
from tests.providers.shim import Received, Reply, Route, Shim
from tests.providers.storage import Storage

REGION = "us-central1"
PROJECT = "batches-project"
PROJECT_NUMBER = 123456789012
MODEL = "gemini-2.0-flash"

_JOBS = f"/v1/projects/{PROJECT}/locations/{REGION}/batchPredictionJobs"
_STATE = {
    "queued": "JOB_STATE_PENDING",
    "running": "JOB_STATE_RUNNING",
    "ended": "JOB_STATE_SUCCEEDED",
    "expired": "JOB_STATE_EXPIRED",
    "cancelling": "JOB_STATE_CANCELLING",
    "cancelled": "JOB_STATE_CANCELLED",
}


class Vertex(Provider, Shim):
    """Vertex AI's job service; its jobs read and write the emulator's buckets."""

    name = "vertex-ai"

    def __init__(self, storage: Storage) -> None:
        super().__init__()
        self.jobs = Jobs()
        self._storage = storage
        self._bucket = ""

    def reset(self, bucket: str) -> None:
        super().reset(bucket)
        self._bucket = bucket
        self._storage.bucket("gcs", bucket)

    @property
    def headers(self) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {keys.VERTEX}",
            "x-portkey-vertex-project-id": PROJECT,
            "x-portkey-vertex-region": REGION,
            "x-portkey-vertex-storage-bucket-name": self._bucket,
            "x-portkey-provider-model": MODEL,
        }

    @property
    def extra_body(self) -> dict[str, Any]:
        return {"model": MODEL}

    def routes(self) -> Sequence[Route]:
        return (
            ("POST", _JOBS, self._create),
            ("GET", _JOBS, self._list),
            ("GET", f"{_JOBS}/([0-9]+)", self._retrieve),
            ("POST", f"{_JOBS}/([0-9]+):cancel", self._cancel),
        )

    def refuse(self, request: Received) -> Reply | None:
        if request.headers.get("Authorization") == f"Bearer {keys.VERTEX}":
            return None
        return _error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")

    def _create(self, request: Received) -> Reply:
        asked = request.json()
        uri, prefix = _input(asked), _output(asked)
        if not asked.get("model") or not asked.get("displayName") or not prefix.startswith("gs://"):
            return _error(400, "INVALID_ARGUMENT", "model, displayName and an output URI prefix are required.")
        if self._read(uri) is None:
            return _error(400, "INVALID_ARGUMENT", f"Failed to list GCS objects: {uri}")
        job_id = str(4_000_000_000_000_000_000 + len(self.jobs))
        now = _now()
        record = {
            "name": f"projects/{PROJECT_NUMBER}/locations/{REGION}/batchPredictionJobs/{job_id}",
            **asked,
            # Google reads a single value where a list is expected.
            "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": [uri]}},
            "createTime": now,
            "updateTime": now,
        }
        self.jobs[job_id] = job = Job(job_id, asked, self.ending, record)
        return Reply(body=_shown(job))

    def _retrieve(self, request: Received, job_id: str) -> Reply:
        if (job := self.jobs.get(job_id)) is None:
            return _not_found(job_id)
        has_just_ended = job.advance()
        if job.state != "queued":
            job.record.setdefault("startTime", _now())
        if has_just_ended:
            self._finish(job)
        return Reply(body=_shown(job))

    def _list(self, request: Received) -> Reply:
        token = request.query.get("pageToken", "")
        if token and not token.startswith("page-"):
            return _error(400, "INVALID_ARGUMENT", "The page token is invalid.")
        start = int(token.removeprefix("page-") or 0)
        end = start + int(request.query.get("pageSize", 20))
        found = list(self.jobs.newest_first())
        more = {"nextPageToken": f"page-{end}"} if len(found) > end else {}
        return Reply(body={"batchPredictionJobs": [_shown(job) for job in found[start:end]], **more})

    def _cancel(self, request: Received, job_id: str) -> Reply:
        if (job := self.jobs.get(job_id)) is None:
            return _not_found(job_id)
        if not job.cancel():
            return _error(400, "FAILED_PRECONDITION", f"The job is in state {_STATE[job.state]}.")
        return Reply(body={})

    def _finish(self, job: Job) -> None:
        """Write the predictions into a folder of the job's own, and count them."""
        lines = [json.loads(line) for line in (self._read(_input(job.request)) or b"").split(b"\n") if line.strip()]
        fates = job.fates(line["requestId"] for line in lines)
        come_back = [line for line in lines if fates[line["requestId"]] in ("answered", "failed")]
        rows = [_row(line, fates[line["requestId"]]) for line in come_back]
        now = _now()
        folder = f"{_output(job.request).rstrip('/')}/prediction-model-{now}"
        bucket, _, key = f"{folder}/predictions.jsonl".removeprefix("gs://").partition("/")
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self._storage.bucket("gcs", bucket).write(key, content.encode())
        failed = sum(bool(row["status"]) for row in rows)
        counts = {
            "successfulCount": len(rows) - failed,
            "failedCount": failed,
            "incompleteCount": len(lines) - len(rows),
        }
        job.record |= {
            "outputInfo": {"gcsOutputDirectory": folder},
            "completionStats": {name: str(count) for name, count in counts.items() if count},
            "endTime": now,
            "updateTime": now,
        }

    def _read(self, uri: str) -> bytes | None:
        bucket, _, key = uri.removeprefix("gs://").partition("/")
        return self._storage.bucket("gcs", bucket).read(key) if bucket and key else None


def _row(line: dict[str, Any], fate: str) -> dict[str, Any]:
    row = {"status": "", "processed_time": _now(), "request": line["request"], "response": {}}
    if fate == "failed":
        cause = {"error": {"code": 400, "message": "Invalid value at maxOutputTokens", "status": "INVALID_ARGUMENT"}}
        row["status"] = f"Bad Request: {json.dumps(cause)}"
    else:
        text = reply(text_of(line["request"]["contents"][-1]))
        candidate = {
            "content": {"parts": [{"text": text}], "role": "model"},
            "finishReason": "STOP",
            "avgLogprobs": -0.25,
        }
        usage = {"promptTokenCount": 11, "candidatesTokenCount": 7, "totalTokenCount": 18}
        row["response"] = {"candidates": [candidate], "modelVersion": f"{MODEL}-001", "usageMetadata": usage}
    return row | {"requestId": line["requestId"]}


def _shown(job: Job) -> dict[str, Any]:
    return {**job.record, "state": _STATE[job.state]}


def _input(asked: Any) -> str:
    uris = asked.get("inputConfig", {}).get("gcsSource", {}).get("uris") or ""
    return str(uris if isinstance(uris, str) else uris[0])


def _output(asked: Any) -> str:
    return str(asked.get("outputConfig", {}).get("gcsDestination", {}).get("outputUriPrefix", ""))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _not_found(job_id: str) -> Reply:
    return _error(404, "NOT_FOUND", f"The BatchPredictionJob {job_id} does not exist.")


def _error(code: int, status: str, message: str) -> Reply:
    return Reply(code, {"error": {"code": code, "message": message, "status": status}})
