"""Successful HTTP responses whose body is not the batch: they count as a transient failure."""

from __future__ import annotations

from airflow_provider_portkey.exceptions import PortkeyBatchTimeoutError
from tests.server.standin import Answer, batch_body
from tests.support.answers import completed_body, html_page
from tests.support.stacks import Stack
from tests.support.world import World
from tests.waits.builders import recovers_from
from tests.waits.case import Case, Then, When, on_each_stack
from tests.waits.checks import no_xcoms
from tests.waits.run import run_case

UNEXPECTED = "Unexpected body ("
NOT_JSON = "not valid JSON"
CHECK_HOST = "Unexpected response from the gateway (HTTP 200): check the host of connection 'portkey_default'"
ANOTHER_BATCH = "Response about another batch: check the host of connection 'portkey_default'"


def message_is_valid_unicode(world: World) -> None:
    assert world.message.encode().decode() == world.message


CASES: list[Case] = [
    recovers_from(
        "HTTP 200 with an error object of the provider",
        Answer(body={"error": {"message": "bedrock error: throttled"}, "provider": "bedrock"}),
        "HTTP 200 from provider 'bedrock'",
        "Unexpected response from provider 'bedrock' (HTTP 200): bedrock error: throttled",
        UNEXPECTED,
    ),
    recovers_from(
        "HTTP 200 with an error as a string", Answer(body={"error": "what?"}), UNEXPECTED, CHECK_HOST, "): what?"
    ),
    recovers_from("body without status", Answer(body={"id": "batch_1", "object": "batch"}), UNEXPECTED, "no 'status'"),
    recovers_from("body without id", Answer(body={"status": "completed"}), UNEXPECTED, "no 'id'"),
    recovers_from("body that is a JSON list", Answer(body="[]"), UNEXPECTED, "expected a JSON object, got list"),
    recovers_from(
        "body that is a JSON list rewritten as an object",
        Answer(body={"0": completed_body("batch_1")}),
        UNEXPECTED,
        "no 'id'",
    ),
    recovers_from("body that is a JSON number", Answer(body="42"), UNEXPECTED, "expected a JSON object, got int"),
    recovers_from("body that is a JSON number of 5,000 digits", Answer(body="9" * 5000), UNEXPECTED, NOT_JSON),
    recovers_from("body that is JSON null", Answer(body="null"), UNEXPECTED),
    recovers_from(
        "body that is a JSON string", Answer(body='"completed"'), UNEXPECTED, "expected a JSON object, got str"
    ),
    recovers_from("body of 100,000 opening brackets", Answer(body="[" * 100_000), UNEXPECTED, NOT_JSON),
    recovers_from("truncated JSON", Answer(body='{"id": "batch_1", "status": "comp'), UNEXPECTED, NOT_JSON),
    recovers_from("HTTP 200 with an empty body", Answer(), UNEXPECTED, NOT_JSON, "): empty"),
    recovers_from(
        "HTTP 204",
        Answer(204),
        "Unexpected response from the gateway (HTTP 204)",
        UNEXPECTED,
        NOT_JSON,
        "): empty",
    ),
    recovers_from(
        "HTTP 200 with a login page", html_page(200, "Please sign in"), UNEXPECTED, NOT_JSON, "Please sign in"
    ),
    recovers_from(
        "the id of another batch",
        Answer(body=batch_body("batch_2", "completed")),
        ANOTHER_BATCH,
        "the response is about batch 'batch_2'",
    ),
    Case(
        "another batch that failed: its status is not this batch's",
        when=When([Answer(body=batch_body("batch_2", "failed"))], sensor={"timeout": 0.3}),
        then=Then(
            error=PortkeyBatchTimeoutError,
            message_has=[ANOTHER_BATCH, "the response is about batch 'batch_2'"],
            check=no_xcoms,
        ),
    ),
    recovers_from(
        "HTTP 500 whose message has half a surrogate pair, escaped",
        Answer(500, b'{"message": "cut \\ud83d"}'),
        "HTTP 500 from the gateway",
        "cut ",
        check=message_is_valid_unicode,
    ),
    recovers_from(
        "HTTP 500 whose message has half a surrogate pair, as bytes",
        Answer(500, b'{"message": "cut \xed\xa0\xbd"}'),
        "HTTP 500 from the gateway",
        "cut ",
        check=message_is_valid_unicode,
    ),
]


@on_each_stack(CASES)
def test_an_invalid_body_does_not_end_the_wait(case: Case, stack: Stack, world: World) -> None:
    run_case(case, stack, world)
