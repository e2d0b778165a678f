"""
Amazon Bedrock: a shim of its batch jobs over an S3 emulator.

Only the four ``model-invocation-job`` routes are made here. ``test_bedrock_shim.py`` drives them with botocore, and
checks each response against its service model.

.. seealso:: https://docs.aws.amazon.com/bedrock/latest/userguide/batch-inference.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

from tests.providers import keys
from tests.providers.job import Job, Jobs
from tests.providers.prompts import reply, text_of
from tests.providers.provider import Provider
from tests.providers.shim import Received, Reply, Route, Shim
from tests.providers.storage import Storage

REGION = "us-east-1"
ACCOUNT = "123456789012"
MODEL = "anthropic.claude-3-haiku-20240307-v1:0"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/batches"

#: botocore's patterns of what a job is created with.
_S3_URI = r"s3://[a-z0-9][-.a-z0-9]{1,61}[a-z0-9](?:/[-!_*'().a-z0-9A-Z]+(?:/[-!_*'().a-z0-9A-Z]+)*)?/?"
_REQUIRED = {
    "jobName": r"[a-zA-Z0-9]{1,63}(-*[a-zA-Z0-9\+\-\.]){0,63}",
    "roleArn": r"arn:aws(-[^:]+)?:iam::([0-9]{12})?:role/.+",
    "modelId": r"[a-z0-9-]{1,63}[.]{1}[a-z0-9-]{1,63}([.]?[a-z0-9-]{1,63})([:][a-z0-9-]{1,63}){0,2}",
}
_STATUS = {
    "queued": "Submitted",
    "running": "InProgress",
    "ended": "Completed",
    "expired": "PartiallyCompleted",  # "not all of your records could be processed in time"
    "cancelling": "Stopping",
    "cancelled": "Stopped",
}


class Bedrock(Provider, Shim):
    """Bedrock's control plane; its jobs read and write the emulator's S3."""

    name = "bedrock"

    def __init__(self, storage: Storage) -> None:
        super().__init__()
        self.jobs = Jobs()
        self._storage = storage
        self._bucket = ""

    def reset(self, bucket: str) -> None:
        super().reset(bucket)
        self._bucket = bucket
        self._storage.bucket("s3", bucket)

    @property
    def headers(self) -> dict[str, str]:
        return {
            "x-portkey-aws-access-key-id": "AKIAIOSFODNN7EXAMPLE",
            "x-portkey-aws-secret-access-key": keys.BEDROCK,
            "x-portkey-aws-region": REGION,
            "x-portkey-aws-s3-bucket": self._bucket,
            "x-portkey-provider-model": MODEL,
        }

    @property
    def extra_body(self) -> dict[str, Any]:
        return {"model": MODEL, "role_arn": ROLE}

    def routes(self) -> Sequence[Route]:
        return (
            ("POST", "/model-invocation-job", self._create),
            ("GET", "/model-invocation-jobs", self._list),
            ("GET", "/model-invocation-job/([^/]+)", self._retrieve),
            ("POST", "/model-invocation-job/([^/]+)/stop", self._stop),
        )

    def refuse(self, request: Received) -> Reply | None:
        if f"/{REGION}/bedrock/aws4_request" in request.headers.get("Authorization", ""):
            return None
        return _error(403, "AccessDeniedException", "The request is not signed.")

    def _create(self, request: Received) -> Reply:
        asked = request.json()
        config = {name: _s3_uri(asked, name) for name in ("inputDataConfig", "outputDataConfig")}
        problems = [n for n, pattern in _REQUIRED.items() if not re.fullmatch(pattern, asked.get(n) or "")]
        problems += [name for name, uri in config.items() if not re.fullmatch(_S3_URI, uri)]
        if problems:
            return _error(400, "ValidationException", f"Invalid or missing: {', '.join(problems)}")
        if self._read(config["inputDataConfig"]) is None:
            return _error(400, "ValidationException", f"{config['inputDataConfig']} does not exist.")
        arn = f"arn:aws:bedrock:{REGION}:{ACCOUNT}:model-invocation-job/{len(self.jobs) + 1:012}"
        now = datetime.now(UTC)
        record = {
            "jobArn": arn,
            **asked,
            "submitTime": _iso(now),
            "lastModifiedTime": _iso(now),
            "timeoutDurationInHours": 24,
            "jobExpirationTime": _iso(now + timedelta(hours=24)),
        }
        self.jobs[arn] = Job(arn, asked, self.ending, record)
        return Reply(body={"jobArn": arn})

    def _retrieve(self, request: Received, identifier: str) -> Reply:
        if (job := self._find(identifier)) is None:
            return _not_found()
        if job.advance():
            self._finish(job)
        return Reply(body=_shown(job))

    def _list(self, request: Received) -> Reply:
        most = int(request.query.get("maxResults", 100))
        start = int(request.query.get("nextToken", 0))
        found = list(self.jobs.newest_first())
        more = {"nextToken": str(start + most)} if len(found) > start + most else {}
        return Reply(body={"invocationJobSummaries": [_shown(job) for job in found[start : start + most]], **more})

    def _stop(self, request: Received, identifier: str) -> Reply:
        if (job := self._find(identifier)) is None:
            return _not_found()
        if not job.cancel():
            return _error(400, "ConflictException", f"The job is {_STATUS[job.state]}.")
        return Reply(body={})

    def _find(self, identifier: str) -> Job | None:
        job_id = unquote(identifier).rpartition("/")[2]
        return next((job for arn, job in self.jobs.items() if arn.endswith(f"/{job_id}")), None)

    def _finish(self, job: Job) -> None:
        """Write the output and its manifest, as Bedrock does: into a folder of the job's own."""
        now = _iso(datetime.now(UTC))
        job.record |= {"endTime": now, "lastModifiedTime": now}
        source = _s3_uri(job.request, "inputDataConfig")
        lines = [json.loads(line) for line in (self._read(source) or b"").splitlines() if line.strip()]
        fates = job.fates(line["recordId"] for line in lines)
        rows = [
            _row(line, fates[line["recordId"]]) for line in lines if fates[line["recordId"]] in ("answered", "failed")
        ]
        failed = sum("error" in row for row in rows)
        manifest = {
            "totalRecordCount": len(lines),
            "processedRecordCount": len(rows),
            "successRecordCount": len(rows) - failed,
            "errorRecordCount": failed,
            "inputTokenCount": 11 * (len(rows) - failed),
            "outputTokenCount": 7 * (len(rows) - failed),
        }
        folder = f"{_s3_uri(job.request, 'outputDataConfig').rstrip('/')}/{job.id.rpartition('/')[2]}"
        name = source.rpartition("/")[2]
        output = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self._write(f"{folder}/{name}.out", output.encode())
        self._write(f"{folder}/manifest.json.out", json.dumps(manifest).encode())

    def _read(self, uri: str) -> bytes | None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return self._storage.bucket("s3", bucket).read(key)

    def _write(self, uri: str, content: bytes) -> None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        self._storage.bucket("s3", bucket).write(key, content)


