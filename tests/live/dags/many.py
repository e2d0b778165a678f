"""Many deferred waits."""

from datetime import datetime

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor


@dag(schedule=None, start_date=datetime(2026, 1, 1))
def many():
    @task
    def batches(**context):
        return context["dag_run"].conf["batch_ids"]

    PortkeyBatchSensor.partial(task_id="wait", deferrable=True, poke_interval=2, timeout=600).expand(batch_id=batches())


many()
