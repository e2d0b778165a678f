"""When Airflow may retry a task that creates a batch, and what makes its next attempt create another one."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_portkey import exceptions
from airflow_provider_portkey.attempts import METADATA_KEY
from tests.server.standin import Answer, StandIn, batch_body
from tests.support.airflow_run import Run, run_task, run_wait
from tests.support.answers import provider_error

pytestmark = pytest.mark.usefixtures("airflow_db", "connection")

CREATE: dict[str, Any] = {
    "endpoint": "/v1/embeddings",
    "requests": [{"custom_id": "r0", "body": {"model": "m", "input": "text"}}],
    "retry_delay": 0.0,
}
WAIT: dict[str, Any] = {"wait_for_completion": True, "poke_interval": 0.1}
#: What OpenAI and Azure say of a batch whose tokens exceed what may be in their queue.
ERROR = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached for m in org-1.", "param": None}
OVER_QUOTA = {"status": "failed", "errors": {"object": "list", "data": [{**ERROR, "line": None}]}}
QUOTA_FULL = "The provider's queue of batches is full"


def create(**kwargs: Any) -> Run:
    return run_task("PortkeyCreateBatchOperator", **CREATE | kwargs)


def fail_batch(standin: StandIn, batch_id: str, **fields: Any) -> None:
    """Let a batch that will be created have failed whenever it is retrieved."""
    standin.fail("GET", f"/v1/batches/{batch_id}", *[Answer(body=batch_body(batch_id, "failed", **fields))] * 9)


class TestQuota:
    """The provider's queue was full: nothing was processed or paid, and a later attempt can succeed."""

    @pytest.mark.parametrize("deferrable", [False, True], ids=["on a worker", "deferred"])
    def test_a_batch_that_fails_in_validation_is_created_again_by_a_retry(
        self, deferrable: bool, standin: StandIn
    ) -> None:
        fail_batch(standin, "batch_1001", errors=OVER_QUOTA["errors"])
        run = create(**WAIT, deferrable=deferrable, retries=1)
        assert run.states == {"wait": "success"}
        [error] = run.errors
        assert type(error) is exceptions.PortkeyQuotaError
        first_line, *details = str(error).split("\n")
        assert first_line == f"{QUOTA_FULL}: retry when others have ended"
        assert "Nothing was processed or paid." in details
        assert "token_limit_exceeded: Enqueued token limit reached" in str(error)
        assert run.xcoms["wait"]["return_value"]["id"] == "batch_1002"
        assert len(standin.batches) == 2

    def test_a_creation_that_is_refused_as_azure_does_is_repeated_by_a_retry(self, standin: StandIn) -> None:
        standin.fail("POST", "/v1/batches", Answer(400, {"error": ERROR, "provider": "azure-openai"}))
        run = create(**WAIT, retries=1)
        assert run.states == {"wait": "success"}
        [error] = run.errors
        assert type(error) is exceptions.PortkeyQuotaError
        assert str(error).startswith(f"{QUOTA_FULL} (HTTP 400): ")
        assert len(standin.batches) == 1

    def test_a_batch_that_failed_for_another_reason_fails_at_once(self, standin: StandIn) -> None:
        fail_batch(standin, "batch_1001")
        run = create(**WAIT, retries=1)
        assert run.states == {"wait": "failed"}
        assert [type(error) for error in run.errors] == [exceptions.PortkeyBatchFailedError]
        assert len(standin.batches) == 1

    @pytest.mark.parametrize(
        ("operator", "parameters"),
        [
            ("PortkeyBatchSensor", {}),
            ("PortkeyBatchSensor", {"deferrable": True}),
            ("PortkeyRetrieveBatchOperator", {"wait_for_completion": True}),
        ],
        ids=["a sensor", "a deferred sensor", "a retrieve operator"],
    )
    def test_a_task_that_owns_no_batch_fails_at_once(
        self, operator: str, parameters: dict[str, Any], standin: StandIn
    ) -> None:
        standin.script("batch_1", OVER_QUOTA)
        run = run_wait(operator, "batch_1", retries=2, retry_delay=0.0, **parameters)
        assert run.states == {"wait": "failed"}
        assert [type(error) for error in run.errors] == [exceptions.PortkeyBatchFailedError]


def test_a_refusal_of_the_file_that_was_just_uploaded_passes_with_a_retry(standin: StandIn) -> None:
    standin.fail("POST", "/v1/batches", provider_error(400, "File file-1001 is in state pending"))
    run = create(**WAIT, retries=1)
    assert run.states == {"wait": "success"}
    assert [type(error) for error in run.errors] == [exceptions.PortkeyTransientError]
    assert (len(standin.uploads), len(standin.batches)) == (2, 1)


def test_a_refusal_of_a_given_file_fails_at_once(standin: StandIn) -> None:
    run = create(requests=None, input_file_id="file-none", retries=2)
    assert run.states == {"wait": "failed"}
    assert [type(error) for error in run.errors] == [exceptions.PortkeyRefusedError]


class TestDurable:
    @pytest.mark.parametrize(("given", "has_key"), [("True", True), ("false", False), (True, True), (False, False)])
    def test_a_parameter_of_the_run_decides(self, given: Any, has_key: bool, standin: StandIn) -> None:
        conf = {"durable": given}
        run = run_task("PortkeyCreateBatchOperator", conf, **CREATE, durable="{{ dag_run.conf['durable'] }}")
        assert run.states == {"wait": "success"}
        [batch] = standin.batches
        assert (METADATA_KEY in (batch.body.get("metadata") or {})) is has_key

    def test_a_value_that_is_no_flag_is_rejected_before_anything_is_sent(self, standin: StandIn) -> None:
        run = create(durable="{{ dag.dag_id }}", retries=2)
        assert run.states == {"wait": "failed"}
        [error] = run.errors
        assert isinstance(error, exceptions.PortkeyInputError)
        assert str(error) == "Invalid parameter: durable must be true or false, got 'one_wait'\nNothing was sent."
        assert standin.requests == []
