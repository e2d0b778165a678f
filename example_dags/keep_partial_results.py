"""Use the partial results of a batch that expired or was cancelled, and report what is missing."""

from datetime import datetime

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_portkey.operators.batch import PortkeyDownloadBatchOperator, PortkeyRetrieveBatchOperator


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1),
    params={"batch_id": "batch_abc123", "folder": "/tmp/portkey"},
)
def keep_partial_results():
    retrieve = PortkeyRetrieveBatchOperator(
        task_id="retrieve",
        batch_id="{{ params.batch_id }}",
        wait_for_completion=True,
        deferrable=True,
        allowed_statuses=["completed", "expired", "cancelled"],
    )
    download = PortkeyDownloadBatchOperator(
        task_id="download", batch_id="{{ params.batch_id }}", path="{{ params.folder }}/{{ run_id }}"
    )

    @task
    def report(manifest):
        # Some providers list the requests that ran out of time as failed, others do not list them.
        print(
            f"{manifest['answered']} requests were answered, {manifest['failed']} failed or ran out of time, "
            f"missing: {manifest['missing']}"
        )

    retrieve >> download
    report(download.output)


dag_object = keep_partial_results()
