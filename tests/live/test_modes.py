"""Good ends, bad ends and timeouts: the same in every mode."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.live.dags.bad_ends import MODES, TASKS
from tests.live.dags.modes import WAITS
from tests.live.deployment import Deployment
from tests.live.portkey import expected_xcoms
from tests.server.standin import StandIn, batch_body


def test_every_mode_pushes_the_same_xcoms_and_downstream_tasks_use_them(airflow: Deployment, standin: StandIn) -> None:
    standin.script("batch_modes", "in_progress")

    run = airflow.trigger("modes", batch_id="batch_modes")
    deferred = {wait for wait, (_, kwargs) in WAITS.items() if kwargs.get("deferrable")}
    run.wait_until_deferred(deferred)
    run.wait_for_logs(WAITS, "Batch batch_modes is in_progress", timeout=120)
    standin.script("batch_modes", "completed")

    assert set(run.wait(300).values()) == {"success"}
    completed = "Batch batch_modes is completed: 98 succeeded, 2 failed, 100 in all; "
    for wait, (_, kwargs) in WAITS.items():
        assert run.xcoms(wait) == expected_xcoms("batch_modes"), wait
        assert run.xcoms(f"use_{wait}") == {"return_value": "file-batch_modes-output"}
        log = run.wait_for_log(wait, completed)
        assert ("Deferring: polling every 1 s for at most 10 min." in log) is (wait in deferred), wait
        # Who ends the task logs the end: the trigger if it may, else the worker.
        trigger_ends = kwargs.get("end_from_trigger", False)
        pattern = "*.trigger.*.log" if trigger_ends else "attempt=1.log"
        run.wait_for_log_file(wait, pattern, completed)
        if trigger_ends:
            assert completed not in run.wait_for_log_file(wait, "attempt=1.log", "Deferring"), wait


@pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
def test_a_bad_end_fails_or_skips_without_a_retry_in_every_mode(
    status: str, airflow: Deployment, standin: StandIn
) -> None:
    batch_id = f"batch_{status}"
    standin.script(batch_id, "in_progress")

    run = airflow.trigger("bad_ends", batch_id=batch_id)
    run.wait_until_deferred(["deferred", "deferred_soft"])
    run.wait_for_logs(TASKS, f"Batch {batch_id} is in_progress", timeout=120)
    standin.script(batch_id, status)
    states = run.wait(240)

    body = batch_body(batch_id, status)
    for task in TASKS:
        assert states[task] == ("skipped" if task.endswith("_soft") else "failed"), task
        assert run.task_instances()[task]["try_number"] == 1, task
        xcoms = run.xcoms(task)
        assert xcoms["return_value"]["status"] == status, task
        assert xcoms.get("output_file_id") == body["output_file_id"], task
        assert xcoms.get("error_file_id") == body["error_file_id"], task
        run.wait_for_log(task, f"Batch {batch_id} is {status}")


def test_a_timeout_fails_or_skips_without_a_retry_in_every_mode(airflow: Deployment, standin: StandIn) -> None:
    standin.script("batch_slow", "in_progress")

    run = airflow.trigger("timeouts", batch_id="batch_slow")
    states = run.wait(240)

    started = datetime.fromisoformat(airflow.get(run.path)["start_date"])
    for mode in MODES:
        assert (states[mode], states[f"{mode}_soft"]) == ("failed", "skipped")
        for task in (mode, f"{mode}_soft"):
            ti = run.task_instances()[task]
            assert ti["try_number"] == 1, task
            assert 25 <= (datetime.fromisoformat(ti["end_date"]) - started).total_seconds() <= 75, task
            run.wait_for_log(task, "Batch still in flight after 25 s")
