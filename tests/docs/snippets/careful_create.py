from datetime import timedelta

from airflow_provider_portkey.operators.batch import PortkeyCreateBatchOperator

create = PortkeyCreateBatchOperator(
    task_id="create",
    input_path="s3://aws_default@bucket/requests.jsonl",
    wait_for_completion=True,
    deferrable=True,
    timeout=timedelta(hours=26),
    retries=3,
    on_unknown="fail",  # rather fail than pay for a second batch
    cancel_on_kill=False,  # a clear after the last attempt re-attaches, too
)
