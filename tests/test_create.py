"""The rest of a batch's life as tasks of a real Airflow: create, wait, cancel, download."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from threading import Thread, Timer
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout, TaskDeferred

from airflow_provider_portkey import api, exceptions
from airflow_provider_portkey.attempts import METADATA_KEY
from airflow_provider_portkey.batch import Batch, BatchStatus, RequestCounts
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.operators.batch import PortkeyCreateBatchOperator
from tests.airflow_run import Run, run_task
from tests.server.standin import Answer, StandIn, batch_body

pytestmark = pytest.mark.usefixtures("airflow_db", "connection")

REQUESTS = [{"custom_id": f"r{n}", "body": {"model": "m", "input": f"text {n}"}} for n in range(4)]
ENDPOINT = "/v1/embeddings"
LINES = b"".join(json.dumps({"method": "POST", "url": ENDPOINT, **request}).encode() + b"\n" for request in REQUESTS)
WAIT: dict[str, Any] = {"wait_for_completion": True, "poke_interval": 0.1}


def create(**kwargs: Any) -> Run:
    return run_task("PortkeyCreateBatchOperator", **{"endpoint": ENDPOINT, "requests": REQUESTS} | kwargs)


def first_attempt(push: Callable[[str, Any], None] = lambda key, value: None) -> Any:
    """The context of a task ``t`` that no Airflow runs."""
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1, xcom_push=push)
    return {"ti": ti}


def pulled(run: Run, key: str) -> Any:
    return run.task_instances["wait"].xcom_pull(task_ids="wait", key=key)


class TestInputs:
    def test_requests(self, standin: StandIn) -> None:
        run = create(metadata={"whose": "ours"}, extra_body={"model": "m"}, completion_window="immediate")

        assert run.states == {"wait": "success"}
        [upload], [batch] = standin.uploads, standin.batches
        assert standin.files[upload.file_id] == LINES
        assert (upload.purpose, upload.filename) == ("batch", "requests.jsonl")
        key = batch.body["metadata"][METADATA_KEY]
        assert batch.body == {
            "input_file_id": upload.file_id,
            "endpoint": ENDPOINT,
            "completion_window": "immediate",
            "metadata": {"whose": "ours", METADATA_KEY: key},
            "model": "m",
        }
        assert len(key) == 64
        assert (pulled(run, "batch_id"), pulled(run, "return_value")["status"]) == (batch.id, "validating")

    def test_a_path(self, standin: StandIn, tmp_path: Path) -> None:
        path = tmp_path / "mine.jsonl"
        path.write_bytes(b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n\r\n"))
        run = create(requests=None, input_path=f"file://{path}")
        assert run.states == {"wait": "success"}
        [upload] = standin.uploads
        assert (upload.filename, standin.files[upload.file_id]) == ("mine.jsonl", LINES)

    def test_a_path_that_is_wrong_is_named(self, standin: StandIn, tmp_path: Path) -> None:
        path = tmp_path / "mine.jsonl"
        path.write_text("{}\n\nnothing\n")
        [error] = create(requests=None, input_path=str(path)).errors
        assert str(error).startswith(f"{path}: This can't be the input of a batch. Nothing was sent.\n")
        assert "line 3: not JSON" in str(error)
        assert standin.requests == []

    def test_a_file_that_is_there(self, standin: StandIn) -> None:
        standin.files["file-mine"] = LINES
        run = create(requests=None, input_file_id="file-mine")
        assert run.states == {"wait": "success"}
        assert standin.uploads == []
        assert standin.batches[0].body["input_file_id"] == "file-mine"

    @pytest.mark.parametrize(
        ("kwargs", "words"),
        [
            ({"requests": [{"custom_id": "a", "body": {}}] * 2}, "line 2: custom_id 'a' is that of line 1 too"),
            ({"requests": "{{ dag.dag_id }}"}, "requests must be a list of dicts, got str"),
            ({"requests": None, "input_file_id": "{{ none }}"}, "input_file_id is 'None': did the task"),
            ({"endpoint": "embeddings"}, "endpoint must be a path such as"),
            ({"metadata": {str(n): "" for n in range(16)}}, "metadata has 16 pairs; a batch takes 16, one of which"),
            ({"requests": "{{ none }}", "input_file_id": None}, "requests must be a list of dicts"),
            ({"metadata": {"a": 1}}, "metadata: 'a' and its value must be strings"),
            ({"extra_body": {"endpoint": "x", "metadata": {}}}, "extra_body has endpoint, metadata"),
            ({"requests": None, "input_path": "{{ none }}"}, "path is 'None'"),
            ({"max_requests": 3}, "more than 3 requests: use several batches"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_can_not_be_meant_is_refused_before_anything_is_sent(
        self, kwargs: dict[str, Any], words: str, standin: StandIn
    ) -> None:
        run = create(**kwargs, retries=2, retry_delay=0.0)
        assert run.states == {"wait": "failed"}
        [error] = run.errors
        assert isinstance(error, exceptions.PortkeyInputError)
        assert words in str(error)
        assert standin.requests == []

    @pytest.mark.parametrize("given", [{}, {"requests": [], "input_file_id": "f"}, {"requests": [], "input_path": "p"}])
    def test_one_input_is_asked_for_when_the_dag_is_parsed(self, given: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="one of requests, input_path and input_file_id"):
            PortkeyCreateBatchOperator(task_id="t", **given)


@pytest.mark.parametrize("deferrable", [False, True], ids=["waits", "deferred"])
class TestWaiting:
    def test_it_ends_as_the_other_waits_do(self, deferrable: bool, standin: StandIn) -> None:
        standin.course = [(0, "in_progress"), (0.3, "completed")]
        run = create(**WAIT, deferrable=deferrable)
        [batch] = standin.batches
        assert run.states == {"wait": "success"}
        assert pulled(run, "batch_id") == batch.id
        assert run.xcoms["wait"]["output_file_id"] == f"file-{batch.id}-output"
        assert run.xcoms["wait"]["return_value"]["request_counts"] == {"total": 4, "completed": 4, "failed": 0}

    def test_a_bad_end_fails_without_a_retry(self, deferrable: bool, standin: StandIn) -> None:
        standin.course = [(0, "in_progress"), (0.3, "expired")]
        run = create(**WAIT, deferrable=deferrable, retries=2, retry_delay=0.0)
        [batch] = standin.batches
        assert run.states == {"wait": "failed"}
        assert [type(error) for error in run.errors] == [exceptions.PortkeyBatchExpiredError]
        assert pulled(run, "batch_id") == batch.id
        assert run.xcoms["wait"]["output_file_id"] == f"file-{batch.id}-output"

    @pytest.mark.parametrize("cancels", [False, True])
    def test_a_timeout_cancels_if_asked_to(self, cancels: bool, deferrable: bool, standin: StandIn) -> None:
        standin.course = [(0, "in_progress")]
        run = create(**WAIT, deferrable=deferrable, timeout=0.5, cancel_on_timeout=cancels)
        assert [type(error) for error in run.errors] == [exceptions.PortkeyBatchTimeoutError]
        assert standin.cancelled == [batch.id for batch in standin.batches if cancels]


class TestAttempts:
    def test_a_batch_whose_creator_heard_nothing_is_gone_on_with(self, standin: StandIn) -> None:
        standin.fail("POST", "/v1/batches", Answer(how="reset"), after=True)
        run = create(**WAIT)
        assert run.states == {"wait": "success"}
        assert pulled(run, "batch_id") == standin.batches[0].id
        assert len(standin.batches) == 1

    def test_the_next_attempt_finds_it(self, standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("airflow_provider_portkey.api.MAX_PAUSE", 0.01)
        standin.fail("POST", "/v1/batches", Answer(502), after=True)
        standin.fail("GET", "/v1/batches", *[Answer(503)] * 3)
        run = create(**WAIT, retries=1, retry_delay=0.0)
        assert run.states == {"wait": "success"}
        assert len(standin.batches) == len(standin.uploads) == 1
        assert pulled(run, "batch_id") == standin.batches[0].id

    def test_which_batches_are_gone_on_with(self) -> None:
        task = PortkeyCreateBatchOperator(
            task_id="t", input_file_id="f", allowed_statuses=["completed", "expired"], fail_on_request_errors="any"
        )
        of_use = [status.value for status in BatchStatus if task._is_of_use(Batch("b", status))]
        assert of_use == ["validating", "in_progress", "finalizing", "completed", "expired"]
        assert not task._is_of_use(Batch("b", BatchStatus.COMPLETED, request_counts=RequestCounts(2, 1, 1)))

    def test_without_durable_each_attempt_creates_one(self, standin: StandIn) -> None:
        standin.fail("POST", "/v1/batches", Answer(502), after=True)
        run = create(**WAIT, durable=False, retries=1, retry_delay=0.0)
        assert run.states == {"wait": "success"}
        assert len(standin.batches) == 2
        assert "metadata" not in standin.batches[0].body


class TestCancelling:
    def test_a_kill_cancels_with_one_attempt(self, standin: StandIn) -> None:
        standin.script("batch_1", "in_progress")
        task = PortkeyCreateBatchOperator(task_id="t", input_file_id="f")
        task.on_kill()  # before there is a batch
        assert standin.requests == []
        task.batch_id = "batch_1"
        standin.fail("POST", "/v1/batches/batch_1/cancel", Answer(503))
        task.on_kill()
        assert (len(standin.requests), standin.cancelled) == (1, [])
        task.on_kill()
        assert standin.cancelled == ["batch_1"]

    @pytest.mark.parametrize("cancels", [False, True])
    def test_an_execution_timeout_is_a_timeout(self, cancels: bool, standin: StandIn) -> None:
        standin.course = [(0, "in_progress")]
        with suppress(AirflowTaskTimeout):  # which on Airflow 2 comes out of dag.test()
            create(**WAIT, execution_timeout=timedelta(seconds=2), cancel_on_timeout=cancels)
        [batch] = standin.batches
        assert standin.cancelled == ([batch.id] if cancels else [])

    def test_a_killed_task_may_be_retried(self, standin: StandIn) -> None:
        task = PortkeyCreateBatchOperator(task_id="t", requests=REQUESTS, endpoint=ENDPOINT, **WAIT)
        standin.course = [(0, "in_progress")]
        context = first_attempt()
        # Airflow 3 only calls on_kill(), and the task goes on.
        Timer(0.5, task.on_kill).start()
        with pytest.raises(exceptions.PortkeyError, match="The task was killed") as raised:
            task.execute(context)
        assert not isinstance(raised.value, AirflowFailException)
        assert len(standin.cancelled) == 1

    @pytest.mark.parametrize("way", [{}, WAIT, WAIT | {"deferrable": True}], ids=["creates", "waits", "defers"])
    @pytest.mark.parametrize(("moment", "paid"), [("upload", 0), ("create", 1), ("push", 1)])
    def test_a_kill_before_the_wait(self, moment: str, paid: int, way: dict[str, Any], standin: StandIn) -> None:
        standin.course = [(0, "in_progress")]
        task = PortkeyCreateBatchOperator(task_id="t", requests=REQUESTS, endpoint=ENDPOINT, **way)

        def push(key: str, value: Any) -> None:
            if moment == "push":
                task.on_kill()

        def kill() -> None:
            standin.wait_for(1 if moment == "upload" else 2)
            task.on_kill()

        if moment != "push":
            standin.fail("POST", "/v1/files" if moment == "upload" else "/v1/batches", Answer(delay=0.5))
            Thread(target=kill).start()
        context = first_attempt(push)
        with pytest.raises(exceptions.PortkeyError, match="The task was killed") as raised:
            task.execute(context)
        assert not isinstance(raised.value, AirflowFailException)
        assert len(standin.batches) == paid
        assert standin.cancelled == [batch.id for batch in standin.batches]

    @pytest.mark.parametrize("refused", [False, True])
    def test_a_kill_asks_airflow_for_nothing(
        self, refused: bool, standin: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever was interrupted may hold the lock of Airflow 3's talk with its supervisor."""
        monkeypatch.setattr(api, "MAX_PAUSE", 0.01)
        standin.script("batch_1", *[Answer(503)] * 3, "in_progress")
        task = PortkeyCreateBatchOperator(task_id="t", input_file_id="f")
        task.batch_id = "batch_1"
        with pytest.raises(exceptions.PortkeyTransientError):  # after which the connection would be read again
            task.hook.get_batch("batch_1")
        if refused:
            standin.api_key = "another"
        asked: list[str] = []
        monkeypatch.setattr(PortkeyHook, "get_connection", asked.append)
        task.on_kill()
        assert asked == []
        assert standin.cancelled == ([] if refused else ["batch_1"])

    def test_a_kill_cancels_nothing_if_told_not_to(self, standin: StandIn) -> None:
        task = PortkeyCreateBatchOperator(task_id="t", input_file_id="f", cancel_on_kill=False)
        task.batch_id = "batch_1"
        task.on_kill()
        assert standin.requests == []

    @pytest.mark.parametrize("asked", [False, True])
    def test_its_trigger_cancels_only_if_asked_to(self, asked: bool, standin: StandIn) -> None:
        task = PortkeyCreateBatchOperator(
            task_id="t", requests=REQUESTS, endpoint=ENDPOINT, cancel_from_trigger=asked, deferrable=True, **WAIT
        )
        context = first_attempt()
        with pytest.raises(TaskDeferred) as deferred:
            task.execute(context)
        assert deferred.value.trigger.cancel_on_kill is asked
        # No look at the batch right after it was created: its provider may not find it at once.
        assert [seen.method for seen in standin.requests] == ["POST", "POST"]

    # Of Airflow 3, and of Airflow 2.
    @pytest.mark.parametrize("words", ["Trigger timeout", "Trigger/execution timeout"])
    @pytest.mark.parametrize("cancels", [False, True])
    def test_so_does_a_deferral_that_airflow_ends(self, cancels: bool, words: str, standin: StandIn) -> None:
        standin.script("batch_1", "in_progress")
        task = PortkeyCreateBatchOperator(task_id="t", input_file_id="f", cancel_on_timeout=cancels)
        pull = {("t", "batch_id", -1): "batch_1"}
        ti = SimpleNamespace(
            task_id="t", map_index=-1, xcom_pull=lambda task_ids, key, map_indexes: pull[task_ids, key, map_indexes]
        )
        context: Any = {"ti": ti}
        for error in ("Trigger failure", words):
            assert standin.cancelled == []
            with pytest.raises(Exception, match=error):
                task.resume_execution("__fail__", {"error": error}, context)
        assert standin.cancelled == (["batch_1"] if cancels else [])

    @pytest.mark.parametrize(
        ("status", "after"), [("in_progress", "cancelling"), ("completed", "completed"), ("cancelled", "cancelled")]
    )
    def test_the_operator(self, status: str, after: str, standin: StandIn) -> None:
        standin.script("batch_1", status)
        run = run_task("PortkeyCancelBatchOperator", batch_id="batch_1")
        assert run.states == {"wait": "success"}
        assert run.xcoms["wait"]["return_value"]["status"] == after

    def test_the_operator_fails_if_it_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("airflow_provider_portkey.api.MAX_PAUSE", 0.01)
        run = run_task("PortkeyCancelBatchOperator", batch_id="batch_unknown")
        assert [type(error) for error in run.errors] == [exceptions.PortkeyRefusedError]


