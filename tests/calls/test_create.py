"""Creating a batch: no batch is created, and paid for, twice."""

from __future__ import annotations

import json

import pytest

from airflow_provider_portkey.batch import BatchStatus
from airflow_provider_portkey.exceptions import (
    PortkeyInputError,
    PortkeyOutcomeUnknownError,
    PortkeyTransientError,
)
from tests.calls.case import Case, Given, Then, When, each
from tests.calls.operations import CREATE
from tests.calls.run import run_case
from tests.calls.world import ENDPOINT, CallWorld
from tests.server.standin import HOST, Answer, batch_body
from tests.support.answers import html_page, portkey_error, provider_error, raw_answer
from tests.support.dns import make_host_unresolvable
from tests.support.tls import tls_server

RATE_LIMIT = portkey_error(429, "slow down")
#: Responses after which the batch may have been created.
INCONCLUSIVE = {
    "connection reset": Answer(how="reset"),
    "connection closed without a response": Answer(body=b"", how="raw"),
    "response cut short": Answer(200, batch_body("batch_9"), how="truncate"),
    "HTTP 103 before a response": Answer(
        body=b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        + raw_answer(b'{"id": "batch_9", "status": "validating"}'),
        how="raw",
    ),
    "HTTP 102, and the connection is closed": Answer(body=b"HTTP/1.1 102 Processing\r\n\r\n", how="raw"),
    "HTTP 408": Answer(408, {"error": {"type": "timeout_error"}}),
    "HTTP 500 of the provider": provider_error(500, "broken"),
    "HTTP 503 with HTML": html_page(503, "down"),
    "HTTP 503 with Retry-After": Answer(503, headers={"retry-after": "0"}),
    "HTTP 200 with an error": Answer(200, {"error": {"message": "No luck"}, "provider": "bedrock"}),
    "text": Answer(200, "OK"),
    "an empty body": Answer(200, ""),
    "null": Answer(200, b"null"),
    "a list": Answer(200, b"[]"),
    "no id": Answer(200, {"object": "batch", "status": "validating"}),
    "a number as id": Answer(200, {"id": 5, "status": "validating"}),
    "a body without end": Answer(200, {"id": "batch_9"}, how="flood"),
}
UNUSUAL_RESPONSES = {
    "the id alone": Answer(200, {"id": "batch_9", "object": "batch"}),
    "HTTP 246": Answer(246, batch_body("batch_9", "validating")),
    "JSON as text": Answer(200, json.dumps(batch_body("batch_9", "validating"))),
    "status null": Answer(200, batch_body("batch_9", "validating") | {"status": None}),
}


def unknown_outcome(name: str, response: Answer, *, with_effect: bool = False) -> Case:
    """Build a case of a request that must not be sent again."""
    return Case(
        name,
        given=Given(setup=CallWorld.use_hook),
        when=When(CREATE, [response], with_effect=with_effect),
        then=Then(
            error=PortkeyOutcomeUnknownError,
            message_has=[
                "The call failed, but the batch may exist: search for it before creating another\n",
                "creating a batch from file 'file-in'",
            ],
            requests=1,
        ),
    )


def returned_batch_9(world: CallWorld) -> bool:
    batch = world.returned
    return bool((batch.id, batch.status) == ("batch_9", BatchStatus.VALIDATING))


UNKNOWN_OUTCOMES = [
    *(unknown_outcome(*response) for response in INCONCLUSIVE.items()),
    unknown_outcome("connection reset, and the batch was created", Answer(how="reset"), with_effect=True),
]
RATE_LIMITS = [
    *(
        Case(
            f"rate limited {count} times, then accepted",
            when=When(CREATE, [RATE_LIMIT] * count),
            then=Then(requests=count + 1),
        )
        for count in (1, 2)
    ),
    Case(
        "rate limited three times",
        when=When(CREATE, [RATE_LIMIT] * 3),
        then=Then(
            error=PortkeyTransientError,
            message_has=["Rate limited by Portkey (HTTP 429): temporary, retry later\n"],
            requests=3,
        ),
    ),
    Case(
        "rate limited once, then the connection is reset",
        when=When(CREATE, [RATE_LIMIT, Answer(how="reset")]),
        then=Then(error=PortkeyOutcomeUnknownError, requests=2),
    ),
]
ACCEPTED = [
    Case(
        name,
        when=When(CREATE, [response], with_effect=True),
        then=Then(took_effect=returned_batch_9, requests=1),
    )
    for name, response in UNUSUAL_RESPONSES.items()
]


