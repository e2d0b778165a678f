"""Tasks that create a batch and wait for it; the batch never ends, so each of them is killed or times out."""

from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import dag

from airflow_provider_portkey.operators.batch import PortkeyCreateBatchOperator

CREATES = {
    "on_worker": {"retries": 0},
    # For a process that receives SIGTERM, a task that a person marked as failed has its retries left.
    "on_worker_with_retries": {},
    "on_worker_without_cancel": {"retries": 0, "cancel_on_kill": False},
    "in_trigger": {"deferrable": True},
    "in_trigger_with_cancel": {"deferrable": True, "cancel_from_trigger": True},
    "past_timeout": {"deferrable": True, "timeout": 20, "cancel_on_timeout": True},
    "past_execution_timeout": {"execution_timeout": timedelta(seconds=20), "cancel_on_timeout": True, "retries": 0},
}

#: Tasks that receive SIGTERM, and how many attempts each of them has.
ATTEMPTS = {"retried": 2, "tried_once": 1}

ARGUMENTS = {"schedule": None, "start_date": datetime(2026, 1, 1)}
ARGUMENTS["default_args"] = {"retries": 2, "retry_delay": timedelta(seconds=1)}


def create_each(tasks):
    for name, kwargs in tasks.items():
        PortkeyCreateBatchOperator(
            task_id=name,
            requests=[{"custom_id": "1", "body": {}}],
            wait_for_completion=True,
            poke_interval=1,
            **kwargs,
        )


@dag(**ARGUMENTS)
def abandoned():
    create_each(CREATES)


@dag(**ARGUMENTS)
def terminated():
    create_each({name: {"retries": attempts - 1} for name, attempts in ATTEMPTS.items()})


abandoned()
terminated()
