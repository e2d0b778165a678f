"""
The Vertex shim, checked against Google's discovery document.

``vertex_schema.json`` has the schemas of that document (in google-api-python-client 2.202.0) that are needed here, as
JSON Schema, with no further members allowed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import requests

from tests.providers import keys
from tests.providers.conftest import Clouds
from tests.providers.job import Ending
from tests.providers.vertex import PROJECT, REGION, Vertex

DEFINITIONS = json.loads(Path(__file__).with_name("vertex_schema.json").read_text())["definitions"]
BUCKET = "batches-of-google"


def check(name: str, value: Any) -> None:
    """Raise unless a value is what a schema says."""
    jsonschema.validate(value, {"$ref": f"#/definitions/{name}", "definitions": DEFINITIONS})


def test_each_response_is_as_the_discovery_document_says(clouds: Clouds) -> None:
    vertex = clouds.providers["vertex-ai"]
    assert isinstance(vertex, Vertex)
    vertex.reset(BUCKET)
    vertex.ending = Ending(failed=frozenset(["b"]), lost=frozenset(["c"]))
    bucket = clouds.storage.bucket("gcs", BUCKET)
    request = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
    lines = [json.dumps({"requestId": each, "request": request}) for each in "abc"]
    bucket.write("in/requests.jsonl", "\n".join(lines).encode())
    creation = {
        "displayName": "one",
        "model": "publishers/google/models/gemini-2.0-flash",
        "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": [f"gs://{BUCKET}/in/requests.jsonl"]}},
        "outputConfig": {
            "predictionsFormat": "jsonl",
            "gcsDestination": {"outputUriPrefix": f"gs://{BUCKET}/out/"},
        },
    }
    jobs = f"http://127.0.0.1:{vertex.port}/v1/projects/{PROJECT}/locations/{REGION}/batchPredictionJobs"

    def call(method: str, url: str, status: int = 200, **kwargs: Any) -> Any:
        headers = {"Authorization": f"Bearer {keys.VERTEX}"}
        response = requests.request(method, url, headers=headers, timeout=10, **kwargs)
        assert response.status_code == status, response.text
        return response.json()

    states = []
    created = call("POST", jobs, json=creation)
    check("BatchPredictionJob", created)
    url = f"{jobs}/{created['name'].rpartition('/')[2]}"
    for _ in range(3):
        job = call("GET", url)
        check("BatchPredictionJob", job)
        states.append(job["state"])
    page = call("GET", f"{jobs}?pageSize=1&pageToken=")
    check("ListBatchPredictionJobsResponse", page)
    rows = (
        bucket.read(f"{job['outputInfo']['gcsOutputDirectory']}/predictions.jsonl".split("/", 3)[3]) or b""
    ).splitlines()

    assert states == ["JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_SUCCEEDED"]
    assert page["batchPredictionJobs"] == [job]
    assert job["completionStats"] == {"successfulCount": "1", "failedCount": "1", "incompleteCount": "1"}
    assert [json.loads(row)["requestId"] for row in rows] == ["a", "b"]
    check("GenerateContentResponse", json.loads(rows[0])["response"])
    assert call("POST", f"{url}:cancel", 400)["error"]["status"] == "FAILED_PRECONDITION"
    assert call("GET", f"{jobs}?pageToken={created['name'].rpartition('/')[2]}", 400)["error"]["code"] == 400
    assert call("GET", f"{jobs}/1", 404)["error"]["status"] == "NOT_FOUND"
