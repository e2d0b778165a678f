"""Where the download operator takes the answers from, and that it reports nothing as fine that it did not see."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_portkey import exceptions
from airflow_provider_portkey.operators.batch import PortkeyDownloadBatchOperator
from tests.server.batches import input_line, output_line
from tests.server.standin import Answer, StandIn, batch_body
from tests.support.backoff import set_max_backoff
from tests.support.connections import set_connection

pytestmark = pytest.mark.usefixtures("connection")

ROWS = output_line("a") + output_line("b")
COUNTS = {"total": 2, "completed": 2, "failed": 0}


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    set_max_backoff(monkeypatch, 0.001)


def end_batch(standin: StandIn, status: str = "completed", batch_id: str = "batch_1", **fields: Any) -> None:
    """Make a batch of the requests a and b that has ended."""
    members: dict[str, Any] = {"input_file_id": "file-in", "output_file_id": None, "error_file_id": None}
    body = batch_body(batch_id, status, **members | {"request_counts": COUNTS} | fields)
    standin.script(batch_id, Answer(body=body))
    standin.files = {"file-in": input_line("a") + input_line("b")}


def download(folder: Path, batch_id: str = "batch_1", **parameters: Any) -> dict[str, Any]:
    context: Any = {}
    operator = PortkeyDownloadBatchOperator(task_id="x", batch_id=batch_id, path=str(folder), **parameters)
    return operator.execute(context)


def paths(standin: StandIn) -> list[str]:
    return [seen.raw_path for seen in standin.requests]


def serve_output(standin: StandIn, *answers: Answer, batch_id: str = "batch_1") -> None:
    standin.fail("GET", f"/v1/batches/{batch_id}/output", *answers)


def test_a_file_is_preferred_to_the_output(standin: StandIn, tmp_path: Path) -> None:
    end_batch(standin, output_file_id="file-out")
    standin.files["file-out"] = ROWS

    manifest = download(tmp_path)

    assert (manifest["source"], manifest["output"]["file_id"], manifest["counts_match"]) == ("files", "file-out", True)
    assert "/v1/batches/batch_1/output" not in paths(standin)


def test_a_folder_of_bedrock_is_not_a_file_and_the_file_in_it_is(standin: StandIn, tmp_path: Path) -> None:
    batch_id = "arn:aws:bedrock:us-east-1:123456789012:model-invocation-job/abc"
    in_id, out_id = "s3://bucket/airflow/key/requests.jsonl", "s3://bucket/airflow/key/"
    end_batch(standin, batch_id=batch_id, input_file_id=in_id, output_file_id=out_id, request_counts=None)
    standin.files = {in_id: input_line("a") + input_line("b"), f"{out_id}abc/requests.jsonl.out": ROWS}

    manifest = download(tmp_path, batch_id)

    assert (manifest["source"], manifest["output"]["lines"], manifest["missing"]) == ("files", 2, [])
    assert not any(path.endswith("key%2F/content") for path in paths(standin))


def test_a_folder_without_that_file_is_replaced_by_the_output(standin: StandIn, tmp_path: Path) -> None:
    end_batch(standin, output_file_id="s3://bucket/")
    serve_output(standin, Answer(body=ROWS))

    assert download(tmp_path)["source"] == "output"


def test_a_folder_of_vertex_is_not_an_error_file(standin: StandIn, tmp_path: Path) -> None:
    end_batch(standin, output_file_id="gs://bucket/x/predictions.jsonl", error_file_id="gs://bucket/x")
    standin.files["gs://bucket/x/predictions.jsonl"] = ROWS

    manifest = download(tmp_path)

    assert (manifest["source"], manifest["output"]["lines"], manifest["error"]) == ("files", 2, None)


def test_an_id_that_names_no_file_is_replaced_by_the_output(standin: StandIn, tmp_path: Path) -> None:
    """Cohere names a data set."""
    end_batch(standin, output_file_id="dataset-1")
    serve_output(standin, Answer(body=ROWS))

    manifest = download(tmp_path)

    assert (manifest["source"], manifest["output"]["file_id"], manifest["counts_match"]) == ("output", None, True)


def test_a_file_that_is_gone_and_no_output_raises_the_error_of_the_file(standin: StandIn, tmp_path: Path) -> None:
    end_batch(standin, output_file_id="file-expired")

    with pytest.raises(exceptions.PortkeyRefusedError, match="Unknown or expired file"):
        download(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_names_no_file_has_its_answers_in_the_output(standin: StandIn, tmp_path: Path) -> None:
    """Anthropic names none."""
    end_batch(standin, request_counts=None)
    serve_output(standin, Answer(body=ROWS))

    assert download(tmp_path)["source"] == "output"


def test_a_batch_of_failed_requests_alone_has_only_an_error_file(standin: StandIn, tmp_path: Path) -> None:
    end_batch(standin, error_file_id="file-err", request_counts={"total": 2, "completed": 0, "failed": 2})
    standin.files["file-err"] = output_line("a", 400) + output_line("b", 400)

    manifest = download(tmp_path)

    assert (manifest["output"], manifest["error"]["lines"], manifest["failed"]) == (None, 2, 2)
    assert manifest["counts_match"] is True


@pytest.mark.parametrize(
    "counts", [None, {"total": 2, "completed": None, "failed": 2}], ids=["no counts", "half of them"]
)
def test_an_error_file_alone_needs_no_counts(counts: Any, standin: StandIn, tmp_path: Path) -> None:
    end_batch(standin, error_file_id="file-err", request_counts=counts)
    standin.files["file-err"] = output_line("a", 400) + output_line("b", 400)

    assert download(tmp_path)["failed"] == 2
    assert "/v1/batches/batch_1/output" not in paths(standin)


def test_an_output_that_is_down_for_a_while_is_not_a_file_that_is_gone(standin: StandIn, tmp_path: Path) -> None:
    end_batch(standin, output_file_id="dataset-1")
    serve_output(standin, *[Answer(502, "Bad Gateway")] * 3)

    with pytest.raises(exceptions.PortkeyTransientError, match="HTTP 502"):
        download(tmp_path)


def test_a_file_that_is_down_for_a_while_is_not_replaced_by_the_output(standin: StandIn, tmp_path: Path) -> None:
    end_batch(standin, output_file_id="s3://bucket/")
    standin.fail("GET", "/v1/files/.*", *[Answer(503, "down")] * 3)
    serve_output(standin, Answer(body=ROWS))

    with pytest.raises(exceptions.PortkeyTransientError, match="HTTP 503"):
        download(tmp_path)


@pytest.mark.parametrize("headers", [{}, {"x-portkey-custom-host": "https://llm.example.com/v1"}], ids=["", "own host"])
def test_an_output_file_that_is_not_named_yet_may_be_retried(
    headers: dict[str, str], standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"virtual_key": standin.virtual_key, "headers": headers}
    set_connection(monkeypatch, host=standin.url, password=standin.api_key, extra=extra)
    end_batch(standin)

    with pytest.raises(exceptions.PortkeyTransientError, match=r"^Batch completed without an output file"):
        download(tmp_path)


@pytest.mark.parametrize("output_file_id", [None, "s3://bucket/", "gs://bucket/prefix"])
@pytest.mark.parametrize("source", ["auto", "output"])
def test_a_failed_batch_is_reported_with_its_own_errors(
    source: str, output_file_id: str | None, standin: StandIn, tmp_path: Path
) -> None:
    errors = {"data": [{"code": "invalid", "message": "Line 1 is not valid JSON."}]}
    end_batch(standin, "failed", output_file_id=output_file_id, request_counts=None, errors=errors)

    with pytest.raises(exceptions.PortkeyBatchFailedError, match=r"Line 1 is not valid JSON\."):
        download(tmp_path, source=source)


def test_an_empty_output_file_leaves_the_one_of_a_previous_run(standin: StandIn, tmp_path: Path) -> None:
    (tmp_path / "output.jsonl").write_bytes(ROWS)
    end_batch(standin, output_file_id="file-out")
    standin.files["file-out"] = b""

    with pytest.raises(exceptions.PortkeyTransientError, match="without a row of answers"):
        download(tmp_path)
    assert (tmp_path / "output.jsonl").read_bytes() == ROWS


def test_the_input_of_a_managed_batch_may_have_changed(standin: StandIn, tmp_path: Path) -> None:
    end_batch(standin, batch_id="pk_batch_1", output_file_id="file-out")
    standin.files["file-out"] = ROWS

    manifest = download(tmp_path, "pk_batch_1")

    assert (manifest["missing"], manifest["counts_match"]) == (None, None)


def test_the_output_can_be_asked_for_with_the_error_file_beside_it(standin: StandIn, tmp_path: Path) -> None:
    counts = {"total": 2, "completed": 1, "failed": 1}
    end_batch(standin, output_file_id="file-out", error_file_id="file-err", request_counts=counts)
    standin.files |= {"file-out": output_line("a"), "file-err": output_line("b", 400)}

    manifest = download(tmp_path, source="output")

    assert (manifest["source"], manifest["output"]["lines"], manifest["error"]["lines"]) == ("output", 1, 1)
    assert "/v1/files/file-out/content" not in paths(standin)


def test_files_alone_can_be_asked_for(standin: StandIn, tmp_path: Path) -> None:
    end_batch(standin, output_file_id="gs://bucket/folder")

    with pytest.raises(exceptions.PortkeyBatchEndedError, match=r"^Batch completed without answers to download"):
        download(tmp_path, source="files")
    assert "/v1/batches/batch_1/output" not in paths(standin)


def test_an_output_file_that_is_not_named_yet_may_be_retried_with_files_alone(standin: StandIn, tmp_path: Path) -> None:
    end_batch(standin)
    with pytest.raises(exceptions.PortkeyTransientError, match=r"^Batch completed without an output file, which may"):
        download(tmp_path, source="files")


def test_an_unknown_source_is_rejected_when_the_dag_is_parsed() -> None:
    with pytest.raises(ValueError, match=r"source must be one of auto, files, output; got 'file'"):
        PortkeyDownloadBatchOperator(task_id="x", batch_id="b", path="p", source="file")  # type: ignore[arg-type]


CONTENTS = {
    "no file": None,
    "an empty file": b"",
    "half a file": output_line("a"),
    "a row cut off": output_line("a") + output_line("b")[:40],
    "other ids": output_line("x") + output_line("y"),
    "no ids": b'{"errorCode": 400, "errorMessage": "x"}\n' * 2,
    "a duplicate": output_line("a") * 2,
}
INPUTS = {
    "its input": input_line("a") + input_line("b"),
    "no input": None,
    "an input without ids": b'{"body": {}}\n' * 2,
}


#: Where the batch says that its answers are, and whether it reports its counts.
PLACES = {
    "a file": ("file-out", COUNTS),
    "a file, no counts": ("file-out", None),
    "a folder of Bedrock": ("s3://bucket/", COUNTS),
    "a folder of Bedrock, no counts": ("s3://bucket/key/", None),
    "a folder of Vertex": ("gs://bucket/key", COUNTS),
}


@pytest.mark.parametrize("source", ["auto", "files", "output"])
@pytest.mark.parametrize(("content", "requests"), list(itertools.product(CONTENTS, INPUTS)))
@pytest.mark.parametrize(("place", "counts"), PLACES.values(), ids=PLACES)
def test_answers_that_were_not_seen_are_never_reported_as_complete(
    source: str, content: str, requests: str, place: str, counts: Any, standin: StandIn, tmp_path: Path
) -> None:
    rows, lines = CONTENTS[content], INPUTS[requests]
    is_folder = "://" in place
    end_batch(standin, output_file_id=place if is_folder or rows is not None else None, request_counts=counts)
    # The gateway returns a bucket's root as an empty file. The answers are in a file within, and in the output.
    files = {"s3://bucket/": b"", place: b"" if is_folder else rows, "file-in": lines}
    if place.startswith("s3:"):
        files[f"{place}batch_1/file-in.out"] = rows
    standin.files = {name: data for name, data in files.items() if data is not None}
    if is_folder and rows is not None:
        serve_output(standin, Answer(body=rows))

    try:
        manifest = download(tmp_path, source=source)
    except exceptions.PortkeyError:
        assert not list(tmp_path.iterdir())
        return
    assert rows, "nothing was there to be downloaded"
    assert manifest["missing_count"] != 0
    assert not manifest["counts_match"]
    if requests != "its input":
        assert manifest["missing"] is None
