"""The folder that the download operator writes to: whose files are in it, and what is there after a failure."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_portkey import exceptions
from airflow_provider_portkey.operators import download as module
from airflow_provider_portkey.operators.batch import PortkeyDownloadBatchOperator
from tests.server.batches import input_line, output_line
from tests.server.standin import Answer, StandIn, batch_body
from tests.support.airflow_run import run_task
from tests.support.backoff import set_max_backoff
from tests.support.recorder import Recorder

pytestmark = pytest.mark.usefixtures("connection")

REMEDY = "give each batch a path of its own"


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    set_max_backoff(monkeypatch, 0.001)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    logger = logging.Logger("recorded", logging.DEBUG)
    logger.addHandler(recorder)
    monkeypatch.setattr(PortkeyDownloadBatchOperator, "log", logger)
    return recorder


def end_batch(standin: StandIn, batch_id: str, *custom_ids: str, **fields: Any) -> bytes:
    """Make a batch that has ended, and return its output."""
    counts = {"total": len(custom_ids), "completed": len(custom_ids), "failed": 0}
    members = {"input_file_id": f"{batch_id}-in", "output_file_id": f"{batch_id}-out", "error_file_id": None}
    body = batch_body(batch_id, "completed", **members | {"request_counts": counts} | fields)
    standin.script(batch_id, Answer(body=body))
    output = b"".join(map(output_line, custom_ids))
    standin.files |= {f"{batch_id}-in": b"".join(map(input_line, custom_ids)), f"{batch_id}-out": output}
    return output


def task_instance(run_id: str = "r", map_index: int = -1, task_id: str = "download") -> Any:
    return SimpleNamespace(dag_id="d", task_id=task_id, run_id=run_id, map_index=map_index)


def download(folder: object, batch_id: str, ti: Any = None) -> dict[str, Any]:
    operator = PortkeyDownloadBatchOperator(task_id="x", batch_id=batch_id, path=folder)  # type: ignore[arg-type]
    context: Any = {"ti": ti or task_instance()}
    return operator.execute(context)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_the_manifest_is_beside_the_files_with_batch_and_task(standin: StandIn, tmp_path: Path) -> None:
    end_batch(standin, "batch_1", "a")

    manifest = download(tmp_path, "batch_1", task_instance(map_index=3))

    stored = json.loads((tmp_path / "manifest.json").read_text())
    assert next(iter(stored.items())) == ("batch_id", "batch_1")
    assert stored == manifest | {"task": {"dag_id": "d", "task_id": "download", "run_id": "r", "map_index": 3}}


@pytest.mark.parametrize(
    "second",
    [task_instance(run_id="r2"), task_instance(map_index=1), task_instance(task_id="other")],
    ids=["of another run", "of another mapped task", "of another task"],
)
def test_the_files_of_another_batch_are_not_replaced(second: Any, standin: StandIn, tmp_path: Path) -> None:
    end_batch(standin, "batch_1", "a")
    end_batch(standin, "batch_2", "b")
    download(tmp_path, "batch_1", task_instance(map_index=0))
    before = contents(tmp_path)
    standin.requests.clear()

    with pytest.raises(
        exceptions.PortkeyInputError, match=f"^The folder has the files of another batch: {REMEDY}\n"
    ) as e:
        download(tmp_path, "batch_2", second)

    assert "batch batch_1 (task {'dag_id': 'd'" in str(e.value)
    assert "this task has batch batch_2." in str(e.value)
    assert contents(tmp_path) == before
    assert standin.requests == []


def test_a_cleared_task_whose_run_made_another_batch_replaces_its_own_files(standin: StandIn, tmp_path: Path) -> None:
    end_batch(standin, "batch_1", "a")
    output = end_batch(standin, "batch_2", "b")
    download(tmp_path, "batch_1")
    (tmp_path / "error.jsonl").write_bytes(b"old")

    manifest = download(tmp_path, "batch_2")

    assert manifest["batch_id"] == "batch_2"
    assert contents(tmp_path).keys() == {"output.jsonl", "manifest.json"}
    assert (tmp_path / "output.jsonl").read_bytes() == output


def test_another_task_may_download_the_same_batch_again(standin: StandIn, tmp_path: Path) -> None:
    end_batch(standin, "arn:aws:x/y", "a")
    download(tmp_path, "arn:aws:x/y", task_instance("r1"))

    assert download(tmp_path, "arn%3Aaws%3Ax%2Fy", task_instance("r2"))["answered"] == 1


@pytest.mark.parametrize("content", [b"{}", b"[]", b"not JSON", b""], ids=repr)
def test_a_manifest_that_is_not_ours_is_not_replaced(content: bytes, standin: StandIn, tmp_path: Path) -> None:
    end_batch(standin, "batch_1", "a")
    (tmp_path / "manifest.json").write_bytes(content)

    with pytest.raises(exceptions.PortkeyInputError, match=REMEDY):
        download(tmp_path, "batch_1")
    assert contents(tmp_path) == {"manifest.json": content}


@pytest.mark.parametrize("moment", ["before the download", "during the download"])
def test_two_tasks_that_download_to_one_folder_at_once_do_not_both_succeed(
    moment: str, standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_batch(standin, "batch_1", "a")
    name = "claim" if moment == "before the download" else "write"
    original: Callable[..., Any] = getattr(module._OwnedFolder, name)

    def race(self: Any, *args: Any) -> Any:
        (tmp_path / "manifest.json").write_text('{"batch_id": "batch_2", "task": null}')
        return original(self, *args)

    monkeypatch.setattr(module._OwnedFolder, name, race)
    with pytest.raises(exceptions.PortkeyInputError, match=REMEDY):
        download(tmp_path, "batch_1")
    assert ("output.jsonl" in contents(tmp_path)) is (moment == "during the download")


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_a_batch_without_files_leaves_those_that_were_there(status: str, standin: StandIn, tmp_path: Path) -> None:
    files = {"output_file_id": None, "error_file_id": None, "request_counts": None}
    standin.script("batch_1", Answer(body=batch_body("batch_1", status, **files)))
    old = {"output.jsonl": b"old", "error.jsonl": b"old"}
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)

    with pytest.raises(exceptions.PortkeyError):
        download(tmp_path, "batch_1")
    assert contents(tmp_path) == old


@pytest.mark.parametrize("failed", [0, 2])
def test_an_error_file_that_does_not_exist_is_no_failure_where_the_output_has_each_request(
    failed: int, standin: StandIn, tmp_path: Path
) -> None:
    counts = {"total": 2, "completed": 2 - failed, "failed": failed}
    end_batch(standin, "batch_1", "a", "b", error_file_id="file-none", request_counts=counts)
    del standin.files["file-none"]

    manifest = download(tmp_path, "batch_1")

    assert (manifest["error"], manifest["missing"], manifest["counts_match"]) == (None, [], True)


def test_an_error_file_that_is_a_page_of_text_is_not_saved(standin: StandIn, tmp_path: Path) -> None:
    end_batch(standin, "batch_1", "a", error_file_id="file-err")
    standin.files["file-err"] = b"Service temporarily unavailable\n"

    with pytest.raises(exceptions.PortkeyTransientError, match="without a row of answers"):
        download(tmp_path, "batch_1")
    assert "error.jsonl" not in contents(tmp_path)


@pytest.mark.parametrize("cut", ["in its last line", "between its lines", "within"])
def test_a_torn_output_is_never_complete_and_names_what_is_missing(
    cut: str, standin: StandIn, tmp_path: Path, log: Recorder
) -> None:
    output = end_batch(standin, "batch_1", "a", "b")
    first, second = output.splitlines(keepends=True)
    standin.files["batch_1-out"] = {
        "in its last line": first + second[:-20],
        "between its lines": first,
        "within": first[:-20] + b"\n" + second,
    }[cut]

    manifest = download(tmp_path, "batch_1")

    assert (manifest["counts_match"], manifest["missing"]) == (False, ["a" if cut == "within" else "b"])
    broken = [text for text in log.messages(logging.WARNING) if "cannot be read" in text]
    assert len(broken) == (cut != "between its lines")


def test_a_manifest_that_cannot_be_written_does_not_lose_the_answers(
    standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Recorder
) -> None:
    output = end_batch(standin, "batch_1", "a")

    def fail(path: object) -> Any:
        raise OSError("disk full")

    monkeypatch.setattr(module, "atomic_write", fail)
    assert download(tmp_path, "batch_1")["counts_match"] is True
    assert contents(tmp_path) == {"output.jsonl": output}
    [text, _] = log.messages(logging.WARNING)
    assert text.startswith(f"Cannot write {tmp_path}/manifest.json: another batch may replace these files. disk full")


@pytest.mark.parametrize("path", [Path("/data/{{ run_id }}"), ObjectStoragePath("file:///data/{{ run_id }}")], ids=repr)
def test_a_path_object_with_a_template_is_rendered(path: Any) -> None:
    operator = PortkeyDownloadBatchOperator(task_id="x", batch_id="b", path=path)
    context: Any = {"run_id": "run-1"}
    operator.render_template_fields(context)
    assert str(operator.path).endswith("/data/run-1")


def test_the_commonest_error_is_logged(standin: StandIn, tmp_path: Path, log: Recorder) -> None:
    end_batch(standin, "batch_1", "a", error_file_id="file-err")
    standin.files["file-err"] = b"".join(
        b'{"custom_id": "%d", "error": {"code": "%b", "message": "No. %d."}}\n' % (n, code, n)
        for n, code in enumerate([b"x", b"y", b"y"])
    )

    errors = download(tmp_path, "batch_1")["errors"]

    assert errors == [{"code": "y", "message": "No. ….", "count": 2}, {"code": "x", "message": "No. ….", "count": 1}]
    assert "3 rows failed, the most (2) with y: No. …. The manifest has 1 further kind of errors." in log.messages(
        logging.WARNING
    )


@pytest.mark.parametrize("count", [1, 12])
def test_what_is_wrong_with_the_rows_is_logged_with_its_number(
    count: int, standin: StandIn, tmp_path: Path, log: Recorder
) -> None:
    twice, lost, others = ([f"{kind}-{n:02}" for n in range(count)] for kind in ("twice", "lost", "other"))
    output = end_batch(standin, "batch_1", *twice, error_file_id="file-err")
    standin.files["batch_1-in"] = b"".join(map(input_line, twice + lost))
    standin.files["file-err"] = b"".join(map(output_line, twice + others)) + b"{\n" * count

    download(tmp_path, "batch_1")

    def shown(kind: str) -> str:
        return f"{kind}-00." if count == 1 else ", ".join(f"{kind}-{n:02}" for n in range(10)) + ", …."

    many = "" if count == 1 else "s"
    logged = log.messages(logging.WARNING)
    assert f"{count} line{many} in {tmp_path}/error.jsonl cannot be read as an answer." in logged
    assert f"{count} request{many} without an answer: {shown('lost')}" in logged
    assert f"{count} request{many} with more than one answer: {shown('twice')}" in logged
    assert f"{2 * count} rows without a request of this batch." in logged  # the broken ones too
    assert f"{tmp_path}/output.jsonl: {count} line{many}, {len(output):,} bytes." in log.messages(logging.INFO)


@pytest.mark.usefixtures("airflow_db")
def test_the_task_of_a_real_run_is_in_the_manifest(standin: StandIn, tmp_path: Path) -> None:
    end_batch(standin, "batch_1", "a")
    run_task("PortkeyDownloadBatchOperator", batch_id="batch_1", path=str(tmp_path))

    task = json.loads((tmp_path / "manifest.json").read_text())["task"]
    assert (task["dag_id"], task["task_id"], task["map_index"]) == ("one_wait", "wait", -1)
    assert task["run_id"].startswith("manual__")
