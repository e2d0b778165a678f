"""What Airflow's loop and our own deferral would do differently: the same in every mode, or refused at parse time."""

from __future__ import annotations

import asyncio
import math
import time
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException, TaskDeferred

from airflow_provider_portkey import exceptions, wait
from airflow_provider_portkey.operators.batch import PortkeyRetrieveBatchOperator
from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor
from airflow_provider_portkey.triggers.batch import PortkeyBatchTrigger
from tests.server.standin import Answer, StandIn
from tests.support.airflow_run import Run, run_wait
from tests.support.answers import portkey_error
from tests.support.task_instance import TaskInstance
from tests.support.triggers import only_event, reload_trigger

MODES: dict[str, dict[str, Any]] = {"poke": {}, "reschedule": {"mode": "reschedule"}, "deferred": {"deferrable": True}}
PAGE = Answer(404, "404 page not found", {"content-type": "text/plain"})
UNNAMED = {
    "status": "completed",
    "output_file_id": None,
    "request_counts": {"total": 3, "completed": 3, "failed": 0},
}


def sensor(kind: type[PortkeyBatchSensor] = PortkeyBatchSensor, **kwargs: Any) -> PortkeyBatchSensor:
    return kind(task_id="wait", batch_id="batch_1", **{"poke_interval": 0.05, "timeout": 5} | kwargs)


class SkippingSensor(PortkeyBatchSensor):
    """Skips by itself."""

    def poke(self, context: Any) -> Any:
        raise AirflowSkipException("not today")


class SimpleSensor(PortkeyBatchSensor):
    """Returns what a poke of Airflow's own sensors may return."""

    def poke(self, context: Any) -> Any:
        return True


class BrokenSensor(PortkeyBatchSensor):
    """Fails with an error that is not ours."""

    def poke(self, context: Any) -> Any:
        raise RuntimeError("broken")


