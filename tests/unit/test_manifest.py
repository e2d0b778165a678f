"""The manifest of a download: which files there are, and whether they have a row for each request."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any

import pytest

from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.manifest import Download, FileStats, manifest
from tests.server.batches import output_line


def batch(total: int | None = None) -> Batch:
    counts = None if total is None else {"total": total, "completed": total, "failed": 0}
    return Batch.from_dict({"id": "batch_1", "status": "completed", "request_counts": counts})


def stats_of(content: bytes) -> FileStats:
    stats = FileStats()
    stats.add(content)
    stats.end_line()
    return stats


def download(custom_ids: str, file_id: str = "file-1") -> Download:
    """Return a downloaded file. Each letter is the custom_id of a row; ``?`` is one without, ``!`` one cut off."""
    special = {"?": b'{"errorCode": 500, "errorMessage": "Internal"}\n', "!": b'{"custom_id": "z", "resp\n'}
    rows = (special.get(letter) or output_line(letter) for letter in custom_ids)
    return Download(file_id, f"/x/{file_id}", stats_of(b"".join(rows)))


def manifest_of(
    total: int | None, output: str | None, error: str | None, requested: str | set[str] | None
) -> dict[str, Any]:
    downloads = {
        "output": None if output is None else download(output),
        "error": None if error is None else download(error, "file-2"),
    }
    return manifest(batch(total), "files", downloads, None if requested is None else set(requested))


@dataclass(frozen=True)
class Case:
    """Files of a batch, and what the manifest says of them. Letters as in ``download``."""

    total: int | None
    output: str | None
    error: str | None
    #: The requests, if the input could be read.
    requested: str | None
    counts_match: bool | None
    missing: str | None
    duplicates: str = ""
    unknown: int = 0


CASES = {
    "complete": Case(2, "ab", None, "ab", True, ""),
    "complete, in two files": Case(3, "ab", "c", "abc", True, ""),
    "complete, in the error file": Case(1, None, "a", "a", True, ""),
    "complete by the counts, the input cannot be read": Case(2, "ab", None, None, None, None),
    "one is missing, the input cannot be read": Case(3, "ab", None, None, False, None),
    "one is missing": Case(3, "ab", None, "abc", False, "c"),
    "one too many": Case(1, "ab", None, "ab", False, ""),
    "a duplicate that makes the counts match": Case(3, "aab", None, "abc", False, "c", "a"),
    "a duplicate, the input cannot be read": Case(3, "aab", None, None, False, None, "a"),
    "a duplicate in the other file": Case(3, "ab", "b", "abc", False, "c", "b"),
    "one three times": Case(3, "aaa", None, None, False, None, "a"),
    "answers to another batch": Case(2, "xy", None, "ab", False, "ab", unknown=2),
    "one answer that nobody asked for": Case(2, "ax", None, "ab", False, "b", unknown=1),
    "a row that names no request": Case(2, "a?", None, "ab", False, "b", unknown=1),
    "a row that is cut off": Case(2, "a!", None, "ab", False, "b", unknown=1),
    "a row that is cut off, the input cannot be read": Case(2, "a!", None, None, False, None, unknown=1),
    "an empty file": Case(2, "", None, "ab", False, "ab"),
    "no counts": Case(None, "ab", None, None, None, None),
    "no counts, complete": Case(None, "ab", "c", "abc", None, ""),
    "no counts, one is missing": Case(None, "ab", None, "abc", None, "c"),
    "no files": Case(0, None, None, "", True, ""),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_missing_duplicate_and_unknown_rows_are_reported(case: Case) -> None:
    result = manifest_of(case.total, case.output, case.error, case.requested)

    assert result["counts_match"] is case.counts_match
    assert result["missing"] == (None if case.missing is None else list(case.missing))
    assert result["missing_count"] == (None if case.missing is None else len(case.missing))
    assert (result["duplicates"], result["duplicate_count"]) == (list(case.duplicates), len(case.duplicates))
    assert result["unknown"] == case.unknown
    assert result["answered"] + result["failed"] == len((case.output or "") + (case.error or ""))


CONTENTS = [None, "", "a", "ab", "b", "aab", "x", "xy", "abx", "?", "a?", "??", "!", "ab!", "a!"]


@pytest.mark.parametrize("requested", ["ab", None], ids=["input read", "input not read"])
@pytest.mark.parametrize(("output", "error"), itertools.product(CONTENTS, CONTENTS))
def test_nothing_is_reported_as_complete_that_was_not_seen(
    output: str | None, error: str | None, requested: str | None
) -> None:
    result = manifest_of(2, output, error, requested)
    rows = (output or "") + (error or "")

    if result["missing_count"] == 0:
        assert {"a", "b"} <= set(rows)
    if requested is None:
        assert result["missing"] is None
    if result["counts_match"]:
        assert requested is not None
        assert sorted(rows) == ["a", "b"]


def test_a_manifest_is_json_with_the_files_and_the_counts() -> None:
    output, error = download("ab"), download("c", "file-2")
    result = manifest(batch(3), "files", {"output": output, "error": error}, {"a", "b", "c"})
    assert result == {
        "batch_id": "batch_1",
        "status": "completed",
        "source": "files",
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
        "answered": 3,
        "failed": 0,
        "unknown": 0,
        "missing": [],
        "missing_count": 0,
        "duplicates": [],
        "duplicate_count": 0,
        "usage": {
            "gpt-4o-mini": {
                "requests": 3,
                "input_tokens": 27,
                "output_tokens": 12,
                "cached_tokens": None,
                "reasoning_tokens": None,
            }
        },
        "errors": [],
    }
    assert json.loads(json.dumps(result)) == result


def test_the_first_hundred_custom_ids_are_named_and_all_are_counted() -> None:
    custom_ids = {f"{n:04}" for n in range(1_000)}
    rows = b"".join(output_line(custom_id) for custom_id in sorted(custom_ids)[:300] * 2)
    result = manifest(batch(1_000), "files", {"output": Download("f", "/x", stats_of(rows))}, custom_ids)
    assert (result["missing_count"], result["duplicate_count"]) == (700, 300)
    assert result["missing"] == [f"{n:04}" for n in range(300, 400)]
    assert result["duplicates"] == [f"{n:04}" for n in range(100)]


def test_custom_ids_are_sanitized_for_the_database() -> None:
    result = manifest(batch(2), "files", {"output": Download("f", "/x", stats_of(output_line("\ud800") * 2))}, {"a\0"})
    assert json.dumps(result, ensure_ascii=False).encode()
    assert "\\u0000" not in json.dumps(result)
    assert (result["missing_count"], result["duplicate_count"]) == (1, 1)


def test_usage_and_errors_are_those_of_both_files() -> None:
    errors = b'{"custom_id": "b", "error": {"code": "x", "message": "No. 1"}}\n'
    output, error = Download("f", "/x", stats_of(output_line("a") + errors)), Download("g", "/y", stats_of(errors))
    result = manifest(batch(3), "files", {"output": output, "error": error}, None)
    assert result["errors"] == [{"code": "x", "message": "No. …", "count": 2}]
    assert result["usage"]["gpt-4o-mini"]["requests"] == 1
