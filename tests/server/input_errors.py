"""The errors that OpenAI finds in a batch's input: the call that creates the batch succeeds, then the batch fails."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any


def read_requests(lines: Iterable[bytes], endpoint: object) -> tuple[list[dict[str, Any]], list[dict[str, object]]]:
    """Return the requests of an input file and the errors in it, with the codes that OpenAI and Azure document."""
    requests: list[dict[str, Any]] = []
    errors: list[dict[str, object]] = []
    ids: set[object] = set()
    for number, line in enumerate(lines, 1):
        try:
            request = json.loads(line)
            custom_id = request["custom_id"]
        except (ValueError, KeyError, TypeError):
            errors.append(_error("invalid_json_line", "This line is not parseable as valid JSON.", number))
            continue
        if custom_id in ids:
            message = f"The custom_id '{custom_id}' for this request is a duplicate of another request."
            errors.append(_error("duplicate_custom_id", message, number, "custom_id"))
        if request.get("url") not in (None, endpoint):
            message = "The URL provided for this request does not match the batch endpoint."
            errors.append(_error("url_mismatch", message, number, "url"))
        ids.add(custom_id)
        requests.append(request)
    if not ids and not errors:
        errors.append(_error("empty_file", "The input file of the batch is empty.", None))
    return requests, errors


def _error(code: str, message: str, line: int | None, param: str | None = None) -> dict[str, object]:
    return {"code": code, "message": message, "param": param, "line": line}
