"""Batches and files as the API returns them, and how a created batch runs: data, without a socket."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from tests.server.input_errors import read_requests

#: Moments in a scripted batch's body are fixed, so that bodies can be compared.
CREATED_AT = 1_760_000_000

# Providers' own words are among these, because Portkey passes them on.
_COMPLETED = {"completed", "complete", "ended"}
_CUT_SHORT = {"expired", "cancelled", "stopped", "partially_completed"}
_NEVER_RAN = {"failed", "file_upload_failed", "batch_start_failed"}
ENDED = _COMPLETED | _CUT_SHORT | _NEVER_RAN
_SECONDS_UNTIL = {"in_progress": 60, "finalizing": 3_000, "cancelling": 3_000, "expired": 86_400}
_DAY = 86_400
#: What a batch returns of the request that created it.
ECHOED = ("endpoint", "input_file_id", "completion_window", "metadata")

#: What a batch may call, and how long it may take; Portkey's own batches also take "immediate".
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/moderations")
WINDOWS = ("24h", "immediate")

_PIECE = 262_144
_TYPES = {bool: "a boolean", int: "an integer", float: "a decimal", list: "an array", dict: "an object"}

#: Returns the ``response`` in the output file to a line of the input file; ``None`` to lose the request.
Respond: TypeAlias = Callable[[dict[str, Any]], dict[str, Any] | None]


def batch_body(batch_id: str, status: str = "in_progress", **fields: object) -> dict[str, object]:
    """Return a whole batch as documented, plausible for its status. ``fields`` replace or add members."""
    passed = [status]
    counts = {"total": 100, "completed": 40, "failed": 1}
    files: tuple[str | None, str | None] = (None, None)
    errors = None
    if status in _COMPLETED:
        passed += ["in_progress", "finalizing"]
        counts = {"total": 100, "completed": 98, "failed": 2}
        files = (f"file-{batch_id}-output", f"file-{batch_id}-error")
    elif status in _CUT_SHORT:
        passed += ["in_progress"] if status == "expired" else ["in_progress", "cancelling"]
        counts = {"total": 100, "completed": 60, "failed": 2}
        files = (f"file-{batch_id}-output", f"file-{batch_id}-error")
    elif status in _NEVER_RAN:
        counts = {"total": 0, "completed": 0, "failed": 0}
        error = {"code": "invalid_json_line", "message": "Line 1 is not valid JSON.", "param": None, "line": 1}
        errors = {"object": "list", "data": [error]}
    elif status == "validating":
        counts = {"total": 0, "completed": 0, "failed": 0}
    else:
        passed += ["in_progress"]

    def moment(name: str) -> int | None:
        return CREATED_AT + _SECONDS_UNTIL.get(name, 3_600) if name in passed else None

    return {
        "id": batch_id,
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "errors": errors,
        "input_file_id": f"file-{batch_id}-input",
        "completion_window": "24h",
        "status": status,
        "output_file_id": files[0],
        "error_file_id": files[1],
        "created_at": CREATED_AT,
        "in_progress_at": moment("in_progress"),
        "expires_at": CREATED_AT + _DAY,
        "finalizing_at": moment("finalizing"),
        "completed_at": moment("completed"),
        "failed_at": moment("failed"),
        "expired_at": moment("expired"),
        "cancelling_at": moment("cancelling"),
        "cancelled_at": moment("cancelled"),
        "request_counts": counts,
        "metadata": None,
        "model": "gpt-4o-mini-2024-07-18",
        "usage": _USAGE if any(files) else None,
    } | fields


_USAGE = {
    "input_tokens": 1_200,
    "input_tokens_details": {"cached_tokens": 1_024},
    "output_tokens": 400,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 1_600,
}


@dataclass(frozen=True)
class Lines:
    """A body of ``count`` lines, made as they are sent: the same line each time, or ``line(n)``."""

    line: bytes | Callable[[int], bytes]
    count: int

    @property
    def size(self) -> int | None:
        """The number of bytes, if it is known without making the lines."""
        return len(_ended(self.line)) * self.count if isinstance(self.line, bytes) else None

    def total(self) -> int:
        """Return the number of bytes, by making the lines if necessary."""
        return sum(map(len, self)) if self.size is None else self.size

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the lines, each with its newline."""
        for n in range(self.count):
            yield _ended(self.line if isinstance(self.line, bytes) else self.line(n))

    def pieces(self) -> Iterator[bytes]:
        """Iterate over pieces of several lines, as they are sent."""
        if isinstance(self.line, bytes):
            line = _ended(self.line)
            at_once = max(1, _PIECE // len(line))
            many = line * min(at_once, self.count)
            for sent in range(0, self.count, at_once):
                yield many[: (self.count - sent) * len(line)]
            return
        piece = bytearray()
        for line in self:
            piece += line
            if len(piece) >= _PIECE:
                yield bytes(piece)
                piece.clear()
        if piece:
            yield bytes(piece)


def _ended(line: bytes) -> bytes:
    return line if line.endswith(b"\n") else line + b"\n"


@dataclass(frozen=True)
class Upload:
    """A complete upload. ``sha256`` is in hexadecimal."""

    file_id: str
    filename: str
    purpose: str
    bytes: int
    sha256: str
    created_at: int


@dataclass(frozen=True)
class Created:
    """A batch that a client created. ``body`` is the whole request, ``at`` is monotonic time."""

    id: str
    body: Mapping[str, Any]
    at: float
    created_at: int

    @property
    def members(self) -> dict[str, object]:
        """What the batch always returns of its creation."""
        return {"created_at": self.created_at} | {name: self.body.get(name) for name in ECHOED}


def file_object(
    file_id: str, size: int, filename: str, purpose: str, created_at: int = CREATED_AT
) -> dict[str, object]:
    """Return a file as OpenAI describes it."""
    return {
        "id": file_id,
        "object": "file",
        "bytes": size,
        "created_at": created_at,
        "filename": filename,
        "purpose": purpose,
        "status": "processed",
    }


def find_problem(body: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Return why a batch cannot be created, in OpenAI's words: message, param, code. Does not check its file."""
    for name in ("input_file_id", "endpoint", "completion_window"):
        if not body.get(name):
            return f"Missing required parameter: '{name}'.", name, "missing_required_parameter"
    for name, values in (("endpoint", ENDPOINTS), ("completion_window", WINDOWS)):
        if body[name] not in values:
            supported = ", ".join(f"'{value}'" for value in values)
            message = f"Invalid value: '{body[name]}'. Supported values are: {supported}."
            return message, name, "invalid_value"
    metadata = body.get("metadata")
    if metadata is None:
        return None
    if not isinstance(metadata, dict):
        message = f"Invalid type for 'metadata': expected an object, but got {_type(metadata)} instead."
        return message, "metadata", "invalid_type"
    if (count := len(metadata)) > 16:
        message = "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, "
        return f"{message}but got an object with {count} properties instead.", "metadata", "object_above_max_properties"
    for key, value in metadata.items():
        where = f"metadata.{key}"
        if not isinstance(value, str):
            message = f"Invalid type for '{where}': expected a string, but got {_type(value)} instead."
            return message, where, "invalid_type"
        for text, limit, what in ((key, 64, "metadata"), (value, 512, where)):
            if len(text) > limit:
                message = f"Invalid '{what}': string too long. Expected a string with maximum length {limit}, "
                message += f"but got a string with length {len(text)} instead."
                return message, what, "string_above_max_length"
    return None


def _type(value: object) -> str:
    return "null" if value is None else _TYPES.get(type(value), "a string")


def completion(line: dict[str, Any]) -> dict[str, Any]:
    """Return a small chat completion that names the request that it answers."""
    custom_id = line["custom_id"]
    message = {"role": "assistant", "content": f"Answer to {custom_id}"}
    body = {
        "id": f"chatcmpl-{custom_id}",
        "object": "chat.completion",
        "created": CREATED_AT,
        "model": line.get("body", {}).get("model", "gpt-4o-mini"),
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
    }
    return {"status_code": 200, "request_id": f"req_{custom_id}", "body": body}


def output_line(custom_id: str, status: int = 200) -> bytes:
    """Return a row of an output or error file: an answer, or with a status of 400 or more an error."""
    response = completion({"custom_id": custom_id})
    if status >= 400:
        error = {"message": "Invalid value.", "type": "invalid_request_error", "param": None, "code": "invalid_value"}
        response |= {"status_code": status, "body": {"error": error}}
    row = {"id": f"batch_req_{custom_id}", "custom_id": custom_id, "response": response, "error": None}
    return json.dumps(row).encode() + b"\n"


def input_line(custom_id: str) -> bytes:
    """Return a row of an input file."""
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": custom_id}]}
    row = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(row).encode() + b"\n"


def _unreached(status: str) -> dict[str, str]:
    """Return the error of a request that a batch did not reach, as OpenAI has it."""
    if status == "expired":
        message = "This request could not be executed before the completion window expired."
        return {"code": "batch_expired", "message": message}
    return {"code": "batch_cancelled", "message": "This request was not executed: the batch was cancelled."}


class Run:
    """The state of a created batch, by the time since its creation.

    Its output is made at the first GET after its end.
    """

    def __init__(
        self,
        created: Created,
        steps: Sequence[tuple[float, str]],
        requests: Callable[[], Iterable[bytes]],
        respond: Callable[[], Respond],
        keep: Callable[[str, bytes], None],
    ) -> None:
        self._created = created
        self._steps = list(steps)
        self._requests = requests
        self._respond = respond
        self._keep = keep
        self._total: int | None = None
        self._end: dict[str, object] | None = None

    def cancel(self, takes: float) -> None:
        """Drop the remaining steps: the batch is cancelling from now on, and cancelled after ``takes`` seconds."""
        now = time.monotonic() - self._created.at
        self._steps = [*self._passed(), (now, "cancelling"), (now + takes, "cancelled")]

    def body(self) -> dict[str, object]:
        """Return the batch in its current state."""
        passed = self._passed()
        status = passed[-1][1]
        body = batch_body(self._created.id, status)
        body |= {name: None for name in body if name.endswith("_at")} | self._created.members
        began = self._created.created_at
        body |= {f"{name}_at": began + int(at) for at, name in passed if f"{name}_at" in body}
        body["expires_at"] = began + _DAY
        if status in _COMPLETED | _CUT_SHORT:
            if self._end is None:
                self._end = self._finish(status)
            body |= self._end
        elif status not in _NEVER_RAN and status != "validating":
            if self._total is None:
                self._total = sum(1 for _ in self._lines())
            body["request_counts"] = {"total": self._total, "completed": 0, "failed": 0}
        return body

    def _passed(self) -> list[tuple[float, str]]:
        now = time.monotonic() - self._created.at
        return [step for step in self._steps if step[0] <= now] or self._steps[:1]

    def _lines(self) -> Iterator[bytes]:
        return (line for line in self._requests() if line.strip())

    def _finish(self, status: str) -> dict[str, object]:
        """Answer the lines. A batch that was cut short answers the first half, rounded up, and lists the others."""
        requests, errors = read_requests(self._lines(), self._created.body.get("endpoint"))
        if errors:
            return self._fail(errors)
        respond = self._respond()
        reached = (len(requests) + 1) // 2 if status in _CUT_SHORT else len(requests)
        good: list[bytes] = []
        bad: list[bytes] = []
        failed = 0
        for n, request in enumerate(requests):
            response = respond(request) if n < reached else None
            if response is None and n < reached:
                continue
            answer = {"id": f"batch_req_{n}", "custom_id": request["custom_id"], "response": response, "error": None}
            if response is None:
                answer["error"] = _unreached(status)
            has_failed = response is not None and response["status_code"] >= 400
            failed += has_failed
            (bad if has_failed or response is None else good).append(json.dumps(answer).encode() + b"\n")
        end: dict[str, object] = {
            "request_counts": {"total": len(requests), "completed": len(good), "failed": failed},
            "output_file_id": None,
            "error_file_id": None,
        }
        for kind, answers in (("output", good), ("error", bad)):
            if answers:
                file_id = f"file-{self._created.id}-{kind}"
                self._keep(file_id, b"".join(answers))
                end[f"{kind}_file_id"] = file_id
        return end

    def _fail(self, errors: list[dict[str, object]]) -> dict[str, object]:
        """Fail the batch because of its input."""
        body = batch_body(self._created.id, "failed", errors={"object": "list", "data": errors})
        names = ("status", "errors", "request_counts", "output_file_id", "error_file_id")
        return {name: body[name] for name in names}
