"""The limits of the connection: timeout for a request in all, connect_timeout for connecting."""

from __future__ import annotations

import logging

from airflow_provider_portkey.exceptions import PortkeyOutcomeUnknownError, PortkeyTransientError
from tests.calls.case import Case, Given, Then, When, each
from tests.calls.checks import took
from tests.calls.operations import CALLS, COUNT, CREATE, DOWNLOAD, REPEATABLE, UPLOAD
from tests.calls.run import run_case
from tests.calls.world import CallWorld
from tests.server.standin import Answer


def took_two_timeouts_and_named_the_limit(world: CallWorld) -> None:
    took(0.5, 3.0)(world)
    assert "The limits are timeout=0.25 s" in world.log.messages(logging.DEBUG)[0]


def write_32_mib(world: CallWorld) -> None:
    world.content = bytes(32 * 2**20)
    world.source.write_bytes(world.content)


def shorten_file(world: CallWorld) -> None:
    world.content = world.standin.files["file-1"] = b'{"custom_id": "a"}\n'


TIMEOUTS = [
    # A byte every now and then must not keep a call alive.
    *(
        Case(
            f"{call.name}: two responses that trickle, then a normal one",
            given=Given(extra={"timeout": 0.25}),
            when=When(call, [Answer(how="trickle", pause=0.02, body=" " * 10_000)] * 2),
            then=Then(requests=3, check=took_two_timeouts_and_named_the_limit),
        )
        for call in REPEATABLE
        if call not in (DOWNLOAD, COUNT)
    ),
    *(
        Case(
            f"{call.name}: no response to any attempt",
            given=Given(extra={"timeout": 0.2}),
            when=When(call, [Answer(delay=60)] * 3),
            then=Then(
                error=PortkeyOutcomeUnknownError if call is CREATE else PortkeyTransientError,
                error_has={"origin": "network"},
                message_has=[
                    "No response from 127.0.0.1 in time: usually temporary, retry later\n",
                    "The limits are timeout=0.2 s for a request",
                ],
                requests=1 if call is CREATE else 3,
            ),
        )
        for call in CALLS
    ),
    Case(
        "upload: sending the file may take longer than connect_timeout",
        given=Given(extra={"connect_timeout": 0.2, "timeout": 5}, setup=write_32_mib),
        when=When(UPLOAD, [Answer(delay=0.6)]),
        then=Then(requests=1),
    ),
    Case(
        "download: receiving the file may take longer than timeout",
        given=Given(extra={"timeout": 0.3}, setup=shorten_file),
        when=When(DOWNLOAD, [Answer(how="trickle", pause=0.03)]),
        then=Then(requests=1, check=took(0.5, 3.0)),
    ),
    Case(
        "download: a file of which no more comes is requested again",
        given=Given(extra={"timeout": 0.2}),
        when=When(DOWNLOAD, [Answer(how="trickle", pause=60)] * 2),
        then=Then(requests=3),
    ),
    Case(
        "download: an error that trickles",
        given=Given(extra={"timeout": 0.2}),
        when=When(DOWNLOAD, [Answer(503, "x" * 1_000, how="trickle", pause=0.02)] * 3),
        then=Then(
            error=PortkeyTransientError,
            message_has=["was not complete after 0.2 s"],
            requests=3,
            check=took(0.6, 2.0),
        ),
    ),
]


@each(TIMEOUTS)
def test_a_call_is_limited_by_the_timeouts_of_its_connection(case: Case, world: CallWorld) -> None:
    run_case(case, world)
