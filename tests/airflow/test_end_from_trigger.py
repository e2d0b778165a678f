"""``end_from_trigger``: the trigger ends the task without a worker slot, unless a worker is needed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, Asset, TaskDeferred, XCom, task
from airflow.triggers.base import TaskSuccessEvent

from airflow_provider_portkey.operators.batch import PortkeyRetrieveBatchOperator
from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor
from airflow_provider_portkey.triggers.batch import PortkeyBatchTrigger
from tests.server.standin import StandIn, batch_body
from tests.support.airflow_run import Run, run_trigger, run_wait, xcoms_of

pytestmark = pytest.mark.usefixtures("airflow_db", "connection")

NO_XCOMS = {"return_value": None, "output_file_id": None, "error_file_id": None}
ALL_FAILED = batch_body("batch_1", "completed", request_counts={"total": 3, "completed": 0, "failed": 3})


def trigger(**kwargs: Any) -> PortkeyBatchTrigger:
    return PortkeyBatchTrigger("batch_1", poke_interval=0.02, end_from_trigger=True, **kwargs)


@pytest.fixture
def run(standin: StandIn) -> Run:
    """Run a task that has nothing in XCom."""
    standin.script("batch_1", "completed")
    run = run_wait("PortkeyBatchSensor", "batch_1", do_xcom_push=False)
    assert run.xcoms["wait"] == NO_XCOMS
    return run


class TestInTheTrigger:
    def test_a_completed_batch_ends_the_task_with_the_same_xcoms_as_on_a_worker(
        self, run: Run, standin: StandIn
    ) -> None:
        worker = run_wait("PortkeyBatchSensor", "batch_1", deferrable=True)
        standin.script("batch_1", "in_progress", "completed")

        event = run_trigger(trigger(), run.task_instances["wait"])

        assert isinstance(event, TaskSuccessEvent)
        assert xcoms_of(run.task_instances["wait"]) == worker.xcoms["wait"]
        assert worker.xcoms["wait"]["output_file_id"] == "file-batch_1-output"

    def test_with_do_xcom_push_off_it_ends_the_task_and_pushes_nothing(self, run: Run) -> None:
        assert isinstance(run_trigger(trigger(do_xcom_push=False), run.task_instances["wait"]), TaskSuccessEvent)
        assert xcoms_of(run.task_instances["wait"]) == NO_XCOMS

    def test_an_output_file_that_is_named_a_moment_later_is_waited_for(self, run: Run, standin: StandIn) -> None:
        counts = {"total": 3, "completed": 3, "failed": 0}
        unnamed = batch_body("batch_1", "completed", output_file_id=None, request_counts=counts)
        standin.script("batch_1", unnamed, unnamed, "completed")

        assert isinstance(run_trigger(trigger(), run.task_instances["wait"]), TaskSuccessEvent)
        assert xcoms_of(run.task_instances["wait"])["output_file_id"] == "file-batch_1-output"

    def test_an_allowed_status_ends_the_task(self, run: Run, standin: StandIn) -> None:
        standin.script("batch_1", "expired")
        event = run_trigger(trigger(allowed_statuses=["completed", "expired"]), run.task_instances["wait"])
        assert isinstance(event, TaskSuccessEvent)

    @pytest.mark.parametrize("answer", ["expired", "failed", "cancelled", ALL_FAILED])
    def test_a_bad_end_is_left_to_a_worker(self, answer: Any, run: Run, standin: StandIn) -> None:
        standin.script("batch_1", answer)

        event = run_trigger(trigger(), run.task_instances["wait"])

        assert not isinstance(event, TaskSuccessEvent)
        assert event.payload["event"] == "ended"
        assert xcoms_of(run.task_instances["wait"]) == NO_XCOMS

    def test_a_failed_xcom_push_is_left_to_a_worker(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(**kwargs: Any) -> None:
            raise RuntimeError("The metadata database is down.")

        monkeypatch.setattr(XCom, "set", fail)

        event = run_trigger(trigger(), run.task_instances["wait"])

        assert event.payload["batch"]["output_file_id"] == "file-batch_1-output"


def test_dag_test_ends_the_task_though_it_has_no_triggerer(standin: StandIn) -> None:
    standin.script("batch_1", "in_progress", "completed")

    run = run_wait("PortkeyBatchSensor", "batch_1", deferrable=True, end_from_trigger=True)

    assert run.states == {"wait": "success"}
    assert run.xcoms["wait"]["output_file_id"] == "file-batch_1-output"


class TestOnTheWorker:
    @pytest.fixture
    def deferred(self, standin: StandIn) -> Callable[..., PortkeyBatchTrigger]:
        """Execute a task until it defers; return the trigger that it defers to."""
        standin.script("batch_1", "in_progress")

        def defer(operator: Any, map_index: int = -1) -> PortkeyBatchTrigger:
            with pytest.raises(TaskDeferred) as deferred:
                operator.execute({"ti": SimpleNamespace(map_index=map_index)})
            assert isinstance(deferred.value.trigger, PortkeyBatchTrigger)
            return deferred.value.trigger

        return defer

    @pytest.fixture
    def dag(self) -> DAG:
        return DAG("ends", schedule=None, start_date=datetime(2026, 1, 1))

    def sensor(self, dag: DAG, **kwargs: Any) -> PortkeyBatchSensor:
        kwargs = {"end_from_trigger": True} | kwargs
        return PortkeyBatchSensor(task_id="wait", dag=dag, batch_id="batch_1", deferrable=True, **kwargs)

    def test_the_trigger_gets_the_task_s_policy(self, dag: DAG, deferred: Callable[..., Any]) -> None:
        policy: dict[str, Any] = {"allowed_statuses": ["expired"], "fail_on_request_errors": "never"}

        for operator in (
            self.sensor(dag, do_xcom_push=False, **policy),
            PortkeyRetrieveBatchOperator(
                task_id="retrieve",
                dag=dag,
                batch_id="batch_1",
                wait_for_completion=True,
                deferrable=True,
                end_from_trigger=True,
                do_xcom_push=False,
                **policy,
            ),
        ):
            _, kwargs = deferred(operator).serialize()
            assert policy.items() <= kwargs.items()
            assert (kwargs["end_from_trigger"], kwargs["do_xcom_push"]) == (True, False)

    @pytest.mark.parametrize(
        "parameters",
        [
            pytest.param({"outlets": [Asset("file:///answers")]}, id="outlets"),
            pytest.param({"on_success_callback": print}, id="on_success_callback"),
            pytest.param({"post_execute": lambda context, result=None: None}, id="post_execute"),
            pytest.param({"end_from_trigger": False}, id="end_from_trigger off"),
        ],
    )
    def test_a_task_with_work_left_after_success_ends_on_a_worker(
        self, parameters: dict[str, Any], dag: DAG, deferred: Callable[..., Any]
    ) -> None:
        assert deferred(self.sensor(dag, **parameters)).end_from_trigger is False

    def test_a_subclass_with_its_own_execute_complete_ends_on_a_worker(
        self, dag: DAG, deferred: Callable[..., Any]
    ) -> None:
        class WithExecuteComplete(PortkeyBatchSensor):
            def execute_complete(self, context: Any, event: Any = None) -> Any:
                return super().execute_complete(context, event)

        class WithTemplateFields(PortkeyBatchSensor):
            template_fields = ("batch_id",)

        kwargs: dict[str, Any] = {"dag": dag, "batch_id": "batch_1", "deferrable": True, "end_from_trigger": True}
        assert deferred(WithExecuteComplete(task_id="with_method", **kwargs)).end_from_trigger is False
        assert deferred(WithTemplateFields(task_id="with_fields", **kwargs)).end_from_trigger is True

    def test_a_task_with_a_map_index_template_ends_on_a_worker(self, dag: DAG, deferred: Callable[..., Any]) -> None:
        sensor = self.sensor(dag, map_index_template="{{ task.batch_id }}")
        assert deferred(sensor, map_index=0).end_from_trigger is False

    def test_a_task_with_multiple_outputs_ends_on_a_worker(self, dag: DAG, deferred: Callable[..., Any]) -> None:
        sensor = self.sensor(dag)
        sensor.multiple_outputs = True  # what TaskFlow sets
        assert deferred(sensor).end_from_trigger is False

    def test_a_task_that_another_is_mapped_over_ends_on_a_worker(self, dag: DAG, deferred: Callable[..., Any]) -> None:
        @task
        def show(item: object) -> None: ...

        with dag:
            sensor = self.sensor(dag)
            assert deferred(sensor).end_from_trigger is True
            show.expand(item=sensor.output)

        assert deferred(sensor).end_from_trigger is False
        # Airflow counts the results of a mapped task by its task instances.
        assert deferred(sensor, map_index=0).end_from_trigger is True
