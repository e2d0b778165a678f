"""The Bedrock shim, driven by botocore and checked against its service model."""

from __future__ import annotations

import json
import subprocess

import pytest
import requests

from tests.providers.bedrock import MODEL, ROLE, Bedrock
from tests.providers.conftest import Clouds
from tests.providers.storage import SCRIPT, install

CLIENT = SCRIPT.with_name("bedrock_client.py")
CREATION = {
    "jobName": "one",
    "roleArn": ROLE,
    "modelId": MODEL,
    "inputDataConfig": {"s3InputDataConfig": {"s3Uri": "s3://batches-of-botocore/in/requests.jsonl"}},
    "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": "s3://batches-of-botocore/out/"}},
}


def test_botocore_accepts_each_response(clouds: Clouds) -> None:
    bedrock = clouds.providers["bedrock"]
    assert isinstance(bedrock, Bedrock)
    bedrock.reset("batches-of-botocore")
    line = {"recordId": "a", "modelInput": {"messages": [{"role": "user", "content": "Hello"}]}}
    clouds.storage.bucket("s3", "batches-of-botocore").write("in/requests.jsonl", json.dumps(line).encode())

    command = [str(install()), str(CLIENT), f"http://127.0.0.1:{bedrock.port}", json.dumps(CREATION)]
    result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)

    assert result["problems"] == []
    assert result["statuses"] == [
        "Submitted",
        "InProgress",
        "Completed",
        "listed Completed",
        "Stopping",
        "Stopped",
        "ConflictException",
        "ResourceNotFoundException",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("roleArn", "batches"),
        ("modelId", ""),
        ("jobName", None),
        ("inputDataConfig", {}),
        ("inputDataConfig", {"s3InputDataConfig": {"s3Uri": "s3://batches-of-botocore/not there.jsonl"}}),
        ("inputDataConfig", {"s3InputDataConfig": {"s3Uri": "s3://batches-of-botocore/not-there.jsonl"}}),
        ("outputDataConfig", {"s3OutputDataConfig": {"s3Uri": "batches"}}),
    ],
)
def test_a_job_that_bedrock_would_reject_is_rejected(clouds: Clouds, name: str, value: object) -> None:
    bedrock = clouds.providers["bedrock"]
    assert isinstance(bedrock, Bedrock)
    bedrock.reset("batches-of-botocore")
    headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/bedrock/aws4_request"}
    url = f"http://127.0.0.1:{bedrock.port}/model-invocation-job"

    response = requests.post(url, json=CREATION | {name: value}, headers=headers, timeout=10)

    assert (response.status_code, response.headers["x-amzn-ErrorType"]) == (400, "ValidationException")
