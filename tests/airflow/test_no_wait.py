"""Parameters of a wait without ``wait_for_completion``: the task would succeed at once, so the DAG file says so."""

from __future__ import annotations

import inspect
import warnings
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import conf

from airflow_provider_portkey.operators.batch import PortkeyCreateBatchOperator, PortkeyRetrieveBatchOperator

OPERATORS: dict[type[Any], dict[str, Any]] = {
    PortkeyCreateBatchOperator: {"input_file_id": "file-1"},
    PortkeyRetrieveBatchOperator: {"batch_id": "batch_1"},
}
#: Parameters that have an effect only while a task waits, with values other than their defaults.
ONLY_IN_A_WAIT: dict[str, Any] = {
    "deferrable": True,
    "end_from_trigger": True,
    "poke_interval": 300,
    "timeout": timedelta(hours=26),
    "cancel_from_trigger": True,
}
#: Also decide whether an attempt re-attaches to a batch, or whether a batch that was retrieved is good.
OTHERS: dict[str, Any] = {"allowed_statuses": ["completed", "expired"], "fail_on_request_errors": "any"}


def warnings_of(kind: type[Any], **parameters: Any) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kind(task_id="one", **OPERATORS[kind], **parameters)
    return caught


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in OPERATORS for name in ONLY_IN_A_WAIT if name in inspect.signature(kind).parameters],
)
def test_a_parameter_of_a_wait_without_a_wait_causes_a_warning_in_the_dag_file(kind: type[Any], name: str) -> None:
    [warning] = warnings_of(kind, **{name: ONLY_IN_A_WAIT[name]})
    assert str(warning.message) == f"Task 'one' does not wait: add wait_for_completion=True, or remove {name}"
    assert warning.filename == __file__


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize(
    "parameters", [{}, OTHERS, {"poke_interval": 60}, {"wait_for_completion": True, "deferrable": True, "timeout": 1}]
)
def test_other_parameters_cause_no_warning(kind: type[Any], parameters: dict[str, Any]) -> None:
    assert warnings_of(kind, **parameters) == []


@pytest.mark.parametrize("kind", OPERATORS)
def test_a_default_of_the_installation_causes_no_warning(kind: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", "True")
    assert conf.getboolean("operators", "default_deferrable")
    assert warnings_of(kind, deferrable=True) == []
