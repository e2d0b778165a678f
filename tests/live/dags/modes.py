"""One batch, waited for in every mode; a task after each wait uses its XCom."""

from datetime import datetime
from typing import Any

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_portkey.operators.batch import PortkeyRetrieveBatchOperator
from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor

WAITS: dict[str, tuple[Any, dict[str, Any]]] = {
    "poke": (PortkeyBatchSensor, {}),
    # Airflow 3 may fail a rescheduled task that runs again sooner.
    "reschedule": (PortkeyBatchSensor, {"mode": "reschedule", "poke_interval": 10}),
    "deferred": (PortkeyBatchSensor, {"deferrable": True}),
    "ends_from_trigger": (PortkeyBatchSensor, {"deferrable": True, "end_from_trigger": True}),
    "operator": (PortkeyRetrieveBatchOperator, {"wait_for_completion": True}),
    "operator_deferred": (PortkeyRetrieveBatchOperator, {"wait_for_completion": True, "deferrable": True}),
    "operator_ends_from_trigger": (
        PortkeyRetrieveBatchOperator,
        {"wait_for_completion": True, "deferrable": True, "end_from_trigger": True},
    ),
}


@dag(schedule=None, start_date=datetime(2026, 1, 1))
def modes():
    @task
    def use(batch):
        return batch["output_file_id"]

    for name, (operator, kwargs) in WAITS.items():
        kwargs = {"poke_interval": 1, "timeout": 600} | kwargs
        wait = operator(
            task_id=name,
            batch_id="{{ dag_run.conf['batch_id'] }}",
            portkey_conn_id="{{ dag_run.conf.get('conn_id', 'portkey_default') }}",
            **kwargs,
        )
        use.override(task_id=f"use_{name}")(wait.output)


modes()