def _row(line: dict[str, Any], fate: str) -> dict[str, Any]:
    if fate == "failed":
        error = {"errorCode": 400, "errorMessage": "max_tokens: must be greater than or equal to 1"}
        return {"modelInput": line["modelInput"], "recordId": line["recordId"], "error": error}
    prompt = text_of(line["modelInput"]["messages"][-1])
    output = {
        "id": f"msg_bdrk_{line['recordId']}",
        "type": "message",
        "role": "assistant",
        "model": "claude-3-haiku-20240307",
        "content": [{"type": "text", "text": reply(prompt)}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 11, "output_tokens": 7},
    }
    return {"modelInput": line["modelInput"], "modelOutput": output, "recordId": line["recordId"]}


def _shown(job: Job) -> dict[str, Any]:
    return {**job.record, "status": _STATUS[job.state]}


def _s3_uri(asked: Any, name: str) -> str:
    config = asked.get(name) or {}
    return str((config.get(f"s3{name[0].upper()}{name[1:]}") or {}).get("s3Uri", ""))


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _not_found() -> Reply:
    return _error(404, "ResourceNotFoundException", "The specified job could not be found.")


def _error(status: int, kind: str, message: str) -> Reply:
    return Reply(status, {"message": message}, {"x-amzn-ErrorType": kind})
