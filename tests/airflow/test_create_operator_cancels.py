"""When the create operator cancels its batch: kills, timeouts and deferrals that Airflow ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Thread, Timer
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout, TaskDeferred

from airflow_provider_portkey.batch import Batch, BatchStatus
from airflow_provider_portkey.events import DeadlineReached, to_event
from airflow_provider_portkey.exceptions import (
    PortkeyBatchCancelledError,
    PortkeyBatchTimeoutError,
    PortkeyError,
    PortkeyTransientError,
)
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.operators.batch import PortkeyCreateBatchOperator
from airflow_provider_portkey.retry import MAX_ATTEMPTS
from tests.server.standin import Answer, StandIn
from tests.support.airflow_run import run_task
from tests.support.backoff import set_max_backoff

pytestmark = pytest.mark.usefixtures("airflow_db", "connection")

CREATE: dict[str, Any] = {
    "endpoint": "/v1/embeddings",
    "requests": [{"custom_id": "r0", "body": {"model": "m", "input": "text"}}],
}
WAIT: dict[str, Any] = {"wait_for_completion": True, "poke_interval": 0.1}


def context_of_first_attempt(push: Callable[[str, Any], None] = lambda key, value: None, *, retries: int = 0) -> Any:
    """Return the context of a task ``t`` outside Airflow."""
    ids = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}
    return {"ti": SimpleNamespace(**ids, try_number=1, max_tries=retries, xcom_push=push)}


def operator_with_batch(**kwargs: Any) -> PortkeyCreateBatchOperator:
    """Return an operator that has created batch_1."""
    task = PortkeyCreateBatchOperator(task_id="t", input_file_id="f", **kwargs)
    task.batch_id = "batch_1"
    return task


BY_OTHERS = "Batch was cancelled: add 'cancelled' to allowed_statuses to use its partial results"
KILLED = "Task killed: a retry re-attaches to its batch, or creates another if that was cancelled"


@contextmanager
def killed(task: PortkeyCreateBatchOperator) -> Iterator[pytest.ExceptionInfo[PortkeyError]]:
    """Kill a task that runs in here as Airflow 3 does: it calls only on_kill(), and lets the task continue."""
    timer = Timer(0.5, task.on_kill)
    timer.start()
    with pytest.raises(PortkeyError, match=KILLED) as caught:
        yield caught
    timer.join()


class TestKill:
    def test_a_kill_before_there_is_a_batch_sends_nothing(self, standin: StandIn) -> None:
        PortkeyCreateBatchOperator(task_id="t", input_file_id="f").on_kill()
        assert standin.requests == []

    def test_a_kill_cancels_the_batch_with_one_attempt(self, standin: StandIn) -> None:
        standin.script("batch_1", "in_progress")
        task = operator_with_batch()
        standin.fail("POST", "/v1/batches/batch_1/cancel", Answer(503))
        task.on_kill()
        assert [seen.method for seen in standin.requests] == ["POST", "GET"]
        assert standin.cancelled == []
        task.on_kill()
        assert standin.cancelled == ["batch_1"]

    def test_a_kill_without_cancel_on_kill_sends_nothing(self, standin: StandIn) -> None:
        operator_with_batch(cancel_on_kill=False).on_kill()
        assert standin.requests == []

    def test_a_killed_task_raises_an_error_after_which_airflow_may_retry(self, standin: StandIn) -> None:
        task = PortkeyCreateBatchOperator(task_id="t", **CREATE, **WAIT)
        standin.course = [(0, "in_progress")]
        with killed(task) as caught:
            task.execute(context_of_first_attempt())
        assert not isinstance(caught.value, AirflowFailException)
        assert len(standin.cancelled) == 1

    @pytest.mark.parametrize("durable", [True, "True", False, "False"])
    def test_a_kill_spares_the_batch_that_the_next_attempt_will_re_attach_to(
        self, durable: bool | str, standin: StandIn
    ) -> None:
        task = PortkeyCreateBatchOperator(task_id="t", **CREATE, **WAIT, durable=durable)
        standin.course = [(0, "in_progress")]
        with killed(task):
            task.execute(context_of_first_attempt(retries=1))
        [batch] = standin.batches
        assert standin.cancelled == ([] if str(durable) == "True" else [batch.id])

    def test_a_killed_task_says_once_that_it_cancelled_its_batch(self, standin: StandIn) -> None:
        task = PortkeyCreateBatchOperator(task_id="t", **CREATE, **WAIT)
        standin.course, standin.cancelling_for = [(0, "in_progress")], 0
        standin.fail("GET", "/v1/batches/[^/]+", Answer(delay=1))  # a poll in flight, which returns a cancelled batch

        def kill() -> None:
            standin.wait_for(3)
            task.on_kill()

        Thread(target=kill).start()
        with pytest.raises(PortkeyError, match=KILLED) as caught:
            task.execute(context_of_first_attempt())
        [batch] = standin.batches
        requested = f"Requested cancellation of batch {batch.id}: its task was killed."
        assert str(caught.value).splitlines() == [KILLED, requested]
        assert caught.value.__suppress_context__, "the traceback would show the cancelled batch as a second error"

    @pytest.mark.parametrize("cancels", [True, False], ids=["with cancel_on_kill", "without cancel_on_kill"])
    def test_a_killed_task_ends_before_its_next_poll(self, cancels: bool, standin: StandIn) -> None:
        """Airflow 3 sends SIGKILL five seconds later, after which the end of the task would be noticed much later."""
        task = PortkeyCreateBatchOperator(
            task_id="t", **CREATE, wait_for_completion=True, poke_interval=3600, cancel_on_kill=cancels
        )
        standin.course = [(0, "in_progress")]
        with killed(task):
            task.execute(context_of_first_attempt())
        assert len(standin.cancelled) == cancels

    @pytest.mark.parametrize(
        "mode", [{}, WAIT, WAIT | {"deferrable": True}], ids=["without a wait", "waiting", "deferring"]
    )
    @pytest.mark.parametrize(("moment", "created"), [("upload", 0), ("create", 1), ("push", 1)])
    def test_a_kill_before_the_wait_cancels_a_batch_that_was_created(
        self, moment: str, created: int, mode: dict[str, Any], standin: StandIn
    ) -> None:
        standin.course = [(0, "in_progress")]
        task = PortkeyCreateBatchOperator(task_id="t", **CREATE, **mode)

        def push(key: str, value: Any) -> None:
            if moment == "push":
                task.on_kill()

        def kill() -> None:
            standin.wait_for(1 if moment == "upload" else 2)
            task.on_kill()

        if moment != "push":
            standin.fail("POST", "/v1/files" if moment == "upload" else "/v1/batches", Answer(delay=0.5))
            Thread(target=kill).start()
        context = context_of_first_attempt(push)
        with pytest.raises(PortkeyError, match=KILLED) as caught:
            task.execute(context)
        assert not isinstance(caught.value, AirflowFailException)
        assert len(standin.batches) == created
        assert standin.cancelled == [batch.id for batch in standin.batches]

    @pytest.mark.parametrize("is_rejected", [False, True], ids=["accepted", "rejected"])
    def test_a_kill_does_not_read_the_connection(
        self, is_rejected: bool, standin: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The interrupted code may hold the lock on Airflow 3's connection to its supervisor."""
        set_max_backoff(monkeypatch, 0.01)
        standin.script("batch_1", *[Answer(503)] * 3, "in_progress")
        task = operator_with_batch()
        with pytest.raises(PortkeyTransientError):  # After which the next call would read the connection again.
            task.hook.get_batch("batch_1")
        if is_rejected:
            standin.api_key = "another"
        lookups: list[str] = []
        monkeypatch.setattr(PortkeyHook, "get_connection", lookups.append)
        task.on_kill()
        assert lookups == []
        assert standin.cancelled == ([] if is_rejected else ["batch_1"])


