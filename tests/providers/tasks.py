"""The package's tasks, executed without a scheduler."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from airflow_provider_portkey.answers import Answer, read_answers
from airflow_provider_portkey.operators.batch import PortkeyCreateBatchOperator, PortkeyDownloadBatchOperator
from tests.providers.provider import Provider


def create(
    provider: Provider, prompts: dict[str, str], *, task_id: str = "create", try_number: int = 1, **kwargs: Any
) -> dict[str, Any]:
    """
    Create a batch, and return it. The task has no state store, as on Airflow 2.

    :param try_number: the number of the task's attempt, which begins at 1
    """
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id=task_id, map_index=-1, try_number=try_number)
    ti.xcom_push = lambda key, value: None
    parameters = {"requests": provider.requests(prompts)} | provider.parameters | kwargs
    operator = PortkeyCreateBatchOperator(task_id=task_id, **parameters)
    context: Any = {"ti": ti}
    return operator.execute(context)


def download(batch: dict[str, Any], folder: Path, **kwargs: Any) -> tuple[dict[str, Any], list[Answer]]:
    """Download a batch's answers, and read them."""
    context: Any = {}
    operator = PortkeyDownloadBatchOperator(task_id="download", batch_id=batch["id"], path=str(folder), **kwargs)
    manifest = operator.execute(context)
    return manifest, list(read_answers(manifest))
