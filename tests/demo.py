"""
The main task, for ``make demo``: a real Airflow waits for a batch and shows its file ids.

The batch is on an embedded stand-in for Portkey. A second DAG then creates a batch there, and joins the answers to
records.

To wait for your own batch, set ``PORTKEY_API_KEY`` and ``PORTKEY_BATCH_ID``, one of ``PORTKEY_VIRTUAL_KEY``,
``PORTKEY_PROVIDER`` and ``PORTKEY_CONFIG``, and ``PORTKEY_BASE_URL`` if your gateway is not the hosted one. The demo
creates nothing there, because that costs money.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.server.standin import StandIn, batch_body

EXAMPLES = Path(__file__).parent.parent / "example_dags"


def _timeline(batch_id: str) -> list[tuple[float, dict[str, Any]]]:
    steps = [
        (0, "validating", 0, 0),
        (3, "in_progress", 120, 0),
        (6, "in_progress", 430, 3),
        (8, "finalizing", 497, 3),
        (9, "completed", 497, 3),
    ]
    return [
        (at, batch_body(batch_id, status, request_counts={"total": 500, "completed": done, "failed": failed}))
        for at, status, done, failed in steps
    ]


def main() -> int:
    """Run the example DAGs and print what they pushed to XCom."""
    with ExitStack() as stack:
        server = None
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="airflow-portkey-demo-"))
        batch_id = os.environ.get("PORTKEY_BATCH_ID", "")
        if os.environ.get("PORTKEY_API_KEY") and batch_id:
            connection, poke_interval = _own_connection(), 10.0
            say(f"Waiting for your batch {batch_id} at {connection['host'] or 'https://api.portkey.ai/v1'}.")
        else:
            server = stack.enter_context(StandIn())
            batch_id, poke_interval = "batch_demo", 1.0
            server.timeline(batch_id, _timeline(batch_id))
            connection = {
                "host": server.url,
                "password": server.api_key,
                "extra": {"virtual_key": server.virtual_key},
            }
            say(f"Waiting for {batch_id} at an embedded stand-in for Portkey, {server.base_url}.")
            say("To wait for your own batch, set PORTKEY_API_KEY, PORTKEY_BATCH_ID and PORTKEY_VIRTUAL_KEY.")
        _set_up_airflow(Path(home), {"conn_type": "portkey", **connection})

        from tests.support.airflow_run import load_dag, run_dag

        dag = load_dag("wait_for_batch")
        dag.get_task("wait").poke_interval = poke_interval
        run = run_dag(dag, {"batch_id": batch_id})
        xcoms = run.xcoms["wait"]
        print()
        say(f"The DAG run ended with state {run.state}. XComs of its task 'wait':")
        print(json.dumps(xcoms["return_value"], indent=2))
        print(f"status:         {(xcoms['return_value'] or {}).get('status')}")
        print(f"output_file_id: {xcoms['output_file_id']}")
        print(f"error_file_id:  {xcoms['error_file_id']}")
        if server is None or run.state != "success":
            return 0 if run.state == "success" else 1

        print()
        say("The whole loop: records become a batch of requests, and its answers are joined to the records.")
        server.course = [(0, "validating"), (2, "in_progress"), (4, "completed")]
        server.respond = _opinion
        dag = load_dag("answer_records")
        dag.get_task("create").poke_interval = poke_interval
        run = run_dag(dag, {"folder": f"{home}/answers"})
        say(f"The DAG run ended with state {run.state}. Its task 'join' returned:")
        print(json.dumps(run.xcoms["join"]["return_value"], indent=2))
        return 0 if run.state == "success" else 1


def _opinion(request: dict[str, Any]) -> dict[str, Any]:
    review = request["body"]["messages"][-1]["content"]
    answer = "Positive" if "works" in review else "Negative"
    return {"status_code": 200, "body": {"choices": [{"message": {"role": "assistant", "content": answer}}]}}


def say(text: str) -> None:
    """Print a line of the demo itself."""
    print(f"== {text}", flush=True)


def _own_connection() -> dict[str, object]:
    names = ("virtual_key", "provider", "config")
    values = {name: os.environ.get(f"PORTKEY_{name.upper()}") for name in names}
    return {
        "host": os.environ.get("PORTKEY_BASE_URL", ""),
        "password": os.environ["PORTKEY_API_KEY"],
        "extra": {name: value for name, value in values.items() if value},
    }


def _set_up_airflow(home: Path, connection: dict[str, object]) -> None:
    dags = home / "dags"
    shutil.copytree(EXAMPLES, dags, ignore=shutil.ignore_patterns("__pycache__"))
    os.environ.update(
        AIRFLOW_HOME=str(home),
        AIRFLOW__CORE__DAGS_FOLDER=str(dags),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{home}/airflow.db",
        AIRFLOW_CONN_PORTKEY_DEFAULT=json.dumps(connection),
        NO_PROXY=",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1"])),
        # Of Airflow's log, only the lines of the task and its trigger are shown.
        AIRFLOW__LOGGING__LOGGING_LEVEL="WARNING",
        AIRFLOW__LOGGING__NAMESPACE_LEVELS="airflow.task.operators=INFO airflow_provider_portkey=INFO task.stdout=INFO",
    )
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
