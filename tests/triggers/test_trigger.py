"""One trigger, against a real HTTP server: arguments, event, log, deadline, connection, kill."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from typing import Any

import pytest

from airflow_provider_portkey import wait
from airflow_provider_portkey.triggers.batch import PortkeyBatchTrigger
from airflow_provider_portkey.wait import Progress
from tests.server.gateway import Gateway
from tests.server.standin import StandIn
from tests.support.connections import set_connection
from tests.support.triggers import only_event, reload_trigger

pytestmark = pytest.mark.usefixtures("connection")


def fire(trigger: PortkeyBatchTrigger) -> dict[str, Any]:
    """Run a trigger as a triggerer does, and return its one event."""
    event = asyncio.run(only_event(reload_trigger(trigger)))
    assert json.loads(json.dumps(event)) == event
    return event


def test_every_argument_reaches_the_triggerer() -> None:
    trigger = PortkeyBatchTrigger(
        batch_id="batch_1",
        portkey_conn_id="other",
        headers={"x-portkey-provider-model": "m"},
        poke_interval=2.5,
        started_at=1.5,
        deadline=99.5,
        exponential_backoff=True,
        max_wait=7.0,
        end_from_trigger=True,
        allowed_statuses=["completed", "expired"],
        fail_on_request_errors="any",
        do_xcom_push=False,
        cancel_from_trigger=True,
        answered=True,
        silent_fail=True,
    )
    assert reload_trigger(trigger).serialize() == trigger.serialize()


def test_arguments_other_than_batch_id_have_defaults() -> None:
    before = time.time()
    _, kwargs = PortkeyBatchTrigger("batch_1").serialize()
    assert before <= kwargs.pop("started_at") <= time.time()
    assert kwargs == {
        "batch_id": "batch_1",
        "portkey_conn_id": "portkey_default",
        "headers": None,
        "poke_interval": 60.0,
        "deadline": None,
        "exponential_backoff": False,
        "max_wait": None,
        "end_from_trigger": False,
        "allowed_statuses": ["completed"],
        "fail_on_request_errors": "all",
        "do_xcom_push": True,
        "cancel_from_trigger": False,
        "answered": False,
        "silent_fail": False,
    }


def test_it_polls_until_the_batch_is_terminal_and_fires_once(standin: StandIn) -> None:
    standin.script("batch_1", "in_progress", "paused", "completed")

    event = fire(PortkeyBatchTrigger("batch_1", poke_interval=0.02))

    assert event["event"] == "ended"
    assert (event["batch"]["status"], event["batch"]["output_file_id"]) == ("completed", "file-batch_1-output")
    assert len(standin.requests) == 3


def test_neither_arguments_nor_event_have_a_secret(standin: StandIn) -> None:
    standin.api_key = "another"
    trigger = PortkeyBatchTrigger("batch_1", poke_interval=0.02)

    text = json.dumps([trigger.serialize(), fire(trigger)])

    assert "PortkeyRefusedError" in text
    assert "pk-standin-0123456789" not in text
    assert "openai-standin" not in text


def test_a_deadline_that_passed_while_no_triggerer_ran_leaves_one_poll(standin: StandIn) -> None:
    standin.script("batch_1", "in_progress")
    now = time.time()

    event = fire(PortkeyBatchTrigger("batch_1", poke_interval=60, started_at=now - 100, deadline=now - 50))

    assert event == {
        "batch_id": "batch_1",
        "event": "timeout",
        "last_status": "Batch batch_1 is in_progress: 40 succeeded, 1 failed, 100 in all",
    }
    assert len(standin.requests) == 1


def test_a_connection_that_stays_missing_ends_the_wait_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "MISSING_CONNECTION_GRACE", 0.1)
    event = fire(PortkeyBatchTrigger("batch_1", "no_such_connection", poke_interval=0.02))

    assert (event["event"], event["error"]) == ("error", "PortkeyConnectionNotFoundError")
    assert event["message"].startswith(
        "Connection not found: define it, or check the secrets backend ('no_such_connection')"
    )


def test_a_short_outage_of_the_secrets_backend_does_not_end_the_wait(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin.script("batch_1", "completed")
    monkeypatch.delenv("AIRFLOW_CONN_PORTKEY_DEFAULT")
    failed = threading.Event()

    def record_failure(*args: Any) -> bool:
        failed.set()
        return tolerate(*args)

    tolerate = Progress.record_failure
    monkeypatch.setattr(Progress, "record_failure", record_failure)

    async def restore_connection() -> dict[str, Any]:
        waiting = asyncio.ensure_future(only_event(PortkeyBatchTrigger("batch_1", poke_interval=0.05)))
        await asyncio.to_thread(failed.wait, 10)
        set_connection(
            monkeypatch, host=standin.url, password=standin.api_key, extra={"virtual_key": standin.virtual_key}
        )
        return await waiting

    assert asyncio.run(restore_connection())["event"] == "ended"


def test_a_rotated_key_is_used_during_the_wait(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    standin.script("batch_1", *["in_progress"] * 4, "completed")

    async def rotate() -> dict[str, Any]:
        waiting = asyncio.ensure_future(only_event(PortkeyBatchTrigger("batch_1", poke_interval=0.05)))
        await asyncio.to_thread(standin.wait_for, 2)
        set_connection(monkeypatch, host=standin.url, password="pk-new", extra={"virtual_key": standin.virtual_key})
        standin.api_key = "pk-new"
        return await waiting

    assert asyncio.run(rotate())["event"] == "ended"


def test_the_log_has_changes_and_not_every_poll(
    standin: StandIn, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin.script("batch_1", *["in_progress"] * 5, *["paused"] * 5, "completed")
    # Airflow 3 logs with structlog, which pytest does not capture.
    monkeypatch.setattr(PortkeyBatchTrigger, "log", logging.getLogger("trigger"))

    with caplog.at_level("INFO", logger="trigger"):
        asyncio.run(only_event(PortkeyBatchTrigger("batch_1", poke_interval=0.01)))

    lines = [record.getMessage().split(":")[0] for record in caplog.records if record.name == "trigger"]
    assert lines == [
        "Batch batch_1 is in_progress",
        "Batch batch_1 is in_progress (the provider's status is 'paused')",
        "Unknown status 'paused' counts as in flight, until the task's timeout (batch batch_1).",
        "Batch batch_1 is completed",
    ]


@pytest.mark.parametrize("cancel_from_trigger", [False, True])
def test_a_kill_cancels_the_batch_only_with_cancel_from_trigger(
    cancel_from_trigger: bool, gateway: Gateway, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_connection(monkeypatch, host=gateway.base_url, extra={"headers": gateway.headers(standin)})
    standin.script("batch_1", "in_progress")
    asyncio.run(reload_trigger(PortkeyBatchTrigger("batch_1", cancel_from_trigger=cancel_from_trigger)).on_kill())
    assert standin.cancelled == (["batch_1"] if cancel_from_trigger else [])


def test_a_kill_without_cancel_from_trigger_logs_that_the_batch_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(PortkeyBatchTrigger, "log", logging.getLogger("trigger"))

    with caplog.at_level("INFO", logger="trigger"):
        asyncio.run(PortkeyBatchTrigger("batch_1").on_kill())

    [line] = [record.getMessage() for record in caplog.records if record.name == "trigger"]
    assert line.startswith("The wait was ended, but batch batch_1 was not cancelled: it may go on, and be paid for.")
    assert "PortkeyCancelBatchOperator" in line


def test_a_failed_cancellation_after_a_kill_is_logged(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(PortkeyBatchTrigger, "log", logging.getLogger("trigger"))
    standin.api_key = "another"

    asyncio.run(PortkeyBatchTrigger("batch_1", cancel_from_trigger=True).on_kill())

    [record] = [record for record in caplog.records if record.name == "trigger"]
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("Could not cancel batch batch_1 after its task was killed: API key rejected")
