"""The trigger, run on a loop of its own against real HTTP."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import threading
import time
from typing import Any

import pytest

from airflow_provider_portkey.hooks import portkey
from airflow_provider_portkey.triggers import batch
from airflow_provider_portkey.triggers.batch import PortkeyBatchTrigger
from airflow_provider_portkey.wait import Progress
from tests.conftest import set_connection
from tests.server.gateway import Gateway
from tests.server.standin import StandIn

pytestmark = pytest.mark.usefixtures("connection")


def revive(trigger: PortkeyBatchTrigger) -> PortkeyBatchTrigger:
    """Do what Airflow does between a worker and a triggerer."""
    from airflow.serialization.serialized_objects import BaseSerialization

    path, kwargs = trigger.serialize()
    stored = json.loads(json.dumps(BaseSerialization.serialize(kwargs)))
    module, _, name = path.rpartition(".")
    revived = getattr(importlib.import_module(module), name)(**BaseSerialization.deserialize(stored))
    assert isinstance(revived, PortkeyBatchTrigger)
    return revived


async def events(trigger: PortkeyBatchTrigger) -> list[Any]:
    return [event.payload async for event in trigger.run()]


def fire(trigger: PortkeyBatchTrigger) -> Any:
    [event] = asyncio.run(events(revive(trigger)))
    assert json.loads(json.dumps(event)) == event
    return event


def test_it_survives_the_way_to_a_triggerer() -> None:
    trigger = PortkeyBatchTrigger(
        batch_id="batch_1",
        portkey_conn_id="other",
        poke_interval=2.5,
        started_at=1.5,
        deadline=99.5,
        exponential_backoff=True,
        max_wait=7.0,
        end_from_trigger=True,
        allowed_statuses=["completed", "expired"],
        fail_on_request_errors="any",
        do_xcom_push=False,
        cancel_on_kill=True,
    )
    assert revive(trigger).serialize() == trigger.serialize()


def test_arguments_that_mapping_leaves_out_have_defaults() -> None:
    before = time.time()
    _, kwargs = PortkeyBatchTrigger("batch_1").serialize()
    assert before <= kwargs.pop("started_at") <= time.time()
    assert kwargs == {
        "batch_id": "batch_1",
        "portkey_conn_id": "portkey_default",
        "poke_interval": 60.0,
        "deadline": None,
        "exponential_backoff": False,
        "max_wait": None,
        "end_from_trigger": False,
        "allowed_statuses": ["completed"],
        "fail_on_request_errors": "all",
        "do_xcom_push": True,
        "cancel_on_kill": False,
    }


def test_it_fires_once_with_the_batch(standin: StandIn) -> None:
    standin.script("batch_1", "in_progress", "paused", "completed")

    event = fire(PortkeyBatchTrigger("batch_1", poke_interval=0.02))

    assert event["event"] == "ended"
    assert (event["batch"]["status"], event["batch"]["output_file_id"]) == ("completed", "file-batch_1-output")
    assert len(standin.requests) == 3


def test_neither_arguments_nor_event_hold_a_secret(standin: StandIn) -> None:
    standin.api_key = "another"
    trigger = PortkeyBatchTrigger("batch_1", poke_interval=0.02)

    text = json.dumps([trigger.serialize(), fire(trigger)])

    assert "refused" in text
    assert "pk-standin-0123456789" not in text
    assert "openai-standin" not in text


def test_a_deadline_that_passed_while_no_triggerer_ran_leaves_one_look(standin: StandIn) -> None:
    standin.script("batch_1", "in_progress")
    now = time.time()

    event = fire(PortkeyBatchTrigger("batch_1", poke_interval=60, started_at=now - 100, deadline=now - 50))

    assert event == {
        "batch_id": "batch_1",
        "event": "timeout",
        "message": "Batch batch_1 is in_progress: 40 completed, 1 failed, 100 in all",
    }
    assert len(standin.requests) == 1


def test_a_connection_that_stays_missing_ends_it_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MISSING_CONNECTION_GRACE", 0.1)
    event = fire(PortkeyBatchTrigger("batch_1", "no_such_connection", poke_interval=0.02))

    assert event["event"] == "not_found"
    assert "'no_such_connection'" in event["message"]


def test_a_secrets_backend_that_is_down_for_a_moment_does_not_end_it(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin.script("batch_1", "completed")
    monkeypatch.delenv("AIRFLOW_CONN_PORTKEY_DEFAULT")
    missed = threading.Event()
    monkeypatch.setattr(Progress, "missed", lambda *args: missed.set())

    async def come_back() -> list[Any]:
        task = asyncio.ensure_future(events(PortkeyBatchTrigger("batch_1", poke_interval=0.05)))
        await asyncio.to_thread(missed.wait, 10)
        set_connection(
            monkeypatch, host=standin.url, password=standin.api_key, extra={"virtual_key": standin.virtual_key}
        )
        return await task

    [event] = asyncio.run(come_back())
    assert event["event"] == "ended"


def test_waits_of_one_connection_share_a_session_that_the_last_one_closes(standin: StandIn) -> None:
    waits = [f"batch_{n}" for n in range(50)]
    for batch_id in waits:
        standin.script(batch_id, *["in_progress"] * 3, "completed")

    async def run_all() -> list[Any]:
        ends = await asyncio.gather(*(events(PortkeyBatchTrigger(b, poke_interval=0.05)) for b in waits))
        assert not portkey._sessions[asyncio.get_running_loop()]
        return [end[0]["event"] for end in ends]

    assert asyncio.run(run_all()) == ["ended"] * 50
    assert len(standin.requests) == 200
    assert standin.connections <= 50


def test_a_cancelled_wait_leaves_no_session_behind(standin: StandIn) -> None:
    standin.script("batch_1", "in_progress")

    async def cancel() -> None:
        task = asyncio.ensure_future(events(PortkeyBatchTrigger("batch_1", poke_interval=0.02)))
        await asyncio.to_thread(standin.wait_for, 3)
        assert portkey._sessions[asyncio.get_running_loop()]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not portkey._sessions[asyncio.get_running_loop()]

    asyncio.run(cancel())


def test_a_rotated_key_is_taken_up_in_mid_wait(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    standin.script("batch_1", *["in_progress"] * 4, "completed")

    async def rotate() -> list[Any]:
        task = asyncio.ensure_future(events(PortkeyBatchTrigger("batch_1", poke_interval=0.05)))
        await asyncio.to_thread(standin.wait_for, 2)
        set_connection(monkeypatch, host=standin.url, password="pk-new", extra={"virtual_key": standin.virtual_key})
        standin.api_key = "pk-new"
        return await task

    [event] = asyncio.run(rotate())
    assert event["event"] == "ended"


def test_its_log_tells_changes_and_not_polls(
    standin: StandIn, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin.script("batch_1", *["in_progress"] * 5, *["paused"] * 5, "completed")
    # Airflow 3 logs through structlog, which pytest does not see.
    monkeypatch.setattr(PortkeyBatchTrigger, "log", logging.getLogger("trigger"))

    with caplog.at_level("INFO", logger="trigger"):
        asyncio.run(events(PortkeyBatchTrigger("batch_1", poke_interval=0.01)))

    told = [r.getMessage().split(":")[0] for r in caplog.records if r.name == "trigger"]
    assert told == [
        "Batch batch_1 is in_progress",
        "Batch batch_1 is in_progress (the provider says 'paused')",
        "Batch batch_1",  # the warning about the unknown word
        "Batch batch_1 is completed",
    ]


@pytest.mark.parametrize("asked", [False, True])
def test_a_kill_cancels_the_batch_only_if_asked_to(
    asked: bool, gateway: Gateway, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_connection(monkeypatch, host=gateway.base_url, extra={"headers": gateway.headers(standin)})
    standin.script("batch_1", "in_progress")
    asyncio.run(revive(PortkeyBatchTrigger("batch_1", cancel_on_kill=asked)).on_kill())
    assert standin.cancelled == (["batch_1"] if asked else [])


def test_a_batch_that_a_kill_can_not_cancel_is_told_of(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(PortkeyBatchTrigger, "log", logging.getLogger("trigger"))
    standin.api_key = "another"

    asyncio.run(PortkeyBatchTrigger("batch_1", cancel_on_kill=True).on_kill())

    [told] = [r for r in caplog.records if r.name == "trigger"]
    assert told.levelname == "WARNING"
    assert told.getMessage().startswith("Batch batch_1 could not be cancelled, though its task was killed: Portkey ")
