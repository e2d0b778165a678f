"""Runs DAGs in a real Airflow with ``dag.test()``, without a scheduler, and keeps their results."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


@dataclass
class Run:
    """The result of a DAG run."""

    state: str
    #: The state of each task instance, by task id: ``wait``, or ``wait[0]`` if it is mapped.
    states: dict[str, str] = field(default_factory=dict)
    #: The XComs of each task instance, by the same name and then by key.
    xcoms: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Our exceptions that the task of :func:`run_task` raised.
    errors: list[BaseException] = field(default_factory=list)
    #: Airflow's task instances, by the same names.
    task_instances: dict[str, Any] = field(default_factory=dict)


def dags_folder() -> Path:
    """Return the folder that Airflow reads DAGs from."""
    return Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])


def load_dag(name: str) -> Any:
    """Import ``name``.py from the DAGs folder, and return its DAG."""
    from airflow.providers.common.compat.sdk import DAG

    return next(value for value in vars(_load(name)).values() if isinstance(value, DAG))


def _load(name: str) -> ModuleType:
    path = dags_folder() / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"dag_file_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_dag(dag: Any, conf: dict[str, Any] | None = None) -> Run:
    """Run a DAG in this process until it ends, deferrals included. Its file must be in the DAGs folder."""
    result = dag.test(run_conf=conf)
    run = Run(str(result.state))
    for ti in result.get_task_instances():
        name = ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"
        run.states[name] = str(getattr(ti.state, "value", ti.state))
        run.xcoms[name] = xcoms_of(ti)
        run.task_instances[name] = ti
    return run


def xcoms_of(ti: Any) -> dict[str, Any]:
    """Return the current XComs of a task instance."""
    return {
        key: ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index)
        for key in ("return_value", "output_file_id", "error_file_id")
    }


def run_trigger(trigger: Any, ti: Any) -> Any:
    """Run a trigger until its event, with a task instance and, on Airflow 3, a supervisor, as a triggerer does."""
    trigger.task_instance = SimpleNamespace(
        dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index
    )
    try:
        from airflow.sdk.execution_time.supervisor import InProcessTestSupervisor
    except ImportError:  # Airflow 2

        async def first() -> Any:
            return await anext(trigger.run())

        return asyncio.run(first())
    return InProcessTestSupervisor.run_trigger_in_process(trigger=trigger, ti=ti)  # type: ignore[no-untyped-call]


_SOURCE = """
from contextlib import contextmanager
import datetime
from airflow.providers.common.compat.sdk import DAG
from airflow_provider_portkey.operators.batch import *
from airflow_provider_portkey.exceptions import PortkeyError
from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor

ERRORS = []

class Recorded({operator}):
    # Airflow 3.1 does not pass the exception of a task to its callbacks.
    def execute(self, context):
        with self.recording():
            return super().execute(context)

    def execute_complete(self, context, event=None):
        with self.recording():
            return super().execute_complete(context, event)

    @contextmanager
    def recording(self):
        try:
            yield
        except PortkeyError as error:
            ERRORS.append(error)
            raise

with DAG({name!r}, schedule=None, start_date=datetime.datetime(2026, 1, 1)) as dag:
    Recorded(task_id="wait", **{kwargs!r})
"""


def run_wait(operator: str, batch_id: str, **kwargs: Any) -> Run:
    """Run a DAG of one task ``wait``, of class ``operator`` with ``kwargs``, for ``batch_id``."""
    kwargs = {"batch_id": "{{ dag_run.conf['batch_id'] }}", "poke_interval": 0.2} | kwargs
    return run_task(operator, {"batch_id": batch_id}, **kwargs)


def run_task(operator: str, conf: dict[str, Any] | None = None, **kwargs: Any) -> Run:
    """Run a DAG of one task ``wait``, of class ``operator`` with ``kwargs``."""
    name = "one_wait"
    path = dags_folder() / f"{name}.py"
    path.write_text(_SOURCE.format(name=name, operator=operator, kwargs=kwargs))
    try:
        module = _load(name)
        run = run_dag(module.dag, conf)
        run.errors = module.ERRORS
        return run
    finally:
        path.unlink()
