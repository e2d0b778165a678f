"""Waits for a batch that ends badly or too late, with and without ``soft_fail``."""

from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import dag

from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor

MODES = {"poke": {}, "reschedule": {"mode": "reschedule", "poke_interval": 10}, "deferred": {"deferrable": True}}
TASKS = [f"{mode}{kind}" for mode in MODES for kind in ("", "_soft")]


ARGUMENTS = {"schedule": None, "start_date": datetime(2026, 1, 1)}
ARGUMENTS["default_args"] = {"retries": 2, "retry_delay": timedelta(seconds=1), "poke_interval": 1}


def wait_in_each_mode(timeout):
    for mode, kwargs in MODES.items():
        for soft_fail in (False, True):
            PortkeyBatchSensor(
                task_id=f"{mode}_soft" if soft_fail else mode,
                batch_id="{{ dag_run.conf['batch_id'] }}",
                timeout=timeout,
                soft_fail=soft_fail,
                **kwargs,
            )


@dag(**ARGUMENTS)
def bad_ends():
    wait_in_each_mode(timeout=600)


@dag(**ARGUMENTS)
def timeouts():
    wait_in_each_mode(timeout=25)


bad_ends()
timeouts()
