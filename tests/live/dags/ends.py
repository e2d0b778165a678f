"""Waits for a batch that ends badly, or not in time, with and without ``soft_fail``."""

from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import dag

from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor

MODES = {"poke": {}, "reschedule": {"mode": "reschedule", "poke_interval": 10}, "deferred": {"deferrable": True}}


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1),
    default_args={"retries": 2, "retry_delay": timedelta(seconds=1), "poke_interval": 1},
)
def ends():
    for mode, kwargs in MODES.items():
        for soft_fail in (False, True):
            PortkeyBatchSensor(
                task_id=f"{mode}_soft" if soft_fail else mode,
                batch_id="{{ dag_run.conf['batch_id'] }}",
                timeout=25,
                soft_fail=soft_fail,
                **kwargs,
            )


ends()
