"""The create operator in a real Airflow: its inputs, its wait, and what its next attempt does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_portkey import exceptions
from airflow_provider_portkey.attempts import METADATA_KEY
from airflow_provider_portkey.batch import Batch, BatchStatus, RequestCounts
from airflow_provider_portkey.operators.batch import PortkeyCreateBatchOperator
from tests.server.standin import Answer, StandIn
from tests.support.airflow_run import Run, run_task
from tests.support.backoff import set_max_backoff
from tests.support.problems import listed_problems

pytestmark = pytest.mark.usefixtures("airflow_db", "connection")

ENDPOINT = "/v1/embeddings"
REQUESTS = [{"custom_id": f"r{n}", "body": {"model": "m", "input": f"text {n}"}} for n in range(4)]
LINES = b"".join(json.dumps({"method": "POST", "url": ENDPOINT, **request}).encode() + b"\n" for request in REQUESTS)
WAIT: dict[str, Any] = {"wait_for_completion": True, "poke_interval": 0.1}


def create(**kwargs: Any) -> Run:
    return run_task("PortkeyCreateBatchOperator", **{"endpoint": ENDPOINT, "requests": REQUESTS} | kwargs)


def xcom(run: Run, key: str) -> Any:
    return run.task_instances["wait"].xcom_pull(task_ids="wait", key=key)


#: Parameters that are rejected before anything is sent, and what the error says of each.
INVALID: dict[str, tuple[dict[str, Any], list[str]]] = {
    "duplicate custom_id": (
        {"requests": [{"custom_id": "a", "body": {}}] * 2},
        ["Invalid batch input: line 2: custom_id 'a' is a duplicate of line 1\nNothing was sent."],
    ),
    "requests rendered to text": (
        {"requests": "{{ dag.dag_id }}"},
        ["requests must be a list of dicts, got str\nNothing was sent."],
    ),
    "requests rendered to None": (
        {"requests": "{{ none }}", "input_file_id": None},
        ["requests must be a list of dicts, got str"],
    ),
    "input_file_id rendered to None": (
        {"requests": None, "input_file_id": "{{ none }}"},
        ["input_file_id is 'None': the upstream task pushed no value to XCom"],
    ),
    "input_path rendered to None": (
        {"requests": None, "input_path": "{{ none }}"},
        ["path is 'None': the upstream task pushed no value to XCom"],
    ),
    "fields of the batch": (
        {"endpoint": "embeddings", "metadata": {"a": []}, "extra_body": {"endpoint": "x", "metadata": {}}},
        [
            "endpoint must be a path such as",
            "metadata: 'a' and its value must be strings",
            "extra_body must not contain 'endpoint': use the parameter of that name",
            "extra_body must not contain 'metadata': use the parameter of that name",
        ],
    ),
    "no room in metadata for the attempt's key": (
        {"metadata": {str(n): "" for n in range(16)}},
        [
            "metadata has 16 pairs: use at most 15, or durable=False",
            "A batch holds 16 pairs. One is airflow_attempt_key",
            "Nothing was sent.",
        ],
    ),
    "requests and a blob": (
        {"extra_body": {"input_blob": "https://account.blob.core.windows.net/container/requests.jsonl"}},
        ["extra_body has 'input_blob': pass no requests, input_path or input_file_id\nNothing was sent."],
    ),
    "more requests than max_requests": ({"max_requests": 3}, ["more than 3 requests: use several batches"]),
}


class TestInputs:
    def test_requests_are_uploaded_and_the_batch_has_all_fields(self, standin: StandIn) -> None:
        run = create(metadata={"owner": "us"}, extra_body={"model": "m"}, completion_window="immediate")

        assert run.states == {"wait": "success"}
        [upload], [batch] = standin.uploads, standin.batches
        assert standin.files[upload.file_id] == LINES
        assert (upload.purpose, upload.filename) == ("batch", "requests.jsonl")
        key = batch.body["metadata"][METADATA_KEY]
        assert batch.body == {
            "input_file_id": upload.file_id,
            "endpoint": ENDPOINT,
            "completion_window": "immediate",
            "metadata": {"owner": "us", METADATA_KEY: key},
            "model": "m",
        }
        assert len(key) == 64
        assert (xcom(run, "batch_id"), xcom(run, "return_value")["status"]) == (batch.id, "validating")

    def test_a_file_at_a_path_is_normalized_and_uploaded_under_its_name(self, standin: StandIn, tmp_path: Path) -> None:
        path = tmp_path / "mine.jsonl"
        path.write_bytes(b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n\r\n"))
        run = create(requests=None, input_path=f"file://{path}")
        assert run.states == {"wait": "success"}
        [upload] = standin.uploads
        assert (upload.filename, standin.files[upload.file_id]) == ("mine.jsonl", LINES)

    def test_an_error_in_a_file_names_the_file_and_the_line(self, standin: StandIn, tmp_path: Path) -> None:
        path = tmp_path / "mine.jsonl"
        path.write_text("{}\n\nnothing\n")
        [error] = create(requests=None, input_path=str(path)).errors
        assert isinstance(error, exceptions.PortkeyInputError)
        problems = listed_problems(error, "Invalid batch input", f"Input: {path}.")
        assert problems[0].startswith("line 1: ")
        assert problems[-1].startswith("line 3: not valid JSON")
        assert standin.requests == []

    def test_an_uploaded_file_is_used_without_an_upload(self, standin: StandIn) -> None:
        standin.files["file-mine"] = LINES
        run = create(requests=None, input_file_id="file-mine")
        assert run.states == {"wait": "success"}
        assert standin.uploads == []
        assert standin.batches[0].body["input_file_id"] == "file-mine"

    def test_requests_of_another_endpoint_as_in_azures_guide_cause_a_warning(
        self, standin: StandIn, capfd: pytest.CaptureFixture[str]
    ) -> None:
        requests = [request | {"url": "/v1/responses"} for request in REQUESTS]
        run = create(requests=requests, endpoint="/v1/chat/completions")
        assert run.states == {"wait": "success"}
        assert [json.loads(line)["url"] for line in standin.files[standin.uploads[0].file_id].splitlines()] == (
            ["/v1/responses"] * len(REQUESTS)
        )
        assert (
            "Each request's url is /v1/responses, but the batch's endpoint is /v1/chat/completions"
            in capfd.readouterr().out
        )

    def test_an_unknown_endpoint_causes_a_warning_before_the_upload(
        self, standin: StandIn, capfd: pytest.CaptureFixture[str]
    ) -> None:
        run = create(endpoint="/v1/chat/completion")
        assert run.states == {"wait": "failed"}
        out = capfd.readouterr().out
        assert 0 < out.find("Unknown endpoint /v1/chat/completion: the provider may reject it") < out.find("Checked 4")

    @pytest.mark.parametrize(("kwargs", "message_has"), INVALID.values(), ids=INVALID)
    def test_an_invalid_input_fails_without_a_retry_and_sends_nothing(
        self, kwargs: dict[str, Any], message_has: list[str], standin: StandIn
    ) -> None:
        run = create(**kwargs, retries=2, retry_delay=0.0)
        assert run.states == {"wait": "failed"}
        [error] = run.errors
        assert isinstance(error, exceptions.PortkeyInputError)
        for part in message_has:
            assert part in str(error)
        assert standin.requests == []

    @pytest.mark.parametrize(
        "kwargs",
        [{}, {"requests": [], "input_file_id": "f"}, {"requests": [], "input_path": "p"}],
        ids=["none", "requests and input_file_id", "requests and input_path"],
    )
    def test_other_than_one_input_raises_when_the_dag_is_parsed(self, kwargs: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="one of requests, input_path and input_file_id"):
            PortkeyCreateBatchOperator(task_id="t", **kwargs)

    def test_a_generator_raises_when_the_dag_is_parsed(self) -> None:
        requests = (request for request in REQUESTS)
        with pytest.raises(ValueError, match="must not be a generator: give a list, a task's output, or input_path"):
            PortkeyCreateBatchOperator(task_id="t", requests=requests)
        assert len(list(requests)) == len(REQUESTS)  # and was not read


@pytest.mark.parametrize("deferrable", [False, True], ids=["on a worker", "deferred"])
class TestWait:
    def test_a_completed_batch_is_returned(self, deferrable: bool, standin: StandIn) -> None:
        standin.course = [(0, "in_progress"), (0.3, "completed")]
        run = create(**WAIT, deferrable=deferrable)
        [batch] = standin.batches
        assert run.states == {"wait": "success"}
        assert xcom(run, "batch_id") == batch.id
        assert run.xcoms["wait"]["output_file_id"] == f"file-{batch.id}-output"
        assert run.xcoms["wait"]["return_value"]["request_counts"] == {"total": 4, "completed": 4, "failed": 0}

    def test_an_expired_batch_fails_without_a_retry(self, deferrable: bool, standin: StandIn) -> None:
        standin.course = [(0, "in_progress"), (0.3, "expired")]
        run = create(**WAIT, deferrable=deferrable, retries=2, retry_delay=0.0)
        [batch] = standin.batches
        assert run.states == {"wait": "failed"}
        assert [type(error) for error in run.errors] == [exceptions.PortkeyBatchExpiredError]
        assert xcom(run, "batch_id") == batch.id
        assert run.xcoms["wait"]["output_file_id"] == f"file-{batch.id}-output"

    @pytest.mark.parametrize("cancels", [False, True], ids=["without cancel_on_timeout", "with cancel_on_timeout"])
    def test_a_timeout_cancels_the_batch_only_with_cancel_on_timeout(
        self, cancels: bool, deferrable: bool, standin: StandIn
    ) -> None:
        standin.course = [(0, "in_progress")]
        run = create(**WAIT, deferrable=deferrable, timeout=0.5, cancel_on_timeout=cancels)
        assert [type(error) for error in run.errors] == [exceptions.PortkeyBatchTimeoutError]
        assert standin.cancelled == [batch.id for batch in standin.batches if cancels]


class TestNextAttempt:
    def test_a_batch_whose_creation_had_no_response_is_found(self, standin: StandIn) -> None:
        standin.fail("POST", "/v1/batches", Answer(how="reset"), after=True)
        run = create(**WAIT)
        assert run.states == {"wait": "success"}
        assert xcom(run, "batch_id") == standin.batches[0].id
        assert len(standin.batches) == 1

    def test_the_next_attempt_finds_the_batch_when_the_search_failed(
        self, standin: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_max_backoff(monkeypatch, 0.01)
        standin.fail("POST", "/v1/batches", Answer(502), after=True)
        standin.fail("GET", "/v1/batches", *[Answer(503)] * 3)
        run = create(**WAIT, retries=1, retry_delay=0.0)
        assert run.states == {"wait": "success"}
        assert len(standin.batches) == len(standin.uploads) == 1
        assert xcom(run, "batch_id") == standin.batches[0].id

    def test_a_batch_in_flight_or_ended_well_is_reusable(self) -> None:
        task = PortkeyCreateBatchOperator(
            task_id="t", input_file_id="f", allowed_statuses=["completed", "expired"], fail_on_request_errors="any"
        )
        reusable = [status.value for status in BatchStatus if task._is_reusable(Batch("b", status))]
        assert reusable == ["validating", "in_progress", "finalizing", "completed", "expired"]
        assert not task._is_reusable(Batch("b", BatchStatus.COMPLETED, request_counts=RequestCounts(2, 1, 1)))

    def test_without_durable_each_attempt_creates_a_batch(self, standin: StandIn) -> None:
        standin.fail("POST", "/v1/batches", Answer(502), after=True)
        run = create(**WAIT, durable=False, retries=1, retry_delay=0.0)
        assert run.states == {"wait": "success"}
        assert len(standin.batches) == 2
        assert "metadata" not in standin.batches[0].body
