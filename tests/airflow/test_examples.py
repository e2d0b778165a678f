"""The example DAGs run as they are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import DAGS, REPO
from tests.server.standin import StandIn
from tests.support.airflow_run import load_dag, run_dag

pytestmark = pytest.mark.usefixtures("airflow_db", "connection")

EXAMPLES = sorted((REPO / "example_dags").glob("*.py"))


def test_example_wait_for_batch(standin: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    standin.script("batch_abc123", "completed")

    run = run_dag(load_dag("wait_for_batch"))

    assert run.states == {"wait": "success", "show": "success"}
    assert run.xcoms["wait"]["output_file_id"] == "file-batch_abc123-output"
    assert "answers: file-batch_abc123-output, errors: file-batch_abc123-error" in capsys.readouterr().out


def test_example_wait_for_many_batches(standin: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    standin.script("one", "completed")
    standin.script("two", "completed")
    standin.script("three", "completed")

    run = run_dag(load_dag("wait_for_many_batches"), {"batch_ids": ["one", "two", "three"]})

    assert set(run.states.values()) == {"success"}
    ids = [run.xcoms[f"wait[{n}]"]["output_file_id"] for n in range(3)]
    assert ids == ["file-one-output", "file-two-output", "file-three-output"]
    assert "294 requests were answered" in capsys.readouterr().out


def test_example_keep_partial_results(standin: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    standin.script("batch_abc123", "expired")
    standin.files["file-batch_abc123-input"] = b"".join(b'{"custom_id": "request-%d"}\n' % n for n in range(63))

    run = run_dag(load_dag("keep_partial_results"), {"folder": str(tmp_path)})

    assert run.states == {"retrieve": "success", "download": "success", "report": "success"}
    assert "60 requests were answered, 2 failed or ran out of time, missing: ['request-62']" in capsys.readouterr().out


def test_example_answer_records(standin: StandIn, tmp_path: Path) -> None:
    standin.course = [(0, "completed")]

    run = run_dag(load_dag("answer_records"), {"folder": str(tmp_path), "model": "m"})

    assert set(run.states.values()) == {"success"}
    [batch] = standin.batches
    assert b'"model": "m"' in standin.files[batch.body["input_file_id"]]
    joined = run.xcoms["join"]["return_value"]
    assert [(row["id"], row["answer"]) for row in joined] == [(n, f"Answer to {n}") for n in "123"]


def test_example_split_large_input(standin: StandIn, tmp_path: Path) -> None:
    standin.course = [(0, "completed")]

    conf = {"folder": str(tmp_path), "requests": 25, "requests_per_batch": 10}
    run = run_dag(load_dag("split_large_input"), conf)

    assert set(run.states.values()) == {"success"}
    assert [run.xcoms[f"create[{n}]"]["return_value"]["request_counts"]["total"] for n in range(3)] == [10, 10, 5]
    assert run.xcoms["count_answers"]["return_value"] == 25
    assert len(standin.batches) == 3


def test_example_start_when_a_batch_ends() -> None:
    context = pytest.importorskip("airflow.sdk.execution_time.context", reason="Airflow 2 has no asset watchers")
    if not hasattr(context, "AssetStateStoreAccessors"):
        pytest.skip("before Airflow 3.3 there is no state store for assets")
    dag = load_dag("start_when_a_batch_ends")
    [asset] = dag.timetable.asset_condition.objects
    [watcher] = asset.watchers
    assert watcher.trigger.serialize()[1]["statuses"] == ["completed"]
    # A run that somebody starts by hand has no events.
    event = SimpleNamespace(extra={"payload": {"id": "batch_1"}})
    batch_ids = dag.get_task("batch_ids").python_callable
    assert batch_ids(triggering_asset_events={asset: [event, event]}) == ["batch_1"]


MAPPED = """
from datetime import datetime
from airflow.providers.common.compat.sdk import dag, task
from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor

@dag(schedule=None, start_date=datetime(2026, 1, 1))
def mapped():
    wait = PortkeyBatchSensor.partial(task_id="wait", poke_interval=0.1, timeout=1, deferrable={deferrable}).expand(
        batch_id=["batch_slow", "batch_good", "batch_unknown", "batch_expired"]
    )

    @task
    def ids(batches):
        return [batch["id"] for batch in batches]

    ids.override(task_id="by_default")(wait.output)
    ids.override(task_id="all_done", trigger_rule="all_done")(wait.output)

dag_object = mapped()
"""


@pytest.mark.parametrize("deferrable", [False, True], ids=["poke", "deferred"])
def test_a_task_after_failed_mapped_sensors_gets_the_batches_that_ended(deferrable: bool, standin: StandIn) -> None:
    standin.script("batch_slow", "in_progress")
    standin.script("batch_good", "completed")
    standin.script("batch_expired", "expired")
    path = DAGS / "mapped.py"
    path.write_text(MAPPED.format(deferrable=deferrable))
    try:
        run = run_dag(load_dag("mapped"))
    finally:
        path.unlink()
    assert [run.states[f"wait[{n}]"] for n in range(4)] == ["failed", "success", "failed", "failed"]
    assert run.states["by_default"] == "upstream_failed"
    assert run.xcoms["all_done"]["return_value"] == ["batch_good", "batch_expired"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_has_a_test(path: Path) -> None:
    assert f"test_example_{path.stem}" in globals()
