"""Tasks that create a batch and wait for it; the batch never ends, so each of them is killed or times out."""

from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import dag

from airflow_provider_portkey.operators.batch import PortkeyCreateBatchOperator

CREATES = {
    "on_worker": {},
    "on_worker_without_cancel": {"cancel_on_kill": False},
    "in_trigger": {"deferrable": True},
    "in_trigger_with_cancel": {"deferrable": True, "cancel_from_trigger": True},
    "past_timeout": {"deferrable": True, "timeout": 20, "cancel_on_timeout": True},
    "past_execution_timeout": {"execution_timeout": timedelta(seconds=20), "cancel_on_timeout": True, "retries": 0},
}


@dag(schedule=None, start_date=datetime(2026, 1, 1), default_args={"retries": 2, "retry_delay": timedelta(seconds=1)})
def abandoned():
    for name, kwargs in CREATES.items():
        PortkeyCreateBatchOperator(
            task_id=name,
            requests=[{"custom_id": "1", "body": {}}],
            wait_for_completion=True,
            poke_interval=1,
            **kwargs,
        )


abandoned()
