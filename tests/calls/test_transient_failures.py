"""Failures that a retry may pass: a call makes three attempts, and then says so."""

from __future__ import annotations

from collections.abc import Mapping

from airflow_provider_portkey.exceptions import PortkeyTransientError
from tests.calls.case import Case, Given, Then, When, each
from tests.calls.checks import logged_attempts
from tests.calls.operations import ASYNC_CANCEL, CALLS, CANCEL, LIST, REPEATABLE, Call
from tests.calls.responses import FAILURES_WITH_HTTP_200, TRANSIENT_FAILURES, TRANSIENT_STATUSES
from tests.calls.run import run_case
from tests.calls.world import CallWorld
from tests.server.standin import Answer
from tests.support.answers import provider_error


def failures_of(call: Call) -> Mapping[str, Answer]:
    """Return the failures to test ``call`` with."""
    # A cancel call is accepted with any 2xx, since the batch's status says what became of it.
    failures = TRANSIENT_FAILURES | ({} if call in (CANCEL, ASYNC_CANCEL) else FAILURES_WITH_HTTP_200)
    return failures | TRANSIENT_STATUSES if call is LIST else failures


def gives_up(call: Call, failure: str, response: Answer) -> Case:
    """Build a case of a failure that lasts."""
    status = {"status_code": response.status} if response.how == "plain" else {"status_code": None}
    # The error of a response without end does not have its status.
    origin = {} if response.how in ("plain", "flood") else {"origin": "network"}
    return Case(
        f"{call.name}: {failure}",
        given=Given(target=b"old"),
        when=When(call, [response] * 3),
        then=Then(error=PortkeyTransientError, error_has=status | origin, requests=3),
    )


SUCCEED_LATER = [
    *(
        Case(
            f"{call.name}: {failure}",
            when=When(call, [response] * 2),
            then=Then(requests=3, check=logged_attempts(call, 2)),
        )
        for call in REPEATABLE
        for failure, response in failures_of(call).items()
    ),
    # A replica may not know a batch or file yet that another has just made.
    *(
        Case(
            f"{call.name}: HTTP 404 of the provider",
            when=When(call, [provider_error(404, "No such thing")] * 2),
            then=Then(requests=3),
        )
        for call in CALLS
    ),
]
GIVE_UP = [gives_up(call, *failure) for call in REPEATABLE for failure in failures_of(call).items()]


@each(SUCCEED_LATER)
def test_a_call_succeeds_after_two_failed_attempts(case: Case, world: CallWorld) -> None:
    run_case(case, world)


@each(GIVE_UP)
def test_a_call_raises_a_transient_error_after_three_failed_attempts(case: Case, world: CallWorld) -> None:
    run_case(case, world)
