"""Wait for a batch without holding a worker slot, then use its files."""

from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor


@dag(schedule=None, start_date=datetime(2026, 1, 1), params={"batch_id": "batch_abc123"})
def wait_for_batch():
    wait = PortkeyBatchSensor(
        task_id="wait", batch_id="{{ params.batch_id }}", deferrable=True, timeout=timedelta(hours=26)
    )

    @task
    def show(batch):
        print(f"answers: {batch['output_file_id']}, errors: {batch['error_file_id']}")

    show(wait.output)


dag_object = wait_for_batch()
