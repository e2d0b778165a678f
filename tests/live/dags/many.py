"""Many deferred waits, one for each item of the run's configuration."""

from datetime import datetime

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor


@dag(schedule=None, start_date=datetime(2026, 1, 1))
def many():
    @task
    def waits(**context):
        return context["dag_run"].conf["waits"]

    PortkeyBatchSensor.partial(task_id="wait", deferrable=True, poke_interval=2, timeout=1800).expand_kwargs(waits())


many()
