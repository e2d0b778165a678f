"""Tasks that create a batch: until its answers are joined, when they are killed, and when nobody waits any longer."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

from tests.live.dag_run import DagRun
from tests.live.dags.abandoned import ATTEMPTS, CREATES
from tests.live.deployment import IS_AIRFLOW_2, Deployment
from tests.live.host import wait_for
from tests.server.standin import Answer, StandIn

RE_ATTACHING = "Re-attaching to the batch created by a previous attempt"


def test_records_become_joined_answers_and_a_cleared_run_creates_no_second_batch(
    airflow: Deployment, standin: StandIn, tmp_path: Path
) -> None:
    standin.course = [(0, "validating"), (1, "completed")]
    batches_before = len(standin.batches)
    answers = [(n, f"Answer to {n}") for n in "123"]

    run = airflow.trigger("answer_records", folder=str(tmp_path), model="m")
    states = run.wait(300)

    assert set(states.values()) == {"success"}, states
    [batch] = standin.batches[batches_before:]
    assert run.xcom("create", "batch_id") == batch.id
    run.wait_for_log("create", "Deferring: ")
    manifest = run.xcom("download")
    assert (manifest["counts_match"], manifest["missing"], manifest["output"]["lines"]) == (True, [], 3)
    assert [(row["id"], row["answer"]) for row in run.xcom("join")] == answers

    run.clear(*states)
    run.wait_for("the clear", lambda: run.task_instances()["create"]["try_number"] == 2, 120)
    states = run.wait(300)

    assert set(states.values()) == {"success"}, states
    run.wait_for_log("create", RE_ATTACHING, attempt=2)
    assert standin.batches[batches_before:] == [batch]
    assert [(row["id"], row["answer"]) for row in run.xcom("join")] == answers


def test_killed_tasks_re_attach_to_their_batches_and_never_create_a_second_one(
    airflow: Deployment, standin: StandIn, tmp_path: Path
) -> None:
    standin.course = [(0, "in_progress"), (4, "completed")]
    batches_before = len(standin.batches)
    # The delays leave time for a kill before the batch exists, and between its creation and the response.
    standin.fail("POST", "/v1/batches", *[Answer(delay=0.5)] * 10)
    standin.fail("POST", "/v1/batches", *[Answer(delay=0.5)] * 10, after=True)

    run = airflow.trigger("killed", folder=str(tmp_path))
    # Seconds after the start of a task: from before the upload until the task waits.
    delays = {n: random.uniform(0, 4) for n in range(20)}
    print("killed after", *(f"{delay:.2f}" for delay in delays.values()), "s")
    processes: dict[int, tuple[float, int]] = {}

    def all_killed() -> bool:
        for n in delays.keys() - processes.keys():
            with suppress(FileNotFoundError, ValueError):  # The file is absent, or still empty.
                processes[n] = time.monotonic(), int((tmp_path / f"{n}-1").read_text())
        for n, (started, pid) in processes.items():
            if n in delays and time.monotonic() - started >= delays[n]:
                os.kill(pid, signal.SIGKILL)
                del delays[n]
        return not delays

    wait_for("twenty kills", all_killed, 300, 0.02)
    states = run.wait(300)

    assert set(states.values()) == {"success"}, states
    batches = standin.batches[batches_before:]
    keys = [batch.body["metadata"]["airflow_attempt_key"] for batch in batches]
    assert (len(keys), len(set(keys))) == (20, 20)
    names = [f"create[{n}]" for n in range(20)]
    assert sorted(run.xcom(name, "batch_id") for name in names) == sorted(batch.id for batch in batches)

    def has_re_attached() -> bool:
        return any(RE_ATTACHING in file.read_text(errors="replace") for file in run.log_files("create"))

    wait_for("a task that re-attached", has_re_attached, 30)
    # Airflow 2 may count more attempts than there were.
    instances = run.task_instances()
    assert min(instances[name]["try_number"] for name in names) > 1


def terminate(run: DagRun, task: str) -> None:
    """Send SIGTERM as the end of a worker does: to the parent of the task's process, which passes it on.

    Airflow 2 then ends the task. Airflow 3 lets it go on, so that it has to end itself before SIGKILL follows.
    """
    pid = run.task_instances()[task]["pid"]
    parent = int(re.findall(r"PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])
    os.kill(parent, signal.SIGTERM)


def test_a_terminated_task_cancels_its_batch_unless_a_retry_is_left_which_re_attaches(
    airflow: Deployment, standin: StandIn
) -> None:
    standin.course = [(0, "in_progress")]
    batches_before, cancelled_before = len(standin.batches), len(standin.cancelled)

    run = airflow.trigger("terminated")
    run.wait_for_state("running", ATTEMPTS)
    run.wait_for_logs(ATTEMPTS, "is in_progress")
    ids = {name: run.xcom(name, "batch_id") for name in ATTEMPTS}
    for name in ATTEMPTS:
        terminate(run, name)
    run.wait_for_log("tried_once", "Requested cancellation of batch")
    run.wait_for_log("retried", "Not cancelling batch")
    run.wait_for("the retry", lambda: run.task_instances()["retried"]["try_number"] == 2, 120)
    run.wait_for_log("retried", RE_ATTACHING, "is in_progress", attempt=2)

    assert standin.cancelled[cancelled_before:] == [ids["tried_once"]]

    terminate(run, "retried")
    states = run.wait()

    assert set(states.values()) == {"failed"}, states
    run.wait_for_log("retried", "Requested cancellation of batch", attempt=2)
    assert {name: ti["try_number"] for name, ti in run.task_instances().items()} == ATTEMPTS
    assert standin.cancelled[cancelled_before:] == [ids["tried_once"], ids["retried"]]
    assert sorted(batch.id for batch in standin.batches[batches_before:]) == sorted(ids.values())


def test_an_abandoned_task_cancels_its_batch_only_where_its_parameters_say_so(
    airflow: Deployment, standin: StandIn
) -> None:
    standin.course = [(0, "in_progress")]
    cancelled_before = len(standin.cancelled)
    on_worker = ["on_worker", "on_worker_with_retries", "on_worker_without_cancel"]
    in_trigger = ["in_trigger", "in_trigger_with_cancel"]

    run = airflow.trigger("abandoned")
    run.wait_until_deferred(in_trigger)
    # A task that has polled has created its batch, and its trigger runs.
    run.wait_for_logs(CREATES, "is in_progress")
    ids = {name: run.xcom(name, "batch_id") for name in CREATES}
    for name in (*on_worker, *in_trigger):
        run.mark_failed(name)
    states = run.wait()

    expected = {"on_worker", "past_timeout", "past_execution_timeout"}
    if not IS_AIRFLOW_2:  # Airflow 2 does not call a trigger's on_kill.
        expected.add("in_trigger_with_cancel")
    assert set(states.values()) == {"failed"}, states
    assert {ti["try_number"] for ti in run.task_instances().values()} == {1}
    wait_for("the cancel calls", lambda: len(standin.cancelled) - cancelled_before >= len(expected), 30)
    time.sleep(5)  # Long enough for a cancel call that must not come.
    assert sorted(standin.cancelled[cancelled_before:]) == sorted(ids[name] for name in expected)
    run.wait_for_logs(expected, "Requested cancellation of batch")
