"""What people do to tasks that wait: clear them, mark them as failed, delete their run."""

from __future__ import annotations

import re
import time

from tests.live.dags.waits import WAITS
from tests.live.deployment import Deployment
from tests.live.host import wait_for
from tests.server.standin import StandIn


def test_clearing_failing_and_deleting_waiting_tasks_cancels_no_batch_and_logs_no_error(
    airflow: Deployment, standin: StandIn
) -> None:
    standin.course = [(0, "in_progress")]
    standin.script("batch_kept", "in_progress")
    standin.script("batch_deleted", "in_progress")
    printed_before = [len(log) for log in airflow.triggerer_logs()]
    run = airflow.trigger("waits", batch_id="batch_kept")
    deleted = airflow.trigger("waits", batch_id="batch_deleted")
    for each, batch_id in ((run, "batch_kept"), (deleted, "batch_deleted")):
        each.wait_until_deferred([*WAITS, "create"])
        each.wait_for_logs(WAITS, f"Batch {batch_id} is in_progress")
    requests_before = len(standin.requests)

    run.clear("wait_0", "create")
    run.mark_failed("wait_1")
    deleted.delete()

    def polls_of_deleted() -> int:
        return sum("batch_deleted" in request.raw_path for request in standin.requests)

    def is_silent() -> bool:
        before = polls_of_deleted()
        time.sleep(3)  # Each of its waits would poll once a second.
        return polls_of_deleted() == before

    wait_for("the last poll of the deleted run", is_silent)
    attempts = dict.fromkeys(WAITS, 1) | {"wait_0": 2, "create": 2}
    run.wait_for("the clear", lambda: {n: ti["try_number"] for n, ti in run.task_instances().items()} == attempts)
    run.wait_until_deferred(["wait_0", "create"])
    standin.script("batch_kept", "completed")
    standin.script(run.xcom("create", "batch_id"), "completed")
    states = run.wait()

    assert states == {name: "failed" if name == "wait_1" else "success" for name in states}
    # The cleared task created no second batch, and nothing was cancelled.
    assert {request.method for request in standin.requests[requests_before:]} == {"GET"}
    run.wait_for_logs(set(WAITS) - {"wait_0", "wait_1"}, "Batch batch_kept is completed")
    logs = [log[before:] for log, before in zip(airflow.triggerer_logs(), printed_before, strict=True)]
    trigger_logs = [file for each in (run, deleted) for file in each.log_files(pattern="*.trigger.*.log")]
    assert len(trigger_logs) >= 2 * len(WAITS)
    errors = r'Traceback|Unclosed|\[error |"level":"(?:error|critical)"| ERROR - |raised an exception'
    assert not re.findall(errors, "".join([*logs, *(file.read_text() for file in trigger_logs)]))
