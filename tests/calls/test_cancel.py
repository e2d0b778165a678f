"""Cancelling: a batch that has ended, or is being cancelled, is no error."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import pytest

from airflow_provider_portkey.batch import BatchStatus
from airflow_provider_portkey.exceptions import PortkeyInputError, PortkeyRefusedError, PortkeyTransientError
from tests.calls.case import Case, Then, When, each
from tests.calls.operations import ASYNC_CANCEL, CANCEL, batch_was_cancelled
from tests.calls.run import run_case
from tests.calls.world import CallWorld
from tests.server.standin import Answer
from tests.support.answers import html_page, provider_error

#: Responses of different providers to a cancel call that they accept.
ACCEPTED = {
    "the batch": Answer(200, {"id": "batch_1", "status": "cancelling"}),
    "an empty object": Answer(200, {}),
    "status success": Answer(200, {"status": "success"}),
    "no body": Answer(204),
    "text": Answer(200, "OK"),
    "null": Answer(202, b"null"),
    "a list": Answer(200, b"[]"),
    "HTTP 246": Answer(246, {}),
}


def was_cancelled_with_one_request(world: CallWorld) -> None:
    assert world.standin.cancelled == ["batch_1"]


def is_being_cancelled(world: CallWorld) -> bool:
    return batch_was_cancelled(world) and bool(world.returned.status is BatchStatus.CANCELLING)


ANY_SUCCESS = [
    Case(
        f"{call.name}: {name}",
        when=When(call, [response], with_effect=True),
        then=Then(
            took_effect=is_being_cancelled if call is CANCEL else None,
            requests=1,
            check=was_cancelled_with_one_request,
        ),
    )
    for call, names in ((CANCEL, list(ACCEPTED)), (ASYNC_CANCEL, ["the batch", "status success", "text"]))
    for name, response in ((name, ACCEPTED[name]) for name in names)
]


@each(ANY_SUCCESS)
def test_any_response_with_success_means_that_the_cancellation_was_accepted(case: Case, world: CallWorld) -> None:
    run_case(case, world)


def test_a_batch_that_has_ended_is_returned(world: CallWorld) -> None:
    world.standin.script("batch_1", "completed")
    assert world.hook.cancel_batch("batch_1").status is BatchStatus.COMPLETED
    assert [seen.method for seen in world.standin.requests] == ["POST", "GET"]


def test_a_response_that_was_lost_is_followed_by_a_second_request(world: CallWorld) -> None:
    world.standin.fail(CANCEL.method, CANCEL.path, Answer(how="reset"), after=True)
    assert world.hook.cancel_batch("batch_1").status is BatchStatus.CANCELLING
    assert world.standin.cancelled == ["batch_1", "batch_1"]


def test_a_second_request_that_is_rejected_because_of_the_first_one_is_no_error(world: CallWorld) -> None:
    world.standin.fail(CANCEL.method, CANCEL.path, Answer(how="reset"), after=True)
    rejection = provider_error(409, "Cannot cancel a batch with status 'cancelling'.")
    world.standin.fail(CANCEL.method, CANCEL.path, rejection)
    assert world.hook.cancel_batch("batch_1").status is BatchStatus.CANCELLING


def test_a_rejection_of_a_batch_that_stays_in_flight_is_raised(world: CallWorld) -> None:
    world.standin.fail(CANCEL.method, CANCEL.path, provider_error(409, "It is too late"))
    with pytest.raises(PortkeyRefusedError, match=r"HTTP 409 .* while cancelling batch 'batch_1'.*It is too late"):
        world.hook.cancel_batch("batch_1")


def test_a_batch_that_cannot_be_retrieved_after_its_cancellation_raises_that_error(world: CallWorld) -> None:
    world.standin.fail("GET", "/v1/batches/batch_1", *[html_page(503, "down")] * 3)
    with pytest.raises(PortkeyTransientError, match="while retrieving batch 'batch_1'"):
        world.hook.cancel_batch("batch_1")
    assert world.standin.cancelled == ["batch_1"]


def test_retry_within_zero_seconds_means_one_attempt(world: CallWorld) -> None:
    world.standin.fail(CANCEL.method, CANCEL.path, html_page(503, "down"))
    world.standin.script("batch_1", "in_progress")
    with pytest.raises(PortkeyTransientError, match="while cancelling"):
        world.hook.cancel_batch("batch_1", retry_within=0)
    assert [seen.method for seen in world.standin.requests] == ["POST", "GET"]


@pytest.mark.parametrize("status", ["cancelling", "cancelled", "completed"])
def test_a_cancel_that_fails_is_no_error_if_the_batch_has_ended_or_is_being_cancelled(
    status: str, world: CallWorld
) -> None:
    world.standin.fail(CANCEL.method, CANCEL.path, *[Answer(500, {"error": {"message": "already completed"}})] * 3)
    world.standin.script("batch_1", status)
    assert world.hook.cancel_batch("batch_1").status == status


def test_a_batch_id_is_percent_encoded_exactly_once(world: CallWorld) -> None:
    arn = "arn:aws:bedrock:us-east-1:123456789012:model-invocation-job/a b"
    encoded = quote(arn, safe="")
    world.standin.script(arn, "in_progress")
    for batch_id in (arn, encoded):
        world.hook.cancel_batch(batch_id)
    assert {seen.raw_path for seen in world.standin.requests} == {
        f"/v1/batches/{encoded}/cancel",
        f"/v1/batches/{encoded}",
    }


def test_an_invalid_batch_id_raises_an_input_error_and_sends_nothing(world: CallWorld) -> None:
    with pytest.raises(PortkeyInputError, match=r"batch_id .*\nNothing was sent"):
        world.hook.cancel_batch("None")
    with pytest.raises(PortkeyInputError, match=r"batch_id .*\nNothing was sent"):
        asyncio.run(world.hook.acancel_batch("None"))
    assert not world.standin.requests


@pytest.mark.parametrize(
    "body",
    [{"error": {"message": "Not possible"}}, {"status": "failure", "message": "Not possible"}],
    ids=["an error", "an error of Portkey"],
)
def test_an_error_with_http_200_is_no_cancellation_while_the_batch_goes_on(
    body: dict[str, object], world: CallWorld
) -> None:
    world.standin.fail(CANCEL.method, CANCEL.path, *[Answer(200, body)] * 6)
    for cancel in (world.hook.cancel_batch, lambda batch_id: asyncio.run(world.hook.acancel_batch(batch_id))):
        with pytest.raises(PortkeyTransientError, match="while cancelling batch 'batch_1'"):
            cancel("batch_1")
    world.standin.fail(CANCEL.method, CANCEL.path, *[Answer(200, body)] * 3)
    world.standin.script("batch_1", "completed")
    assert world.hook.cancel_batch("batch_1").status is BatchStatus.COMPLETED