class TestDownload:
    def download(self, folder: Path, **kwargs: Any) -> Run:
        return run_task("PortkeyDownloadBatchOperator", **{"batch_id": "batch_1", "path": str(folder)} | kwargs)

    def test_both_files(self, standin: StandIn, tmp_path: Path) -> None:
        standin.script("batch_1", "completed")
        run = self.download(tmp_path / "new")
        output, error = (standin.files[f"file-batch_1-{kind}"] for kind in ("output", "error"))
        assert (tmp_path / "new" / "output.jsonl").read_bytes() == output
        assert (tmp_path / "new" / "error.jsonl").read_bytes() == error
        manifest = run.xcoms["wait"]["return_value"]
        assert manifest["output"] == {
            "file_id": "file-batch_1-output",
            "path": f"{tmp_path}/new/output.jsonl",
            "bytes": len(output),
            "lines": 98,
            "sha256": hashlib.sha256(output).hexdigest(),
        }
        assert (manifest["counts_match"], manifest["error"]["lines"]) == (True, 2)
        # Both files count from the same id.
        assert (manifest["doubled"], manifest["doubled_count"]) == (["request-0", "request-1"], 2)

    def test_what_an_expired_batch_did_not_answer_is_named(
        self, standin: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        standin.course = [(0, "expired")]
        batch_id = pulled(create(), "batch_id")
        manifest = self.download(tmp_path, batch_id=batch_id).xcoms["wait"]["return_value"]
        assert (manifest["status"], manifest["counts_match"]) == ("expired", False)
        assert (manifest["missing"], manifest["missing_count"]) == (["r2", "r3"], 2)
        assert manifest["error"] is None

    def test_another_run_replaces_what_was_there(self, standin: StandIn, tmp_path: Path) -> None:
        (tmp_path / "output.jsonl").write_text("old")
        (tmp_path / "error.jsonl").write_text("old")
        counts = {"total": 1, "completed": 1, "failed": 0}
        # Vertex names a file of errors also where there is none.
        for error_file in (None, "file-none"):
            fields = {"output_file_id": "file-o", "error_file_id": error_file, "request_counts": counts}
            standin.script("batch_1", Answer(body=batch_body("batch_1", "completed", **fields)))
            standin.files = {"file-o": b'{"custom_id": "a"}\n'}
            manifest = self.download(tmp_path).xcoms["wait"]["return_value"]
            assert (manifest["counts_match"], manifest["missing"], manifest["error"]) == (True, [], None)
            assert [path.name for path in tmp_path.iterdir()] == ["output.jsonl"]
            assert (tmp_path / "output.jsonl").read_bytes() == b'{"custom_id": "a"}\n'
            (tmp_path / "error.jsonl").write_text("old")

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            ("in_progress", exceptions.PortkeyBatchNotReadyError),
            ("failed", exceptions.PortkeyBatchFailedError),
        ],
    )
    def test_without_files_it_fails(
        self, status: str, error: type[Exception], standin: StandIn, tmp_path: Path
    ) -> None:
        standin.script("batch_1", status)
        assert [type(e) for e in self.download(tmp_path).errors] == [error]
        assert list(tmp_path.iterdir()) == []

    def test_a_file_that_is_refused_fails_it(self, standin: StandIn, tmp_path: Path) -> None:
        fields = {"output_file_id": "file-none", "error_file_id": None}
        standin.script("batch_1", Answer(body=batch_body("batch_1", "completed", **fields)))
        standin.files.clear()
        assert [type(e) for e in self.download(tmp_path).errors] == [exceptions.PortkeyRefusedError]
