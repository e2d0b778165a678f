"""What a batch's status means for the wait. tests/unit/test_status_words.py has every word of every provider."""

from __future__ import annotations

import logging

from airflow_provider_portkey.exceptions import (
    PortkeyBatchCancelledError,
    PortkeyBatchExpiredError,
    PortkeyBatchFailedError,
    PortkeyBatchTimeoutError,
)
from tests.server.standin import Answer, batch_body
from tests.support.answers import without
from tests.support.stacks import Stack
from tests.support.world import World
from tests.waits.case import Case, Given, Step, Then, When, on_each_stack
from tests.waits.checks import all_of, logged, result_has, took
from tests.waits.run import run_case


def batch_with_status(word: str, batch_id: str = "batch_1") -> Answer:
    """A batch without request counts, as Bedrock and Cohere return it: the word alone decides."""
    return Answer(body=without(batch_body(batch_id, "in_progress"), "request_counts") | {"status": word})


def xcoms_have(status: str, provider_status: str) -> Step:
    """Check that a bad end pushed the batch, in both words, and the ids of its files."""

    def check(world: World) -> None:
        result = world.xcoms["return_value"]
        assert (result["status"], result["provider_status"]) == (status, provider_status)
        assert {"output_file_id", "error_file_id"} <= world.xcoms.keys()

    return check


CASES: list[Case] = [
    Case(
        "in flight in the words of OpenAI, Bedrock and the managed batches, then completed",
        given=Given(batch_id="pk_batch_1"),
        when=When(
            [
                *(
                    batch_with_status(word, "pk_batch_1")
                    for word in ("validating", "InProgress", "processing_post_request_guardrails")
                ),
                "completed",
            ]
        ),
        then=Then(requests=4, warnings=0),
    ),
    Case(
        "Anthropic's 'ended' is a success",
        when=When([batch_with_status("ended")]),
        then=Then(requests=1, warnings=0, check=result_has(status="completed", provider_status="ended")),
    ),
    Case(
        "Bedrock's 'PartiallyCompleted' is an expired batch with partial results",
        when=When([batch_with_status("PartiallyCompleted")]),
        then=Then(
            error=PortkeyBatchExpiredError,
            first_line="Batch expired: add 'expired' to allowed_statuses to use its partial results",
            message_has=["Batch batch_1 is expired (the provider's status is 'partially_completed')"],
            requests=1,
            check=xcoms_have("expired", "partially_completed"),
        ),
    ),
    Case(
        "the managed batches' 'file_upload_failed' is a failure",
        given=Given(batch_id="pk_batch_1"),
        when=When([batch_with_status("file_upload_failed", "pk_batch_1")]),
        then=Then(
            error=PortkeyBatchFailedError,
            first_line="Batch failed (the provider gave no reason): check its input and the errors below",
            message_has=[
                "Batch failed (",
                "Batch pk_batch_1 is failed (the provider's status is 'file_upload_failed')",
            ],
            requests=1,
            check=xcoms_have("failed", "file_upload_failed"),
        ),
    ),
    Case(
        "Bedrock's 'Expired' is an expired batch",
        when=When([batch_with_status("Expired")]),
        then=Then(
            error=PortkeyBatchExpiredError,
            first_line="Batch expired: add 'expired' to allowed_statuses to use its partial results",
            message_has=["Batch batch_1 is expired"],
            requests=1,
            check=xcoms_have("expired", "expired"),
        ),
    ),
    Case(
        "Bedrock's 'Stopped' is a cancelled batch",
        when=When([batch_with_status("Stopped")]),
        then=Then(
            error=PortkeyBatchCancelledError,
            first_line="Batch was cancelled: add 'cancelled' to allowed_statuses to use its partial results",
            message_has=[
                "Batch batch_1 is cancelled (the provider's status is 'stopped')",
            ],
            requests=1,
            check=xcoms_have("cancelled", "stopped"),
        ),
    ),
    Case(
        "status null twice, then completed: one warning",
        when=When([{"status": None}, {"status": None}, "completed"]),
        then=Then(requests=3, warnings=1),
    ),
    *(
        Case(
            f"status is {status!r}, which is not text, then completed: one warning",
            when=When([{"status": status}, "completed"]),
            then=Then(requests=2, warnings=1),
        )
        for status in (7, True, {"state": "completed"}, ["completed"])
    ),
    Case(
        "status is empty, then completed: one warning",
        when=When([{"status": ""}, "completed"]),
        then=Then(requests=2, warnings=1),
    ),
    Case(
        "an unknown status that never changes: one warning, and the timeout ends the wait",
        when=When(["paused"], sensor={"timeout": 0.5}),
        then=Then(
            error=PortkeyBatchTimeoutError,
            first_line="Batch still in flight after 0.5 s: raise timeout, or clear the task to wait again",
            message_has=["the provider's status is 'paused'"],
            requests=range(5, 40),
            warnings=1,
            check=all_of(
                took(0.5, 2.0), logged(logging.WARNING, "Unknown status 'paused' counts as in flight", times=1)
            ),
        ),
    ),
    Case(
        "two unknown statuses, alternating: one warning for each",
        when=When(["paused", "paused", "resting", "resting", "paused", "completed"]),
        then=Then(message_has=["Unknown status 'paused'", "Unknown status 'resting'"], requests=6, warnings=2),
    ),
]


@on_each_stack(CASES)
def test_status_decides_how_the_wait_ends(case: Case, stack: Stack, world: World) -> None:
    run_case(case, stack, world)
