"""A wait whose requests failed logs the commonest reasons, and ends the same whatever becomes of that."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from airflow_provider_portkey import exceptions
from airflow_provider_portkey.events import to_event
from airflow_provider_portkey.hooks import portkey
from airflow_provider_portkey.operators.batch import PortkeyCreateBatchOperator, PortkeyRetrieveBatchOperator
from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor
from tests.server.batches import output_line
from tests.server.standin import Answer, StandIn, batch_body
from tests.support.connections import set_connection
from tests.support.recorder import Recorder
from tests.support.task_instance import TaskInstance

pytestmark = pytest.mark.usefixtures("connection")

ALL, SOME = {"total": 2, "completed": 0, "failed": 2}, {"total": 3, "completed": 1, "failed": 2}
ROW = b'{"custom_id": "%d", "error": {"code": "rate_limit", "message": "Limit 10, used %d."}}\n'
ROWS = ROW % (1, 1) + ROW % (2, 2)
LOGGED = "The commonest errors in the first 2 rows of file-err:\n  2 x rate_limit: Limit …, used …."
POINTER = "The log above has the commonest errors in the first 2 rows of file-err."
#: What becomes of the error file where no reason can be read from it.
UNREADABLE = {
    "it does not exist": Answer(404, {"error": {"message": "No such file"}, "provider": "openai"}),
    "Portkey is down": Answer(503, "down"),
    "the connection breaks": Answer(how="reset"),
    "it is a page of HTML": Answer(200, b"<html>\n<p>\nTry later"),
    "it is empty": Answer(200, b""),
    "it has answers alone": Answer(200, output_line("a")),
}


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    logger = logging.Logger("recorded", logging.DEBUG)
    logger.addHandler(recorder)
    for kind in (PortkeyBatchSensor, PortkeyRetrieveBatchOperator, PortkeyCreateBatchOperator):
        monkeypatch.setattr(kind, "log", logger)
    return recorder


def end_batch(standin: StandIn, counts: Any, status: str = "completed", **fields: Any) -> None:
    fields = {"error_file_id": "file-err", "output_file_id": "file-out", "request_counts": counts} | fields
    standin.script("batch_1", Answer(body=batch_body("batch_1", status, **fields)))
    standin.files["file-err"] = ROWS


def retrieve(**parameters: Any) -> Any:
    operator = PortkeyRetrieveBatchOperator(task_id="x", batch_id="batch_1", **parameters)
    return operator.execute(TaskInstance().context)


def resume(**parameters: Any) -> Any:
    sensor = PortkeyBatchSensor(task_id="x", batch_id="batch_1", **parameters)
    event = to_event("batch_1", sensor.hook.get_batch("batch_1"))
    return sensor.execute_complete(TaskInstance().context, event)


def poke(**parameters: Any) -> Any:
    return PortkeyBatchSensor(task_id="x", batch_id="batch_1", **parameters).poke(TaskInstance().context)


WAITS = {"a retrieve operator": retrieve, "a sensor": poke, "a sensor after a deferral": resume}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_all_requests_failed(wait: Any, standin: StandIn, log: Recorder) -> None:
    end_batch(standin, ALL)
    with pytest.raises(exceptions.PortkeyRequestsFailedError) as caught:
        wait()
    assert log.messages(logging.WARNING) == [LOGGED]
    assert str(caught.value).endswith(f"\n{POINTER}")


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_some_requests_failed(wait: Any, standin: StandIn, log: Recorder) -> None:
    end_batch(standin, SOME)
    wait()
    first, second = log.messages(logging.WARNING)
    assert first == LOGGED
    assert second.startswith("Some requests of the batch failed")
    assert second.endswith(POINTER)


def test_a_batch_that_expired_with_failed_requests(standin: StandIn, log: Recorder) -> None:
    end_batch(standin, SOME, "expired")
    with pytest.raises(exceptions.PortkeyBatchExpiredError, match="The log above has the commonest errors"):
        retrieve()
    assert log.messages(logging.WARNING) == [LOGGED]


def test_a_batch_whose_errors_are_in_its_output(standin: StandIn, log: Recorder) -> None:
    end_batch(standin, ALL, error_file_id="s3://bucket/folder/", output_file_id="file-err")
    with pytest.raises(exceptions.PortkeyRequestsFailedError):
        retrieve()
    assert log.messages(logging.WARNING) == [LOGGED]


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_task_ends_the_same_where_no_reason_can_be_read(name: str, standin: StandIn, log: Recorder) -> None:
    end_batch(standin, ALL)
    standin.fail("GET", "/v1/files/file-err/content", UNREADABLE[name])
    with pytest.raises(exceptions.PortkeyRequestsFailedError) as caught:
        retrieve()
    assert "log above" not in str(caught.value)
    assert log.messages(logging.WARNING) == []
    assert len([seen for seen in standin.requests if "/files/" in seen.raw_path]) == 1


def test_no_more_than_the_first_mebibyte_is_read(standin: StandIn, log: Recorder) -> None:
    end_batch(standin, ALL)
    row = ROW % (1, 1)
    standin.generate("file-err", row, 1_000_000)
    with pytest.raises(exceptions.PortkeyRequestsFailedError):
        retrieve()
    [text] = log.messages(logging.WARNING)
    count = int(text.partition(" x ")[0].split()[-1].replace(",", ""))
    assert 2**20 / len(row) - 1 <= count <= 1.2 * 2**20 / len(row)


def test_a_file_that_trickles_does_not_hold_the_task(
    standin: StandIn, log: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portkey, "_MAX_GLANCE_SECONDS", 0.2)
    end_batch(standin, ALL)
    standin.fail("GET", "/v1/files/file-err/content", Answer(delay=30))
    with pytest.raises(exceptions.PortkeyRequestsFailedError):
        retrieve()
    [text] = [text for text in log.messages(logging.INFO) if text.startswith("Cannot read why requests failed.")]
    assert "TimeoutError" in text or "timed out" in text


def test_a_batch_without_failed_requests_has_no_file_read(standin: StandIn, log: Recorder) -> None:
    end_batch(standin, {"total": 2, "completed": 2, "failed": 0})
    retrieve()
    assert [seen.raw_path for seen in standin.requests] == ["/v1/batches/batch_1"]


def test_a_secret_in_an_error_is_redacted(standin: StandIn, log: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    standin.api_key = "without-a-digit"
    extra = {"virtual_key": standin.virtual_key}
    set_connection(monkeypatch, host=standin.url, password=standin.api_key, extra=extra)
    end_batch(standin, ALL)
    standin.files["file-err"] = b'{"custom_id": "a", "error": {"code": "x", "message": "Key without-a-digit"}}\n'
    with pytest.raises(exceptions.PortkeyRequestsFailedError):
        retrieve()
    [text] = log.messages(logging.WARNING)
    assert text.endswith("1 x x: Key ***")
