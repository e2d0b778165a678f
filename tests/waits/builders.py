"""Builds the two commonest kinds of cases, and what they are answered."""

from __future__ import annotations

from airflow_provider_portkey.exceptions import PortkeyRefusedError
from tests.server.standin import Answer, Scripted
from tests.support.answers import html_page, portkey_error
from tests.support.stacks import STACKS, Stack
from tests.waits.case import Case, Given, Step, Then, When

#: Two transient failures that differ in who failed: the gateway, and Portkey.
GATEWAY_503 = html_page(503, "down")
PORTKEY_500 = portkey_error(500, "Something went wrong")
#: In the warning of a poll that failed.
STILL_WAITING = "Still waiting: "
#: In the message of each failed poll: what was asked for, and with which connection.
THE_CALL = "while retrieving batch 'batch_1' (connection 'portkey_default', http"


def recovers_from(
    name: str,
    failure: Scripted,
    *message_has: str,
    times: int = 4,
    given: Given = Given(),  # noqa: B008 - frozen
    check: Step | None = None,
    stacks: tuple[Stack, ...] = STACKS,
) -> Case:
    """
    Build a case of a failure that lasts longer than the three attempts of one poll, and then stops.

    It must cause one warning, and the wait must return the batch.
    """
    return Case(
        name,
        given=given,
        when=When([*[failure] * times, "completed"]),
        then=Then(message_has=[*message_has, STILL_WAITING, THE_CALL], requests=times + 1, warnings=1, check=check),
        stacks=stacks,
    )


def foreign(name: str, answer: Answer, *message_has: str, first_line: str, check: Step | None = None) -> list[Case]:
    """
    Build the cases of a refusal that neither Portkey nor a provider wrote.

    It ends a wait at its first poll, but no wait that has seen its batch.
    """
    return [
        Case(
            f"{name}, at the first poll",
            when=When([answer, "completed"]),
            then=Then(
                error=PortkeyRefusedError, first_line=first_line, message_has=message_has, requests=1, check=check
            ),
        ),
        Case(
            f"{name}, after an answer: the wait continues",
            when=When(["in_progress", *[answer] * 4, "completed"]),
            then=Then(message_has=[f"{STILL_WAITING}{first_line}", *message_has], requests=6, warnings=1, check=check),
        ),
    ]


def rejected_by(
    name: str, answer: Answer, first_line: str, *message_has: str, never_shown: tuple[str, ...] = (), requests: int = 2
) -> Case:
    """
    Build a case of a permanent error: one poll, one exception. An unknown batch is asked for three times per poll.

    It comes in the middle of the wait, where it could be mistaken for an outage.
    """
    return Case(
        name,
        when=When(["in_progress", *[answer] * (requests - 1), "completed"]),
        then=Then(
            error=PortkeyRefusedError,
            first_line=first_line,
            message_has=[f"HTTP {answer.status} from ", *message_has, THE_CALL],
            never_shown=never_shown,
            requests=requests,
        ),
    )
