"""Trigger events that no trigger of this provider fires: the task must fail, and push nothing to XCom."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.exceptions import PortkeyBatchTimeoutError, PortkeyEventError, PortkeyRefusedError
from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor
from tests.server.standin import batch_body
from tests.support.answers import completed_body, without
from tests.support.task_instance import TaskInstance

ENDED = {
    "batch_id": "batch_1",
    "event": "ended",
    "batch": Batch.from_dict(completed_body("batch_1")).to_dict(),
}

TIMEOUT = {"batch_id": "batch_1", "event": "timeout", "last_status": "none received"}
ERROR = {
    "batch_id": "batch_1",
    "event": "error",
    "error": "PortkeyRefusedError",
    "message": "API key rejected",
    "status_code": 401,
    "origin": "portkey",
}

#: One for each branch of ``from_event`` and of what it calls.
MALFORMED: dict[str, Any] = {
    "no event": None,
    "not a dict": [ENDED],
    "no batch id": without(ENDED, "batch_id"),
    "the batch id of another batch": ENDED | {"batch_id": "batch_2"},
    "an event of another provider": {"status": "success", "message": "completed", "batch_id": "batch_1"},
    "an unknown kind of event": ENDED | {"event": "success"},
    "a kind of event that is not hashable": ENDED | {"event": ["ended"]},
    "ended without a batch": without(ENDED, "batch"),
    "ended with a batch that is not a dict": ENDED | {"batch": [ENDED["batch"]]},
    "ended with another batch that completed": ENDED | {"batch": batch_body("batch_2", "completed")},
    "ended with another batch that failed": ENDED | {"batch": batch_body("batch_2", "failed")},
    "ended with a batch in flight": ENDED | {"batch": batch_body("batch_1", "in_progress")},
    "ended with a batch of unknown status": ENDED | {"batch": batch_body("batch_1", "paused")},
    "timeout without the last known status": without(TIMEOUT, "last_status"),
    "timeout with a last known status that is not text": TIMEOUT | {"last_status": None},
    "error without a class": without(ERROR, "error"),
    "error of a class that is not hashable": ERROR | {"error": ["PortkeyRefusedError"]},
    "error of an unknown class": ERROR | {"error": "PortkeyUnheardOfError"},
    "error of a class of another package": ERROR | {"error": "ValueError"},
    "error without a message": without(ERROR, "message"),
    "error with a message that is not text": ERROR | {"message": {"a": 1}},
    "error of a call without a status code": without(ERROR, "status_code"),
    "error of a call without an origin": without(ERROR, "origin"),
}


@pytest.mark.parametrize("event", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_event_fails_the_task(event: Any) -> None:
    sensor, ti = PortkeyBatchSensor(task_id="wait", batch_id="batch_1"), TaskInstance()
    with pytest.raises(PortkeyEventError, match=r"^Invalid trigger event: run the same version"):
        sensor.execute_complete(ti.context, event)
    assert ti.xcoms == {}


def test_a_missing_event_fails_the_task() -> None:
    sensor, ti = PortkeyBatchSensor(task_id="wait", batch_id="batch_1"), TaskInstance()
    with pytest.raises(PortkeyEventError):
        sensor.execute_complete(ti.context)
    assert ti.xcoms == {}


def test_a_well_formed_event_returns_the_batch() -> None:
    sensor, ti = PortkeyBatchSensor(task_id="wait", batch_id="batch_1"), TaskInstance()
    assert sensor.execute_complete(ti.context, ENDED) == ENDED["batch"]
    assert set(ti.xcoms) == {"output_file_id", "error_file_id"}


def test_a_well_formed_error_is_raised_as_its_class() -> None:
    sensor, ti = PortkeyBatchSensor(task_id="wait", batch_id="batch_1"), TaskInstance()
    with pytest.raises(PortkeyRefusedError, match=r"^API key rejected$") as caught:
        sensor.execute_complete(ti.context, ERROR)
    assert (caught.value.status_code, caught.value.origin) == (401, "portkey")
    assert ti.xcoms == {}


def test_a_well_formed_timeout_has_the_last_known_status() -> None:
    sensor, ti = PortkeyBatchSensor(task_id="wait", batch_id="batch_1", timeout=60), TaskInstance()
    with pytest.raises(PortkeyBatchTimeoutError, match="Last known status: none received"):
        sensor.execute_complete(ti.context, TIMEOUT)
    assert ti.xcoms == {}