def serve_expired_certificate(world: CallWorld) -> None:
    world.standin = world.serve_files(tls_server(expired=True)(world))
    world.set_connection(verify=str(world.folder / "ca.pem"))


def refuse_tunnels(world: CallWorld) -> None:
    world.proxy = world.serve_proxy(refuses=True)
    world.set_connection(host=f"https://{HOST}:1", proxy=world.proxy.url)


def three_tunnels_were_asked_for(world: CallWorld) -> None:
    assert len(world.proxy.heads) == 3


NOT_SENT = [
    Case(
        name,
        given=Given(setup=setup),
        when=When(CREATE),
        then=Then(
            error=PortkeyTransientError,
            error_has={"was_sent": False, "origin": "network"},
            message_has=message_has,
            requests=0,
            check=three_tunnels_were_asked_for if setup is refuse_tunnels else None,
        ),
    )
    for name, setup, message_has in [
        ("host unknown to DNS", make_host_unresolvable, []),
        ("expired certificate", serve_expired_certificate, ["certificate has expired"]),
        (
            "proxy down, plain HTTP",
            lambda world: world.set_connection(host="http://127.0.0.2:1", proxy=f"http://{HOST}:1"),
            [],
        ),
        (
            "proxy down, HTTPS",
            lambda world: world.set_connection(host="https://127.0.0.2:1", proxy=f"http://{HOST}:1"),
            [],
        ),
        ("proxy that opens no tunnel", refuse_tunnels, []),
    ]
]


@each(UNKNOWN_OUTCOMES)
def test_a_batch_that_may_have_been_created_is_not_created_again(case: Case, world: CallWorld) -> None:
    run_case(case, world)


@each(RATE_LIMITS)
def test_a_rate_limited_creation_is_repeated(case: Case, world: CallWorld) -> None:
    run_case(case, world)


@each(NOT_SENT)
def test_a_creation_that_was_not_sent_raises_a_transient_error(case: Case, world: CallWorld) -> None:
    run_case(case, world)


@each(ACCEPTED)
def test_a_creation_accepts_an_unusual_response(case: Case, world: CallWorld) -> None:
    run_case(case, world)


def test_a_proxy_that_hangs_up_after_it_received_the_request_leaves_the_outcome_unknown(world: CallWorld) -> None:
    world.set_connection(host="http://portkey.example", proxy=world.standin.url)
    world.standin.fail("POST", ".*/v1/batches", *[Answer(how="reset")] * 3)
    with pytest.raises(PortkeyOutcomeUnknownError):
        world.create_batch()
    assert len(world.standin.requests) == 1


def test_after_an_unknown_outcome_the_next_call_reads_the_connection_again(world: CallWorld) -> None:
    world.use_hook()
    world.standin.fail("POST", "/v1/batches", Answer(how="reset"))
    with pytest.raises(PortkeyOutcomeUnknownError):
        world.create_batch()
    world.move_server()
    world.create_batch()
    assert len(world.standin.batches) == 1


def test_a_creation_sends_its_fields_without_those_that_are_none(world: CallWorld) -> None:
    batch = world.create_batch(metadata={"a": "b"}, extra_body={"model": "m", "role_arn": None})
    [created] = world.standin.batches
    assert created.body == {
        "input_file_id": "file-in",
        "endpoint": ENDPOINT,
        "completion_window": "24h",
        "metadata": {"a": "b"},
        "model": "m",
    }
    assert world.standin.requests[0].headers["content-type"] == "application/json"
    assert (batch.id, batch.status, batch.input_file_id) == (created.id, "in_progress", "file-in")


def test_an_invalid_creation_raises_an_input_error_and_sends_nothing(world: CallWorld) -> None:
    with pytest.raises(
        PortkeyInputError, match="input_file_id is None: the upstream task pushed no value to XCom\nNothing was sent"
    ):
        world.create_batch(input_file_id=None)
    assert not world.standin.connections
