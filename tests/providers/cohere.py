"""
Cohere: a shim of its datasets and embed jobs. A dataset must be validated before a job can read it.

.. seealso:: https://docs.cohere.com/reference/create-embed-job
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.providers import keys
from tests.providers.avro import write_embeddings
from tests.providers.job import Job, Jobs
from tests.providers.prompts import embedding
from tests.providers.provider import Provider
from tests.providers.shim import HOST, Received, Reply, Route, Shim

MODEL = "embed-multilingual-v3.0"

_STATUS = {
    "queued": "processing",
    "running": "processing",
    "ended": "complete",
    "cancelling": "cancelling",
    "cancelled": "cancelled",
}
_META = {"api_version": {"version": "1"}, "billed_units": {"input_tokens": 1200}}


@dataclass
class Dataset:
    """
    An uploaded or computed dataset.

    :param retrieved: how many times it was retrieved: that validates it, as time does at Cohere
    """

    id: str
    kind: str
    name: str
    parts: list[bytes]
    rows: int
    retrieved: int = 0


class Cohere(Provider, Shim):
    """
    Cohere's API.

    :ivar parts: of how many files the dataset of a job's embeddings consists
    """

    name = "cohere"
    endpoint = "/v1/embeddings"
    expires = False
    reports_failures = False
    reads_input = False
    source = "output"
    processes_files = True

    def __init__(self) -> None:
        super().__init__()
        self.jobs = Jobs()
        self.datasets: dict[str, Dataset] = {}
        self.parts = 1

    def reset(self, bucket: str) -> None:
        super().reset(bucket)
        self.parts = 1

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {keys.COHERE}"}

    @property
    def extra_body(self) -> dict[str, Any]:
        return {"model": MODEL, "input_type": "search_document", "embedding_types": ["float"]}

    def body(self, prompt: str) -> dict[str, Any]:
        return {"model": MODEL, "input": prompt}

    def answer(self, prompt: str) -> Any:
        return embedding(prompt)

    def routes(self) -> Sequence[Route]:
        return (
            ("POST", "/v1/datasets", self._upload),
            ("GET", "/v1/datasets/([^/]+)", self._retrieve_dataset),
            ("GET", "/parts/([^/]+)/([0-9]+)", self._part),
            ("POST", "/v1/embed-jobs", self._create),
            ("GET", "/v1/embed-jobs", self._list),
            ("GET", "/v1/embed-jobs/([^/]+)", self._retrieve),
            ("POST", "/v1/embed-jobs/([^/]+)/cancel", self._cancel),
        )

    def refuse(self, request: Received) -> Reply | None:
        if request.headers.get("Authorization") == f"Bearer {keys.COHERE}":
            return None
        return Reply(401, {"message": "invalid api token"})

    def _upload(self, request: Received) -> Reply:
        content = request.form()["file"]
        if request.query.get("type") != "embed-input":
            return Reply(400, {"message": f"invalid dataset type: {request.query.get('type')}"})
        rows = sum(bool(line.strip()) for line in content.split(b"\n"))
        dataset = self._keep("embed-input", request.query["name"], [content], rows)
        return Reply(body={"id": dataset.id})

    def _keep(self, kind: str, name: str, parts: list[bytes], rows: int) -> Dataset:
        dataset = Dataset(f"{name}-{len(self.datasets):06}", kind, name, parts, rows)
        self.datasets[dataset.id] = dataset
        return dataset

    def _retrieve_dataset(self, request: Received, dataset_id: str) -> Reply:
        if (dataset := self.datasets.get(dataset_id)) is None:
            return Reply(404, {"message": f"dataset with id {dataset_id} not found"})
        dataset.retrieved += 1
        parts = [
            {
                "id": f"{dataset.id}-part-{n}",
                "name": f"{dataset.name}-{n}.avro",
                "url": f"http://{HOST}:{self.port}/parts/{dataset.id}/{n}",
                "size_bytes": len(part),
                "num_rows": dataset.rows // len(dataset.parts),
                "samples": [],
            }
            for n, part in enumerate(dataset.parts)
        ]
        now = _now()
        shown = {
            "id": dataset.id,
            "name": dataset.name,
            "created_at": now,
            "updated_at": now,
            "dataset_type": dataset.kind,
            "validation_status": "validated" if self._is_validated(dataset) else "processing",
            "validation_error": "",
            "schema": "",
            "required_fields": ["text"],
            "preserve_fields": ["custom_id", "id"],
            "dataset_parts": parts,
            "validation_warnings": [],
        }
        return Reply(body={"dataset": shown})

    def _is_validated(self, dataset: Dataset) -> bool:
        return dataset.kind != "embed-input" or dataset.retrieved >= self.processed_after

    def _part(self, request: Received, dataset_id: str, number: str) -> Reply:
        return Reply(body=self.datasets[dataset_id].parts[int(number)])

    def _create(self, request: Received) -> Reply:
        asked = request.json()
        dataset = self.datasets.get(asked.get("dataset_id", ""))
        if dataset is None:
            return Reply(404, {"message": f"dataset with id {asked.get('dataset_id')} not found"})
        if not self._is_validated(dataset):
            return Reply(400, {"message": f"dataset {dataset.id} is not validated yet"})
        if not asked.get("model") or not asked.get("input_type"):
            return Reply(400, {"message": "model and input_type are required"})
        job_id = f"{len(self.jobs) + 1:08}-aaaa-bbbb-cccc-000000000000"
        record = {
            "job_id": job_id,
            "created_at": _now(),
            "input_dataset_id": dataset.id,
            "model": asked["model"],
            "truncate": asked.get("truncate", "END"),
            "name": asked.get("name", ""),
            "meta": _META,
        }
        self.jobs[job_id] = Job(job_id, asked, self.ending, record)
        return Reply(body={"job_id": job_id, "meta": _META})

    def _retrieve(self, request: Received, job_id: str) -> Reply:
        if (job := self.jobs.get(job_id)) is None:
            return Reply(404, {"message": f"embed job with id {job_id} not found"})
        if job.advance() and job.state == "ended":
            self._finish(job)
        return Reply(body=_shown(job))

    def _list(self, request: Received) -> Reply:
        return Reply(body={"embed_jobs": [_shown(job) for job in self.jobs.newest_first()]})

    def _cancel(self, request: Received, job_id: str) -> Reply:
        if (job := self.jobs.get(job_id)) is None:
            return Reply(404, {"message": f"embed job with id {job_id} not found"})
        if not job.cancel():
            return Reply(400, {"message": f"embed job {job_id} is {_STATUS[job.state]}"})
        return Reply(body={})

    def _finish(self, job: Job) -> None:
        """Compute the dataset of the embeddings."""
        [content] = self.datasets[job.request["dataset_id"]].parts
        lines = [json.loads(line) for line in content.split(b"\n") if line.strip()]
        fates = job.fates(line["custom_id"] for line in lines)
        rows = [line | {"float": embedding(line["text"])} for line in lines if fates[line["custom_id"]] == "answered"]
        size = max(1, -(-len(rows) // self.parts))
        parts = [write_embeddings(rows[start : start + size]) for start in range(0, max(1, len(rows)), size)]
        output = self._keep("embed-result", f"{job.id}-output", parts, len(rows))
        job.record["output_dataset_id"] = output.id


def _shown(job: Job) -> dict[str, Any]:
    return {**job.record, "status": _STATUS[job.state]}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
