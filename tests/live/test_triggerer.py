"""Deferred waits and the triggerers that run them."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from tests.live.dags.waits import WAITS
from tests.live.deployment import IS_AIRFLOW_2, Deployment
from tests.live.host import wait_for
from tests.live.portkey import expected_xcoms
from tests.server.standin import StandIn


def test_many_deferred_waits_occupy_no_pool_slot_and_all_succeed(airflow: Deployment, standin: StandIn) -> None:
    count = 50 if IS_AIRFLOW_2 else 200  # Airflow 2 spends more than a second of CPU on each.
    ids = [f"batch_many_{n}" for n in range(count)]
    for batch_id in ids:
        standin.script(batch_id, "in_progress")

    # Every second wait ends in the triggerer.
    run = airflow.trigger("many", waits=[{"batch_id": ids[n], "end_from_trigger": n % 2 == 1} for n in range(count)])
    waits = [f"wait[{n}]" for n in range(count)]
    run.wait_until_deferred(waits, 600)
    pool = airflow.get("pools/default_pool")
    assert (pool["occupied_slots"], pool["deferred_slots"]) == (0, count)
    # The eight worker processes are free too: a second run gets them and succeeds.
    standin.script("batch_free", "completed")
    assert set(airflow.trigger("modes", batch_id="batch_free").wait(180).values()) == {"success"}
    for batch_id in ids:
        standin.script(batch_id, "completed")

    states = run.wait(600)
    assert {states[name] for name in waits} == {"success"}
    for name, batch_id in zip(waits, ids, strict=True):
        assert run.xcom(name) == expected_xcoms(batch_id)["return_value"]
    # All XComs of a wait that ended on a worker, and of one that ended in the triggerer.
    for n in (0, count - 1):
        assert run.xcoms(waits[n]) == expected_xcoms(ids[n])


@pytest.mark.skipif(IS_AIRFLOW_2, reason="the deployment of Airflow 2 has one triggerer")
def test_another_triggerer_takes_over_the_waits_of_a_killed_one(airflow: Deployment, standin: StandIn) -> None:
    standin.script("batch_taken_over", "in_progress")
    standin.script("batch_endless", "in_progress")
    run = airflow.trigger("takeover", batch_id="batch_taken_over", endless_batch_id="batch_endless")
    run.wait_until_deferred([*WAITS, "short_timeout"])

    def job_of_each_wait() -> dict[str, int]:
        jobs = {name: ti["triggerer_job"] for name, ti in run.task_instances().items()}
        return {name: job["id"] for name, job in jobs.items() if job}

    wait_for("a triggerer for each wait", lambda: len(job_of_each_wait()) == len(WAITS) + 1, 30)
    # The kills come late, so that a timeout which restarted with the takeover would end clearly after the original one.
    started = datetime.fromisoformat(run.task_instances()["short_timeout"]["start_date"])
    time.sleep(max(0.0, 25 - (datetime.now(UTC) - started).total_seconds()))
    # Each of the two triggerers is killed, so that every wait is taken over once at least.
    for number, job in enumerate(airflow.triggerer_jobs()):

        def is_taken_over(killed: int = job) -> bool:
            jobs = job_of_each_wait()
            return killed not in jobs.values() and {*WAITS} <= jobs.keys()

        airflow.kill(airflow.triggerers[number])
        airflow.start_triggerer()
        wait_for("the takeover", is_taken_over, 90)

    wait_for("the timeout", lambda: run.states()["short_timeout"] == "failed", 120)
    standin.script("batch_taken_over", "completed")
    states = run.wait()

    assert {states[name] for name in WAITS} == {"success"}
    instances = run.task_instances()
    assert {ti["try_number"] for ti in instances.values()} == {1}
    took = datetime.fromisoformat(instances["short_timeout"]["end_date"]) - started
    assert 85 <= took.total_seconds() <= 110
    assert run.wait_for_log("short_timeout", "Batch still in flight after 90 s").count("Deferring: ") == 1
    for name in WAITS:
        log = run.wait_for_log(name, "Deferring: ", "output_file_id=file-batch_taken_over-output")
        assert log.count("Deferring: ") == 1
        assert log.count("output_file_id=file-batch_taken_over-output") == 1
