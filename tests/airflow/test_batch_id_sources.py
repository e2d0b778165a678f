"""The batch of a task comes from an upstream task: its id or its dict, rendered as text or as native Python values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_portkey.triggers.batch import PortkeyBatchTrigger
from tests.server.standin import StandIn, batch_body
from tests.support.airflow_run import Run, dags_folder, load_dag, run_dag

pytestmark = pytest.mark.usefixtures("airflow_db", "connection")

SOURCE = """
import datetime
from airflow.providers.common.compat.sdk import DAG, task
from airflow_provider_portkey.operators.batch import *
from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor

with DAG(
    "sources", schedule=None, start_date=datetime.datetime(2026, 1, 1), render_template_as_native_obj={native!r}
) as dag:
    @task
    def create():
        return {pushed!r}

    create = create()
    create >> {operator}(task_id="wait", batch_id={batch_id}, **{kwargs!r})
"""
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "sensor": ("PortkeyBatchSensor", {"poke_interval": 0.2}),
    "sensor-deferred": ("PortkeyBatchSensor", {"poke_interval": 0.2, "deferrable": True}),
    "retrieve": ("PortkeyRetrieveBatchOperator", {}),
    "cancel": ("PortkeyCancelBatchOperator", {}),
    "download": ("PortkeyDownloadBatchOperator", {"path": "{folder}"}),
}


def run(task: str, pushed: Any, batch_id: str, folder: Path, *, native: bool = False) -> Run:
    operator, kwargs = TASKS[task]
    kwargs = {name: str(folder) if value == "{folder}" else value for name, value in kwargs.items()}
    source = SOURCE.format(operator=operator, kwargs=kwargs, pushed=pushed, batch_id=batch_id, native=native)
    path = dags_folder() / "sources.py"
    path.write_text(source)
    try:
        return run_dag(load_dag("sources"))
    finally:
        path.unlink()


@pytest.mark.parametrize("task", TASKS)
def test_the_output_of_a_task_that_returns_a_batch_is_the_batch_id(task: str, standin: StandIn, tmp_path: Path) -> None:
    standin.script("batch_1", *["in_progress"] * ("sensor" in task), "completed")

    result = run(task, batch_body("batch_1", "in_progress"), "create", tmp_path)

    assert result.states["wait"] == "success"
    assert "/v1/batches/batch_1" in {request.raw_path.removesuffix("/cancel") for request in standin.requests}


@pytest.mark.parametrize("task", ["sensor-deferred", "retrieve", "cancel"])
@pytest.mark.parametrize(
    ("pushed", "template"),
    [
        pytest.param("12345678901234567890", "{{ ti.xcom_pull('create') }}", id="digits"),
        pytest.param({"id": "12345678901234567890"}, "{{ ti.xcom_pull('create') }}", id="a batch's dict"),
    ],
)
def test_a_dag_with_native_rendering_waits_for_the_same_batch(
    task: str, pushed: Any, template: str, standin: StandIn, tmp_path: Path
) -> None:
    standin.script("12345678901234567890", *["in_progress"] * ("sensor" in task), "completed")

    result = run(task, pushed, repr(template), tmp_path, native=True)

    assert result.states["wait"] == "success"
    assert standin.requests


@pytest.mark.parametrize("pushed", [None, [], ["batch_1", "batch_2"], {"status": "completed"}], ids=str)
def test_what_is_not_one_batch_fails_before_anything_is_sent(pushed: Any, standin: StandIn, tmp_path: Path) -> None:
    result = run("retrieve", pushed, "create", tmp_path)

    assert result.states["wait"] == "failed"
    assert not standin.requests


def test_the_trigger_stores_the_id_of_a_batch_and_not_its_dict() -> None:
    trigger = PortkeyBatchTrigger(batch_body("batch_1", "completed"))
    assert trigger.serialize()[1]["batch_id"] == "batch_1"
    assert json.dumps(trigger.serialize())
