"""``end_from_trigger``: a good end without a second worker slot, and when there has to be one."""

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
from tests.airflow_run import Run, run_trigger, run_wait, xcoms_of
from tests.server.standin import StandIn, batch_body

pytestmark = pytest.mark.usefixtures("airflow_db", "connection")

NOTHING = {"return_value": None, "output_file_id": None, "error_file_id": None}
ALL_FAILED = batch_body("batch_1", "completed", request_counts={"total": 3, "completed": 0, "failed": 3})


def trigger(**kwargs: Any) -> PortkeyBatchTrigger:
    return PortkeyBatchTrigger("batch_1", poke_interval=0.02, end_from_trigger=True, **kwargs)


@pytest.fixture
def run(standin: StandIn) -> Run:
    """A run whose task has nothing in XCom yet."""
    standin.script("batch_1", "completed")
    run = run_wait("PortkeyBatchSensor", "batch_1", do_xcom_push=False)
    assert run.xcoms["wait"] == NOTHING
    return run


class TestInTheTrigger:
    def test_a_good_end_ends_the_task_with_the_xcoms_of_a_worker(self, run: Run, standin: StandIn) -> None:
        worker = run_wait("PortkeyBatchSensor", "batch_1", deferrable=True)
        standin.script("batch_1", "in_progress", "completed")

        event = run_trigger(trigger(), run.task_instances["wait"])

        assert isinstance(event, TaskSuccessEvent)
        assert xcoms_of(run.task_instances["wait"]) == worker.xcoms["wait"]
        assert worker.xcoms["wait"]["output_file_id"] == "file-batch_1-output"

    def test_without_xcoms_it_ends_the_task_and_pushes_none(self, run: Run) -> None:
        assert isinstance(run_trigger(trigger(do_xcom_push=False), run.task_instances["wait"]), TaskSuccessEvent)
        assert xcoms_of(run.task_instances["wait"]) == NOTHING

    def test_an_allowed_end_is_a_good_one(self, run: Run, standin: StandIn) -> None:
        standin.script("batch_1", "expired")
        event = run_trigger(trigger(allowed_statuses=["completed", "expired"]), run.task_instances["wait"])
        assert isinstance(event, TaskSuccessEvent)

    @pytest.mark.parametrize("answer", ["expired", "failed", "cancelled", ALL_FAILED])
    def test_a_bad_end_is_for_a_worker(self, answer: Any, run: Run, standin: StandIn) -> None:
        standin.script("batch_1", answer)

        event = run_trigger(trigger(), run.task_instances["wait"])

        assert not isinstance(event, TaskSuccessEvent)
        assert event.payload["event"] == "ended"
        assert xcoms_of(run.task_instances["wait"]) == NOTHING

    def test_what_fails_in_pushing_is_for_a_worker(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(**kwargs: Any) -> None:
            raise RuntimeError("no XComs today")

        monkeypatch.setattr(XCom, "set", refuse)

        event = run_trigger(trigger(), run.task_instances["wait"])

        assert event.payload["batch"]["output_file_id"] == "file-batch_1-output"


def test_dag_test_which_has_no_triggerer_ends_it_alike(standin: StandIn) -> None:
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

    def test_the_trigger_is_told_the_task_s_policy(self, dag: DAG, deferred: Callable[..., Any]) -> None:
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
        "needs",
        [
            pytest.param({"outlets": [Asset("file:///answers")]}, id="outlets"),
            pytest.param({"on_success_callback": print}, id="on_success_callback"),
            pytest.param({"post_execute": lambda context, result=None: None}, id="post_execute"),
            pytest.param({"end_from_trigger": False}, id="not asked for"),
        ],
    )
    def test_a_task_with_more_to_do_ends_on_a_worker(
        self, needs: dict[str, Any], dag: DAG, deferred: Callable[..., Any]
    ) -> None:
        assert deferred(self.sensor(dag, **needs)).end_from_trigger is False

    def test_so_does_one_with_a_hook_of_its_own(self, dag: DAG, deferred: Callable[..., Any]) -> None:
        class Noted(PortkeyBatchSensor):
            def execute_complete(self, context: Any, event: Any = None) -> Any:
                return super().execute_complete(context, event)

        class Patient(PortkeyBatchSensor):
            template_fields = ("batch_id",)

        kwargs: dict[str, Any] = {"dag": dag, "batch_id": "batch_1", "deferrable": True, "end_from_trigger": True}
        assert deferred(Noted(task_id="noted", **kwargs)).end_from_trigger is False
        assert deferred(Patient(task_id="patient", **kwargs)).end_from_trigger is True

    def test_so_does_one_with_a_name_for_its_map_index(self, dag: DAG, deferred: Callable[..., Any]) -> None:
        sensor = self.sensor(dag, map_index_template="{{ task.batch_id }}")
        assert deferred(sensor, map_index=0).end_from_trigger is False

    def test_so_does_one_whose_result_is_taken_apart(self, dag: DAG, deferred: Callable[..., Any]) -> None:
        sensor = self.sensor(dag)
        sensor.multiple_outputs = True  # what TaskFlow sets
        assert deferred(sensor).end_from_trigger is False

    def test_so_does_one_that_another_is_mapped_over(self, dag: DAG, deferred: Callable[..., Any]) -> None:
        @task
        def show(item: object) -> None: ...

        with dag:
            sensor = self.sensor(dag)
            assert deferred(sensor).end_from_trigger is True
            show.expand(item=sensor.output)

        assert deferred(sensor).end_from_trigger is False
        # A mapped one's results are counted by its task instances.
        assert deferred(sensor, map_index=0).end_from_trigger is True
