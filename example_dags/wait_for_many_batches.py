"""Wait for as many batches as an upstream task submitted: one mapped sensor each, all in the triggerer."""

from datetime import datetime

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor


@dag(schedule=None, start_date=datetime(2026, 1, 1), params={"batch_ids": ["batch_1", "batch_2"]})
def wait_for_many_batches():
    @task
    def submit(params=None):
        # Here a real DAG submits its batches and returns their ids.
        return params["batch_ids"]

    wait = PortkeyBatchSensor.partial(task_id="wait", deferrable=True).expand(batch_id=submit())

    @task
    def count(batches):
        # Each sensor returns its batch, under the names of Portkey's documentation.
        print(f"{sum(b['request_counts']['completed'] or 0 for b in batches)} requests were answered")

    count(wait.output)


dag_object = wait_for_many_batches()
