"""The manifest of a download: which files there are, and whether they hold a response to each request."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.files import Download, FileStats, is_complete, manifest
from tests.support.jsonl import request_line


def batch(total: int | None = None) -> Batch:
    counts = None if total is None else {"total": total, "completed": total, "failed": 0}
    return Batch.from_dict({"id": "batch_1", "status": "completed", "request_counts": counts})


def download(*custom_ids: str, file_id: str = "file-1") -> Download:
    """Return a downloaded file with a line for each custom_id."""
    stats = FileStats()
    for custom_id in custom_ids:
        stats.add(request_line(custom_id) + b"\n")
    return Download(file_id, f"/x/{file_id}", stats)


@dataclass(frozen=True)
class Case:
    """Files of a batch, and what the manifest says of them. Each letter is a custom_id."""

    total: int | None
    output: str | None
    error: str | None
    #: The requests, where they were read to find out which response is missing.
    requested: str | None
    counts_match: bool | None
    missing: str | None
    duplicates: str = ""


CASES = {
    "complete": Case(2, "ab", None, None, True, ""),
    "complete, in two files": Case(3, "ab", "c", None, True, ""),
    "complete, in the error file": Case(1, None, "a", None, True, ""),
    "one is missing, unknown which": Case(3, "ab", None, None, False, None),
    "one is missing": Case(3, "ab", None, "abc", False, "c"),
    "one too many": Case(1, "ab", None, "ab", False, ""),
    "a duplicate that makes the counts match": Case(3, "aab", None, "abc", True, "c", "a"),
    "a duplicate, requests unknown": Case(3, "aab", None, None, True, None, "a"),
    "a duplicate in the other file": Case(3, "ab", "b", "abc", True, "c", "b"),
    "one three times": Case(3, "aaa", None, None, True, None, "a"),
    "no counts": Case(None, "ab", None, None, None, None),
    "no counts, complete": Case(None, "ab", "c", "abc", None, ""),
    "no counts, one is missing": Case(None, "ab", None, "abc", None, "c"),
    "no files": Case(0, None, None, None, True, ""),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_missing_and_duplicate_responses_are_named(case: Case) -> None:
    output, error = (None if ids is None else download(*ids) for ids in (case.output, case.error))
    requested = None if case.requested is None else set(case.requested)
    result = manifest(batch(case.total), output, error, requested)
    assert result["counts_match"] is case.counts_match
    assert result["missing"] == (None if case.missing is None else list(case.missing))
    assert result["missing_count"] == (None if case.missing is None else len(case.missing))
    assert (result["duplicates"], result["duplicate_count"]) == (list(case.duplicates), len(case.duplicates))
    complete = case.counts_match is True and not case.duplicates
    assert is_complete(batch(case.total), output, error) == complete


def test_a_manifest_is_json_with_the_files_and_the_counts() -> None:
    output, error = download("a", "b"), download("c", file_id="file-2")
    result = manifest(batch(3), output, error, None)
    assert result == {
        "batch_id": "batch_1",
        "status": "completed",
        "output": {
            "file_id": "file-1",
            "path": "/x/file-1",
            "bytes": output.stats.bytes,
            "lines": 2,
            "sha256": output.stats.sha256,
        },
        "error": error.to_dict(),
        "request_counts": {"total": 3, "completed": 3, "failed": 0},
        "counts_match": True,
        "missing": [],
        "missing_count": 0,
        "duplicates": [],
        "duplicate_count": 0,
    }
    assert json.loads(json.dumps(result)) == result


def test_the_first_hundred_custom_ids_are_named_and_all_are_counted() -> None:
    custom_ids = {f"{n:04}" for n in range(1_000)}
    result = manifest(batch(1_000), download(*sorted(custom_ids)[:300] * 2), None, custom_ids)
    assert (result["missing_count"], result["duplicate_count"]) == (700, 300)
    assert result["missing"] == [f"{n:04}" for n in range(300, 400)]
    assert result["duplicates"] == [f"{n:04}" for n in range(100)]


def test_custom_ids_are_sanitized_for_the_database() -> None:
    result: dict[str, Any] = manifest(batch(2), download("\ud800", "\ud800"), None, {"a\0"})
    assert json.dumps(result, ensure_ascii=False).encode()
    assert "\\u0000" not in json.dumps(result)
    assert (result["missing_count"], result["duplicate_count"]) == (1, 1)
