"""The download operator in a real Airflow: the files of a batch, and its manifest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_portkey import exceptions
from tests.server.batches import input_line, output_line
from tests.server.standin import Answer, StandIn, batch_body
from tests.support.airflow_run import Run, run_task
from tests.support.backoff import set_max_backoff

pytestmark = pytest.mark.usefixtures("airflow_db", "connection")


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not found is requested three times."""
    set_max_backoff(monkeypatch, 0.01)


def download(folder: Path, **kwargs: Any) -> Run:
    return run_task("PortkeyDownloadBatchOperator", **{"batch_id": "batch_1", "path": str(folder)} | kwargs)


def manifest_of(run: Run) -> dict[str, Any]:
    manifest = run.xcoms["wait"]["return_value"]
    assert isinstance(manifest, dict)
    return manifest


def test_both_files_are_downloaded_and_described(standin: StandIn, tmp_path: Path) -> None:
    standin.script("batch_1", "completed")
    manifest = manifest_of(download(tmp_path / "new"))
    output, error = (standin.files[f"file-batch_1-{kind}"] for kind in ("output", "error"))
    assert (tmp_path / "new" / "output.jsonl").read_bytes() == output
    assert (tmp_path / "new" / "error.jsonl").read_bytes() == error
    assert manifest["output"] == {
        "file_id": "file-batch_1-output",
        "path": f"{tmp_path}/new/output.jsonl",
        "bytes": len(output),
        "lines": 98,
        "sha256": hashlib.sha256(output).hexdigest(),
    }
    assert manifest["error"]["lines"] == 2
    assert {name: manifest[name] for name in ("source", "answered", "failed", "unknown", "counts_match")} == {
        "source": "files",
        "answered": 98,
        "failed": 2,
        "unknown": 0,
        "counts_match": True,
    }
    assert (manifest["missing"], manifest["missing_count"]) == ([], 0)
    assert (manifest["duplicates"], manifest["duplicate_count"]) == ([], 0)


def test_requests_without_a_response_are_named(standin: StandIn, tmp_path: Path) -> None:
    standin.course = [(0, "completed")]
    standin.respond = lambda line: None if line["custom_id"] in ("r2", "r3") else {"status_code": 200, "body": {}}
    requests = [{"custom_id": f"r{n}", "body": {"model": "m", "input": f"text {n}"}} for n in range(4)]
    run_task("PortkeyCreateBatchOperator", endpoint="/v1/embeddings", requests=requests)
    manifest = manifest_of(download(tmp_path, batch_id=standin.batches[0].id))
    assert (manifest["status"], manifest["counts_match"]) == ("completed", False)
    assert (manifest["missing"], manifest["missing_count"]) == (["r2", "r3"], 2)
    assert manifest["error"] is None


def test_requests_that_an_expired_batch_did_not_reach_are_in_its_error_file(standin: StandIn, tmp_path: Path) -> None:
    standin.course = [(0, "expired")]
    requests = [{"custom_id": f"r{n}", "body": {"model": "m", "input": f"text {n}"}} for n in range(4)]
    run_task("PortkeyCreateBatchOperator", endpoint="/v1/embeddings", requests=requests)
    manifest = manifest_of(download(tmp_path, batch_id=standin.batches[0].id))
    assert (manifest["status"], manifest["missing"]) == ("expired", [])
    assert (manifest["output"]["lines"], manifest["error"]["lines"]) == (2, 2)


@pytest.mark.parametrize("error_file_id", [None, "file-none"], ids=["named as null", "named, but missing"])
def test_a_second_run_replaces_the_output_and_removes_an_error_file_that_is_gone(
    error_file_id: str | None, standin: StandIn, tmp_path: Path
) -> None:
    """Vertex names an error file also where there is none."""
    (tmp_path / "output.jsonl").write_text("old")
    (tmp_path / "error.jsonl").write_text("old")
    fields = {
        "output_file_id": "file-o",
        "error_file_id": error_file_id,
        "request_counts": {"total": 1, "completed": 1, "failed": 0},
    }
    standin.script("batch_1", Answer(body=batch_body("batch_1", "completed", **fields)))
    row = output_line("a")
    standin.files = {"file-o": row, "file-batch_1-input": input_line("a")}
    manifest = manifest_of(download(tmp_path))
    assert (manifest["counts_match"], manifest["missing"], manifest["error"]) == (True, [], None)
    assert {path.name for path in tmp_path.iterdir()} == {"output.jsonl", "manifest.json"}
    assert (tmp_path / "output.jsonl").read_bytes() == row


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("in_progress", exceptions.PortkeyBatchNotReadyError),
        ("failed", exceptions.PortkeyBatchFailedError),
    ],
)
def test_a_batch_without_files_fails_the_task(
    status: str, error: type[Exception], standin: StandIn, tmp_path: Path
) -> None:
    standin.script("batch_1", status)
    assert [type(e) for e in download(tmp_path).errors] == [error]
    assert list(tmp_path.iterdir()) == []


def test_an_output_file_that_is_missing_fails_the_task(standin: StandIn, tmp_path: Path) -> None:
    fields = {"output_file_id": "file-none", "error_file_id": None}
    standin.script("batch_1", Answer(body=batch_body("batch_1", "completed", **fields)))
    standin.files.clear()
    assert [type(e) for e in download(tmp_path).errors] == [exceptions.PortkeyRefusedError]
