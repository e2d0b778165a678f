"""Go on with what a batch answered before it expired or was cancelled, and read the answers."""

from datetime import datetime

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.operators.batch import PortkeyRetrieveBatchOperator


@dag(schedule=None, start_date=datetime(2026, 1, 1), params={"batch_id": "batch_abc123"})
def keep_partial_results():
    retrieve = PortkeyRetrieveBatchOperator(
        task_id="retrieve",
        batch_id="{{ params.batch_id }}",
        wait_for_completion=True,
        deferrable=True,
        allowed_statuses=["completed", "expired", "cancelled"],
    )

    @task
    def read(batch):
        if batch["output_file_id"] is None:
            return 0
        hook = PortkeyHook()
        with hook.get_conn() as session:
            url = f"{hook.base_url}/files/{batch['output_file_id']}/content"
            with session.get(url, timeout=60, stream=True) as response:
                response.raise_for_status()
                return sum(1 for _ in response.iter_lines())

    read(retrieve.output)


dag_object = keep_partial_results()
