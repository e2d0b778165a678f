"""Deferred waits: next to one with a short timeout, and next to a task that creates its batch."""

from datetime import datetime

from airflow.providers.common.compat.sdk import dag

from airflow_provider_portkey.operators.batch import PortkeyCreateBatchOperator
from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor

WAITS = [f"wait_{number}" for number in range(12)]

ARGUMENTS = {"schedule": None, "start_date": datetime(2026, 1, 1)}
ARGUMENTS["default_args"] = {"deferrable": True, "poke_interval": 1, "timeout": 600}


def wait_all():
    for number, task_id in enumerate(WAITS):
        # Every second wait ends in the triggerer.
        PortkeyBatchSensor(task_id=task_id, batch_id="{{ dag_run.conf['batch_id'] }}", end_from_trigger=number % 2 == 1)


@dag(**ARGUMENTS)
def takeover():
    wait_all()
    PortkeyBatchSensor(task_id="short_timeout", batch_id="{{ dag_run.conf['endless_batch_id'] }}", timeout=90)


@dag(**ARGUMENTS)
def waits():
    wait_all()
    PortkeyCreateBatchOperator(task_id="create", requests=[{"custom_id": "1", "body": {}}], wait_for_completion=True)


takeover()
waits()
