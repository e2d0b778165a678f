"""The headers of a task, in every mode: over the connection's, never with a credential."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_portkey.exceptions import PortkeyInputError
from airflow_provider_portkey.operators import batch as operators
from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor
from airflow_provider_portkey.triggers.batch import PortkeyBatchTrigger
from tests.server.standin import StandIn
from tests.support.airflow_run import run_task
from tests.support.connections import set_connection

pytestmark = pytest.mark.usefixtures("airflow_db")

MODEL, REGION = "x-portkey-provider-model", "x-portkey-aws-region"
DEFERRED: dict[str, Any] = {"deferrable": True, "poke_interval": 0.2}
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "sensor-poke": ("PortkeyBatchSensor", {"poke_interval": 0.2}),
    "sensor-deferred": ("PortkeyBatchSensor", DEFERRED),
    "retrieve": ("PortkeyRetrieveBatchOperator", {}),
    "retrieve-deferred": ("PortkeyRetrieveBatchOperator", {"wait_for_completion": True} | DEFERRED),
    "cancel": ("PortkeyCancelBatchOperator", {}),
}
CREDENTIALS: list[tuple[str, str]] = [
    ("Authorization", "anything"),
    ("x-portkey-api-key", "anything"),
    ("x-portkey-aws-secret-access-key", "anything"),
    ("x-portkey-aws-session-token", "anything"),
    ("x-portkey-virtual-key", "anything"),
    ("x-any", "Bearer abcdef"),
    ("x-any", "sk-0123456789abcdef0123"),
]


@pytest.fixture(autouse=True)
def _connection(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    set_connection(
        monkeypatch,
        host=standin.base_url,
        password="pk-standin-0123456789",
        extra=json.dumps({"virtual_key": "openai-standin", "headers": {MODEL: "of-the-connection", REGION: "eu"}}),
    )


@pytest.mark.parametrize(("operator", "parameters"), TASKS.values(), ids=TASKS)
def test_each_call_of_a_task_has_its_headers_over_those_of_the_connection(
    operator: str, parameters: dict[str, Any], standin: StandIn
) -> None:
    waits = "deferred" in str(parameters) or "poke_interval" in parameters
    standin.script("batch_1", *["in_progress"] * waits, "completed")

    headers = {"X-Portkey-Provider-Model": "{{ dag.dag_id }}", "x-any": 1}
    run = run_task(operator, batch_id="batch_1", headers=headers, **parameters)

    assert run.states == {"wait": "success"}
    assert len(standin.batch_requests) == (2 if waits or "Cancel" in operator else 1)
    sent = [(seen.headers[MODEL], seen.headers["x-any"], seen.headers[REGION]) for seen in standin.requests]
    assert set(sent) == {("one_wait", "1", "eu")}


def test_upload_create_and_download_have_the_headers_of_their_tasks(standin: StandIn, tmp_path: Path) -> None:
    requests = [{"custom_id": "1", "body": {"model": "m", "messages": []}}]
    run = run_task(
        "PortkeyCreateBatchOperator", requests=requests, headers={MODEL: "m"}, wait_for_completion=True, **DEFERRED
    )
    batch_id = run.xcoms["wait"]["return_value"]["id"]
    run = run_task("PortkeyDownloadBatchOperator", batch_id=batch_id, path=str(tmp_path), headers={MODEL: "m"})

    assert run.states == {"wait": "success"}
    assert {seen.headers[MODEL] for seen in standin.requests} == {"m"}
    assert {"POST /v1/files", "POST /v1/batches"} <= {f"{seen.method} {seen.raw_path}" for seen in standin.requests}


@pytest.mark.parametrize(("name", "value"), CREDENTIALS, ids=[f"{name}: {value:.6}" for name, value in CREDENTIALS])
@pytest.mark.parametrize("kind", ["PortkeyBatchSensor", *operators.__all__])
def test_a_credential_is_rejected_when_the_dag_is_parsed(kind: str, name: str, value: str) -> None:
    cls = getattr(operators, kind, PortkeyBatchSensor)
    arguments: dict[str, Any] = {"batch_id": "batch_1", "path": "answers", "input_file_id": "file-1"}
    arguments = {given: arguments[given] for given in arguments.keys() & inspect.signature(cls).parameters.keys()}
    with pytest.raises(PortkeyInputError, match="put credentials into headers of the connection") as caught:
        cls(task_id="t", headers={name: value}, **arguments)
    assert value not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), CREDENTIALS, ids=[f"{name}: {value:.6}" for name, value in CREDENTIALS])
def test_no_trigger_carries_a_credential(name: str, value: str) -> None:
    with pytest.raises(PortkeyInputError, match="put credentials into headers of the connection"):
        PortkeyBatchTrigger("batch_1", headers={name: value})


@pytest.mark.parametrize(("operator", "parameters"), TASKS.values(), ids=TASKS)
def test_a_credential_from_a_template_is_rejected_before_anything_is_sent(
    operator: str, parameters: dict[str, Any], standin: StandIn
) -> None:
    headers = {"x-any": "{{ dag_run.conf['value'] }}"}
    run = run_task(operator, {"value": "Bearer sk-0123456789"}, batch_id="batch_1", headers=headers, **parameters)

    assert [type(error) for error in run.errors] == [PortkeyInputError]
    assert not standin.requests


def test_an_invalid_header_is_rejected_before_anything_is_sent(standin: StandIn) -> None:
    run = run_task("PortkeyCancelBatchOperator", batch_id="batch_1", headers={"x any": "a", "x-b": ["c"]})

    assert "2 problems" in str(run.errors[0])
    assert not standin.requests
