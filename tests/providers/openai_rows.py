"""The rows of a batch's output and error files in OpenAI's shape, which Azure shares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tests.providers.job import Fate
from tests.providers.prompts import reply, text_of

Row = dict[str, Any]


def output_rows(
    lines: Iterable[Mapping[str, Any]], fates: Mapping[str, Fate], status: str
) -> tuple[list[Row], list[Row]]:
    """Return the rows of the output file and those of the error file of a batch that ended with a status."""
    good: list[Row] = []
    bad: list[Row] = []
    for line in lines:
        fate = fates[line["custom_id"]]
        if fate == "answered":
            good.append(_row(line, {"status_code": 200, "body": completion(line)}))
        elif fate == "failed":
            error = {"message": "Invalid 'max_tokens'.", "type": "invalid_request_error", "code": "invalid_value"}
            bad.append(_row(line, {"status_code": 400, "body": {"error": error}}))
        elif fate == "unreached":
            message = f"This request could not be executed before the batch {status}."
            bad.append(_row(line, None, {"code": f"batch_{status}", "message": message}))
    return good, bad


def completion(line: Mapping[str, Any]) -> Row:
    """Return the chat completion that answers a request."""
    text = reply(text_of(line["body"]["messages"][-1]))
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "id": f"chatcmpl-{line['custom_id']}",
        "object": "chat.completion",
        "created": 1_760_000_000,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }


def _row(line: Mapping[str, Any], response: Row | None, error: Row | None = None) -> Row:
    custom_id = line["custom_id"]
    if response is not None:
        response = {"request_id": f"req_{custom_id}", **response}
    return {"id": f"batch_req_{custom_id}", "custom_id": custom_id, "response": response, "error": error}
