"""Deferred waits, one of which has little time."""

from datetime import datetime

from airflow.providers.common.compat.sdk import dag

from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor


@dag(schedule=None, start_date=datetime(2026, 1, 1), default_args={"deferrable": True, "poke_interval": 1})
def deadline():
    for number in range(12):
        PortkeyBatchSensor(task_id=f"wait_{number}", batch_id="{{ dag_run.conf['batch_id'] }}", timeout=600)
    PortkeyBatchSensor(task_id="hurried", batch_id="{{ dag_run.conf['never'] }}", timeout=60)


deadline()
