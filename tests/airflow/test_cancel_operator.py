"""The cancel operator in a real Airflow."""

from __future__ import annotations

import pytest

from airflow_provider_portkey.exceptions import PortkeyRefusedError
from tests.server.standin import StandIn
from tests.support.airflow_run import run_task
from tests.support.backoff import set_max_backoff

pytestmark = pytest.mark.usefixtures("airflow_db", "connection")


@pytest.mark.parametrize(("status", "after"), [("in_progress", "cancelling"), ("completed", "completed")])
def test_the_operator_cancels_and_returns_the_batch(status: str, after: str, standin: StandIn) -> None:
    standin.script("batch_1", status)
    run = run_task("PortkeyCancelBatchOperator", batch_id="batch_1")
    assert run.states == {"wait": "success"}
    assert run.xcoms["wait"]["return_value"]["status"] == after


def test_the_operator_fails_when_the_batch_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    set_max_backoff(monkeypatch, 0.01)
    run = run_task("PortkeyCancelBatchOperator", batch_id="batch_unknown")
    assert [type(error) for error in run.errors] == [PortkeyRefusedError]
