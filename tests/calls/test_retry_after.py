"""Retry-After: a short one is waited for within the call, a long one ends the call."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from airflow_provider_portkey.exceptions import PortkeyTransientError
from tests.calls.case import Case, Given, Step, Then, When, each
from tests.calls.operations import CALLS, LIST, REPEATABLE, Call
from tests.calls.run import run_case
from tests.calls.world import CallWorld
from tests.server.standin import Answer


def use_real_backoff_without_jitter(world: CallWorld) -> None:
    world.set_max_backoff(10.0)
    world.monkeypatch.setattr(random, "random", lambda: 0.0)


def waited_between_attempts(call: Call) -> Step:
    def check(world: CallWorld) -> None:
        first, second = world.received_at(call.method, call.path)
        assert 0.15 <= second - first < 0.9

    return check


def asks_for_thirty_seconds(world: CallWorld) -> None:
    assert isinstance(world.error, PortkeyTransientError)
    assert world.error.retry_after is not None
    assert 28 < world.error.retry_after <= 30


# A 429 is rejected before any work starts, so that creating a batch is repeated too. That is not so after a 503.
SHORT = [
    Case(
        f"{call.name}: HTTP {status}",
        given=Given(setup=use_real_backoff_without_jitter),
        when=When(call, [Answer(status, headers={"retry-after-ms": "150"})]),
        then=Then(requests=2, check=waited_between_attempts(call)),
    )
    for status, calls in ((429, CALLS), (503, REPEATABLE))
    for call in calls
]


def long_retry_after(call: Call, unit: str, value: Callable[[], str]) -> Case:
    """Build a case of a call that is asked to wait for 30 s, three times."""
    return Case(
        f"{call.name}: {unit}",
        when=When(call, lambda world: [Answer(429, headers={"Retry-After": value()})] * 3),
        then=Then(
            error=PortkeyTransientError,
            error_has={"status_code": 429},
            message_has=["Rate limited by the gateway (HTTP 429): temporary, retry later\n"],
            requests=1,
            check=asks_for_thirty_seconds,
        ),
    )


LONG = [
    *(long_retry_after(call, "seconds", lambda: "30") for call in CALLS),
    long_retry_after(LIST, "a date", lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)),
]


@each(SHORT)
def test_a_short_retry_after_is_waited_for_before_the_next_attempt(case: Case, world: CallWorld) -> None:
    run_case(case, world)


@each(LONG)
def test_a_long_retry_after_ends_the_call(case: Case, world: CallWorld) -> None:
    run_case(case, world)