@pytest.mark.usefixtures("airflow_db", "connection")
@pytest.mark.parametrize("mode", MODES)
class TestEveryMode:
    def run(self, mode: str, **kwargs: Any) -> Run:
        return run_wait("PortkeyBatchSensor", "batch_1", **MODES[mode], **kwargs)

    def test_a_page_in_front_of_the_gateway_does_not_end_a_wait_that_was_answered(
        self, mode: str, standin: StandIn
    ) -> None:
        standin.script("batch_1", "in_progress", *[PAGE] * 4, "completed")
        assert self.run(mode).states == {"wait": "success"}
        assert len(standin.batch_requests) == 6

    def test_a_page_in_front_of_the_gateway_ends_a_wait_at_its_first_poll(self, mode: str, standin: StandIn) -> None:
        standin.script("batch_1", PAGE, "completed")
        run = self.run(mode, retries=2)
        assert [type(error) for error in run.errors] == [exceptions.PortkeyRefusedError]
        assert run.states == {"wait": "failed"}

    def test_a_rejected_key_is_believed_after_a_grace(
        self, mode: str, standin: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(wait, "GRACE", 1.0)
        rejected = portkey_error(401, "Portkey Error: Invalid API Key. Error Code: 03")
        standin.script("batch_1", "in_progress", rejected)
        run = self.run(mode, poke_interval=0.5)
        assert [type(error) for error in run.errors] == [exceptions.PortkeyRefusedError]
        rejections = standin.requests[1:]
        assert rejections[-1].at - rejections[0].at >= 0.9

    def test_a_key_that_is_valid_again_within_the_grace_does_not_end_the_wait(
        self, mode: str, standin: StandIn
    ) -> None:
        rejected = portkey_error(401, "Portkey Error: Invalid API Key. Error Code: 03")
        standin.script("batch_1", "in_progress", rejected, rejected, "in_progress", "completed")
        assert self.run(mode).states == {"wait": "success"}

    def test_an_output_file_that_is_named_a_moment_later_is_waited_for(self, mode: str, standin: StandIn) -> None:
        standin.script("batch_1", "in_progress", UNNAMED, UNNAMED, "completed")
        run = self.run(mode)
        assert run.xcoms["wait"]["output_file_id"] == "file-batch_1-output"

    def test_an_output_file_that_is_never_named_is_waited_for_until_the_timeout(
        self, mode: str, standin: StandIn
    ) -> None:
        standin.script("batch_1", "in_progress", UNNAMED)
        run = self.run(mode, timeout=1)
        assert run.states == {"wait": "success"}
        assert run.xcoms["wait"]["output_file_id"] is None

    @pytest.mark.parametrize("option", ["never_fail", "silent_fail"])
    def test_a_missing_connection_skips_or_is_ignored_as_the_option_says(
        self, mode: str, option: str, standin: StandIn
    ) -> None:
        run = self.run(mode, portkey_conn_id="no_such_connection", timeout=0.5, **{option: True})
        if option == "never_fail":
            assert run.states == {"wait": "skipped"}
        else:
            assert [type(error) for error in run.errors] == [exceptions.PortkeyBatchTimeoutError]


@pytest.mark.usefixtures("connection")
class TestSubclass:
    @pytest.mark.parametrize("options", [{}, {"soft_fail": True}, {"never_fail": True}, {"silent_fail": True}], ids=str)
    @pytest.mark.parametrize("mode", ["poke", "deferred"])
    def test_a_skip_of_its_poke_is_its_own(self, mode: str, options: dict[str, Any]) -> None:
        with pytest.raises(AirflowSkipException, match="not today"):
            sensor(SkippingSensor, **MODES[mode], **options).execute(TaskInstance().context)

    @pytest.mark.parametrize("mode", ["poke", "deferred"])
    def test_its_poke_may_return_true(self, mode: str) -> None:
        assert sensor(SimpleSensor, **MODES[mode]).execute(TaskInstance().context) is None

    def test_silent_fail_ignores_any_error_of_its_first_poke_before_a_deferral(self) -> None:
        with pytest.raises(TaskDeferred) as deferred:
            sensor(BrokenSensor, deferrable=True, silent_fail=True).execute(TaskInstance().context)
        assert deferred.value.trigger.silent_fail is True

    @pytest.mark.parametrize("mode", ["poke", "deferred"])
    def test_never_fail_skips_for_any_error_of_its_poke(self, mode: str) -> None:
        with pytest.raises(AirflowSkipException, match="broken"):
            sensor(BrokenSensor, never_fail=True, **MODES[mode]).execute(TaskInstance().context)


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("answered", [True, False])
class TestHandover:
    """The trigger knows whether the worker has seen the batch."""

    def test_the_worker_tells_the_trigger(self, answered: bool, standin: StandIn) -> None:
        standin.script("batch_1", "in_progress" if answered else Answer(429))
        with pytest.raises(TaskDeferred) as deferred:
            sensor(deferrable=True).execute(TaskInstance().context)
        assert reload_trigger(deferred.value.trigger).answered is answered

    def test_a_page_ends_the_wait_of_a_trigger_only_if_nobody_has_seen_the_batch(
        self, answered: bool, standin: StandIn
    ) -> None:
        standin.script("batch_1", PAGE, "completed")
        trigger = PortkeyBatchTrigger("batch_1", poke_interval=0.02, answered=answered)
        event = asyncio.run(only_event(reload_trigger(trigger)))
        assert event["event"] == ("ended" if answered else "error")


class TestPause:
    @pytest.mark.parametrize("mode", ["poke", "reschedule"])
    def test_backoff_outlives_any_number_of_pokes(self, mode: str) -> None:
        waits = sensor(mode=mode, poke_interval=60, timeout=10**6, exponential_backoff=True, max_wait=90)
        started_at = time.time()
        for poke in (1, 1024, 1025, 5000):
            assert waits._get_next_poke_interval(started_at, partial(float, 60 * poke), poke) == min(60 * poke, 90)

    @pytest.mark.parametrize("mode", MODES)
    def test_max_wait_bounds_the_interval_without_backoff_too(self, mode: str) -> None:
        waits = sensor(poke_interval=60, timeout=3600, max_wait=20, **MODES[mode])
        assert waits._get_next_poke_interval(0.0, partial(float, 1), 1) == 20

    @pytest.mark.parametrize(
        "kwargs",
        [{"max_wait": 0}, {"timeout": math.inf}, {"timeout": timedelta.max}, {"poke_interval": math.inf}],
        ids=str,
    )
    def test_a_pause_that_cannot_be_is_refused_when_the_dag_is_parsed(self, kwargs: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"must be above 0|must be at most 100 years"):
            sensor(**kwargs)
        if "max_wait" in kwargs:
            with pytest.raises(ValueError, match="max_wait must be above 0"):
                PortkeyBatchTrigger("batch_1", **kwargs)
        else:
            with pytest.raises(ValueError, match="must be at most 100 years"):
                PortkeyRetrieveBatchOperator(task_id="t", batch_id="b", wait_for_completion=True, **kwargs)


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("error", ["Trigger timeout", "Trigger/execution timeout"], ids=["Airflow 3", "Airflow 2"])
class TestDeferralTimeout:
    """Airflow ends a deferral by itself if no triggerer runs."""

    def test_the_timeout_has_the_last_known_status(self, error: str, standin: StandIn) -> None:
        standin.script("batch_1", "in_progress")
        with pytest.raises(
            exceptions.PortkeyBatchTimeoutError, match="Last known status: Batch batch_1 is in_progress"
        ):
            sensor(deferrable=True).resume_execution("__fail__", {"error": error}, TaskInstance().context)

    def test_a_batch_that_ended_meanwhile_succeeds(self, error: str, standin: StandIn) -> None:
        standin.script("batch_1", "completed")
        ti = TaskInstance()
        result = sensor(deferrable=True).resume_execution("__fail__", {"error": error}, ti.context)
        assert result["status"] == "completed" and ti.xcoms["output_file_id"] == "file-batch_1-output"

    def test_soft_fail_skips(self, error: str, standin: StandIn) -> None:
        standin.script("batch_1", "in_progress")
        with pytest.raises(AirflowSkipException, match="Batch still in flight"):
            sensor(deferrable=True, soft_fail=True).resume_execution(
                "__fail__", {"error": error}, TaskInstance().context
            )
