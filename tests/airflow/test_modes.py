"""One wait in a real Airflow, in every mode: result, XComs and exception must be the same in each."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from airflow_provider_portkey import exceptions
from airflow_provider_portkey.sensors import batch as sensors
from tests.server.gateway import Gateway
from tests.server.standin import Answer, StandIn, batch_body
from tests.support.airflow_run import Run, run_wait
from tests.support.connections import set_connection

pytestmark = pytest.mark.usefixtures("airflow_db", "connection")

SENSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "sensor-poke": ("PortkeyBatchSensor", {}),
    "sensor-reschedule": ("PortkeyBatchSensor", {"mode": "reschedule"}),
    "sensor-deferred": ("PortkeyBatchSensor", {"deferrable": True}),
}
MODES = SENSORS | {
    "operator-waits": ("PortkeyRetrieveBatchOperator", {"wait_for_completion": True}),
    "operator-deferred": ("PortkeyRetrieveBatchOperator", {"wait_for_completion": True, "deferrable": True}),
}


def wait(mode: str, batch_id: str = "batch_1", **kwargs: Any) -> Run:
    operator, parameters = MODES[mode]
    return run_wait(operator, batch_id, **parameters, **kwargs)


@pytest.mark.parametrize("mode", MODES)
class TestEveryMode:
    def test_a_completed_batch_is_returned_and_its_file_ids_are_pushed(self, mode: str, standin: StandIn) -> None:
        standin.script("batch_1", "validating", "in_progress", "completed")

        run = wait(mode)

        assert run.states == {"wait": "success"}
        assert run.xcoms["wait"] == {
            "return_value": batch_body("batch_1", "completed") | {"provider_status": "completed"},
            "output_file_id": "file-batch_1-output",
            "error_file_id": "file-batch_1-error",
        }
        assert len(standin.batch_requests) == 3

    @pytest.mark.parametrize(
        ("answer", "error", "words"),
        [
            pytest.param("failed", exceptions.PortkeyBatchFailedError, "Line 1 is not valid JSON", id="failed"),
            pytest.param(
                "expired",
                exceptions.PortkeyBatchExpiredError,
                "Batch expired: add 'expired' to allowed_statuses to use its partial results",
                id="expired",
            ),
            pytest.param(
                "stopped", exceptions.PortkeyBatchCancelledError, "the provider's status is 'stopped'", id="cancelled"
            ),
            pytest.param(
                batch_body("batch_1", "completed", request_counts={"total": 3, "completed": 0, "failed": 3}),
                exceptions.PortkeyRequestsFailedError,
                "All requests of the batch failed: the error file has the reasons",
                id="completed with failed requests only",
            ),
        ],
    )
    def test_a_bad_end_fails_without_retry_after_file_ids_are_pushed(
        self, mode: str, answer: Any, error: type[Exception], words: str, standin: StandIn
    ) -> None:
        standin.script("batch_1", "in_progress", answer)
        body = answer if isinstance(answer, dict) else batch_body("batch_1", answer)

        run = wait(mode, retries=2)

        assert run.states == {"wait": "failed"}  # and not up_for_retry
        assert [type(e) for e in run.errors] == [error]
        assert words in str(run.errors[0])
        assert run.xcoms["wait"]["return_value"]["request_counts"] == body["request_counts"]
        assert {name: run.xcoms["wait"][name] for name in ("output_file_id", "error_file_id")} == {
            name: body[name] for name in ("output_file_id", "error_file_id")
        }

    def test_an_allowed_status_succeeds(self, mode: str, standin: StandIn) -> None:
        standin.script("batch_1", "in_progress", "expired")

        run = wait(mode, allowed_statuses=["completed", "expired"])

        assert run.states == {"wait": "success"}
        assert run.xcoms["wait"]["output_file_id"] == "file-batch_1-output"

    def test_a_timeout_fails_without_retry(self, mode: str, standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sensors, "_SHORTEST_RESCHEDULE", 0.0)
        standin.script("batch_1", "in_progress")

        run = wait(mode, timeout=0.5, poke_interval=60, retries=2)

        assert run.states == {"wait": "failed"}
        assert [type(e) for e in run.errors] == [exceptions.PortkeyBatchTimeoutError]
        assert str(run.errors[0]).startswith(
            "Batch still in flight after 0.5 s: raise timeout, or clear the task to wait again\n"
        )
        assert "Last known status: Batch batch_1 is in_progress" in str(run.errors[0])
        # At once and at the deadline; a trigger also polls once at a random time in between.
        assert len(standin.batch_requests) in ((2, 3) if "deferred" in mode else (2,))
        assert 0.2 < standin.batch_requests[-1].at - standin.batch_requests[0].at < 10

    def test_a_wrong_key_fails_at_once_without_retry(self, mode: str, standin: StandIn) -> None:
        standin.script("batch_1", "in_progress", "completed")
        standin.api_key = "another"

        run = wait(mode, retries=2)

        assert run.states == {"wait": "failed"}
        assert [type(e) for e in run.errors] == [exceptions.PortkeyRefusedError]
        assert str(run.errors[0]).startswith(
            "API key rejected by Portkey (HTTP 401): check the password of connection "
        )
        assert len(standin.batch_requests) == 1

    def test_a_rejected_poll_fails_during_the_wait(self, mode: str, standin: StandIn) -> None:
        forbidden = {"status": "failure", "message": "Portkey Error: Forbidden!"}
        standin.script("batch_1", "in_progress", Answer(403, forbidden))

        run = wait(mode)

        assert [type(e) for e in run.errors] == [exceptions.PortkeyRefusedError]
        assert "completions.write" in str(run.errors[0])

    def test_an_outage_does_not_end_the_wait(self, mode: str, standin: StandIn) -> None:
        down = Answer(503, "<html>down</html>", {"retry-after-ms": "50"})
        standin.script("batch_1", "in_progress", *[down] * 7, "completed")

        run = wait(mode)

        assert run.states == {"wait": "success"}
        assert len(standin.batch_requests) == 9

    def test_the_real_gateway_returns_the_batch_of_an_encoded_id(
        self, mode: str, gateway: Gateway, standin: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arn = "arn%3Aaws%3Abedrock%3Aus-east-1%3A123%3Amodel-invocation-job%2Fabc"
        body = batch_body(arn, "completed")
        standin.script("arn:aws:bedrock:us-east-1:123:model-invocation-job/abc", batch_body(arn, "in_progress"), body)
        set_connection(monkeypatch, host=gateway.base_url, extra={"headers": gateway.headers(standin)})

        run = wait(mode, arn)

        assert run.states == {"wait": "success"}
        assert run.xcoms["wait"]["return_value"] == body | {"provider_status": "completed"}
        assert {request.raw_path for request in standin.batch_requests} == {f"/v1/batches/{arn}"}


@pytest.mark.parametrize("mode", SENSORS)
@pytest.mark.parametrize("option", ["soft_fail", "never_fail"])
class TestSkipOptions:
    @pytest.mark.parametrize("end", ["expired", "timeout", "wrong key"])
    def test_the_task_is_skipped_instead_of_failed(
        self, mode: str, option: str, end: str, standin: StandIn, capfd: pytest.CaptureFixture[str]
    ) -> None:
        standin.script("batch_1", "in_progress", *(["expired"] if end == "expired" else []))
        if end == "wrong key":
            standin.api_key = "another"

        kwargs: dict[str, Any] = {option: True, "timeout": 0.5 if end == "timeout" else 30}
        run = wait(mode, **kwargs)

        assert run.states == {"wait": "skipped"}
        assert "Skipping instead of failing: " in capfd.readouterr().out
        assert run.xcoms["wait"]["output_file_id"] == ("file-batch_1-output" if end == "expired" else None)


def test_retrieving_a_batch_in_flight_without_waiting_fails_and_pushes_nothing(standin: StandIn) -> None:
    standin.script("batch_1", "in_progress")

    run = run_wait("PortkeyRetrieveBatchOperator", "batch_1")

    assert [type(e) for e in run.errors] == [exceptions.PortkeyBatchNotReadyError]
    assert str(run.errors[0]).startswith("Batch is still in_progress: set wait_for_completion=True, ")
    assert set(run.xcoms["wait"].values()) == {None}


def test_the_sensor_does_not_defer_for_a_terminal_batch(standin: StandIn) -> None:
    standin.script("batch_1", "completed")

    run = wait("sensor-deferred", poke_interval=60)

    assert run.states == {"wait": "success"}
    assert len(standin.batch_requests) == 1


@pytest.mark.parametrize(("mode", "intervals"), [("poke", [60, 40, 3, 0]), ("reschedule", [60, 40, 10, 10])])
def test_the_last_poll_is_at_the_deadline_but_never_within_10_s_of_a_reschedule(
    mode: str, intervals: list[float]
) -> None:
    sensor = sensors.PortkeyBatchSensor(task_id="wait", batch_id="b", mode=mode, poke_interval=60, timeout=100)

    waited = (0.0, 60.0, 97.0, 101.0)
    assert [sensor._get_next_poke_interval(0.0, partial(float, w), 1) for w in waited] == intervals