class TestTimeout:
    @pytest.mark.parametrize("cancels", [False, True], ids=["without cancel_on_timeout", "with cancel_on_timeout"])
    def test_an_execution_timeout_cancels_only_with_cancel_on_timeout(self, cancels: bool, standin: StandIn) -> None:
        standin.course = [(0, "in_progress")]
        with suppress(AirflowTaskTimeout):  # On Airflow 2 dag.test() raises it.
            run_task(
                "PortkeyCreateBatchOperator",
                **CREATE,
                **WAIT,
                execution_timeout=timedelta(seconds=2),
                cancel_on_timeout=cancels,
            )
        [batch] = standin.batches
        assert standin.cancelled == ([batch.id] if cancels else [])

    @pytest.mark.parametrize("error", ["Trigger timeout", "Trigger/execution timeout"], ids=["Airflow 3", "Airflow 2"])
    @pytest.mark.parametrize("cancels", [False, True], ids=["without cancel_on_timeout", "with cancel_on_timeout"])
    def test_a_deferral_that_times_out_cancels_only_with_cancel_on_timeout(
        self, cancels: bool, error: str, standin: StandIn
    ) -> None:
        standin.script("batch_1", "in_progress")
        task = PortkeyCreateBatchOperator(task_id="t", input_file_id="f", cancel_on_timeout=cancels)
        xcoms = {("t", "batch_id", -1): "batch_1"}
        ti = SimpleNamespace(
            task_id="t", map_index=-1, xcom_pull=lambda task_ids, key, map_indexes: xcoms[task_ids, key, map_indexes]
        )
        context: Any = {"ti": ti}
        for failure in ("Trigger failure", error):
            assert standin.requests == []
            timed_out = failure.endswith("timeout")
            with pytest.raises(Exception, match="Batch still in flight after" if timed_out else failure):
                task.resume_execution("__fail__", {"error": failure}, context)
        assert standin.requests[0].method == "GET", "the batch may have ended without a triggerer to see it"
        assert standin.cancelled == (["batch_1"] if cancels else [])

    def test_a_batch_that_ended_while_no_triggerer_ran_is_returned_and_not_cancelled(self, standin: StandIn) -> None:
        standin.script("batch_1", "completed")
        task = PortkeyCreateBatchOperator(task_id="t", input_file_id="f", cancel_on_timeout=True)
        ti = SimpleNamespace(
            task_id="t",
            map_index=-1,
            try_number=1,
            xcom_pull=lambda **_: "batch_1",
            xcom_push=lambda **_: None,
        )
        context: Any = {"ti": ti}
        result = task.resume_execution("__fail__", {"error": "Trigger timeout"}, context)
        assert (result["id"], result["status"], standin.cancelled) == ("batch_1", "completed", [])

    @pytest.mark.parametrize(
        ("answers", "remedy"),
        [
            ([], "raise timeout. It is being cancelled (cancel_on_timeout)"),
            ([Answer(503)], "raise timeout. Cancelling it failed (cancel_on_timeout)"),
        ],
        ids=["accepted", "failed"],
    )
    def test_the_error_says_whether_the_cancellation_was_accepted(
        self, answers: list[Answer], remedy: str, standin: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_max_backoff(monkeypatch, 0.01)
        standin.script("batch_1", "in_progress")
        standin.fail("POST", "/v1/batches/batch_1/cancel", *answers * MAX_ATTEMPTS)
        task = operator_with_batch(**WAIT, cancel_on_timeout=True, timeout=60)
        event = to_event("batch_1", DeadlineReached("in_progress"))
        with pytest.raises(PortkeyBatchTimeoutError) as caught:
            task.execute_complete(context_of_first_attempt(), event)
        assert str(caught.value).splitlines()[0] == f"Batch still in flight after 60 s: {remedy}"
        assert standin.cancelled == ([] if answers else ["batch_1"])


#: The parameters of a task, its attempt, and those parameters that may have had its batch cancelled before.
CANCELLED_BY: dict[str, tuple[dict[str, Any], int, str | None]] = {
    "a first attempt": ({"cancel_on_timeout": True}, 1, None),
    "a deferred task": ({"cancel_from_trigger": True, "deferrable": True}, 1, "cancel_from_trigger"),
    "an attempt after a killed one": ({}, 2, "cancel_on_kill"),
    "an attempt after one that timed out": (
        {"cancel_on_kill": False, "cancel_on_timeout": True},
        2,
        "cancel_on_timeout",
    ),
    "an attempt that re-attaches to no batch": ({"durable": False, "cancel_on_timeout": True}, 2, None),
    "a task that never cancels": ({"cancel_on_kill": False}, 2, None),
}


@pytest.mark.parametrize(("parameters", "try_number", "names"), CANCELLED_BY.values(), ids=CANCELLED_BY)
def test_a_cancelled_batch_is_put_down_to_the_task_itself_where_that_may_be(
    parameters: dict[str, Any], try_number: int, names: str | None
) -> None:
    context = context_of_first_attempt(lambda **_: None)
    context["ti"].try_number = try_number
    task = PortkeyCreateBatchOperator(task_id="t", **CREATE, **WAIT | parameters)
    event = to_event("batch_1", Batch("batch_1", BatchStatus.CANCELLED, "cancelled"))
    with pytest.raises(PortkeyBatchCancelledError) as caught:
        task.execute_complete(context, event)
    text = str(caught.value)
    assert text.startswith("Batch was cancelled, maybe by this task: clear the task" if names else BY_OTHERS)
    assert f"may have requested that ({names})" in text if names else "may have requested" not in text


@pytest.mark.parametrize("cancels", [False, True], ids=["without cancel_from_trigger", "with cancel_from_trigger"])
def test_the_trigger_cancels_only_with_cancel_from_trigger(cancels: bool, standin: StandIn) -> None:
    task = PortkeyCreateBatchOperator(task_id="t", **CREATE, **WAIT, cancel_from_trigger=cancels, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context_of_first_attempt())
    assert deferred.value.trigger.cancel_from_trigger is cancels
    # The batch is not polled right after its creation, because its provider may not know it yet.
    assert [seen.method for seen in standin.requests] == ["POST", "POST"]
