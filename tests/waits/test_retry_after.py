"""Responses that say when to retry."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import format_datetime

from airflow_provider_portkey.exceptions import PortkeyBatchTimeoutError
from tests.server.standin import Answer, Scripted
from tests.support.stacks import Stack
from tests.support.world import World
from tests.waits.builders import recovers_from
from tests.waits.case import Case, Given, Then, When, on_each_stack
from tests.waits.checks import last_interval, took
from tests.waits.constants import REAL_BACKOFF, SMALL_MAX_RETRY_AFTER
from tests.waits.run import run_case

A_YEAR = {"Retry-After": "31536000"}
UNUSABLE = ["-5", "soon", "nan", "inf", "0", "Mon, 01 Jan 1990 00:00:00 GMT"]


class RetryAtDate:
    """Answers with a date as Retry-After, and checks that the next request came at it."""

    def answers(self, world: World) -> list[Scripted]:
        self.date = int(time.time()) + 2.0
        text = format_datetime(datetime.fromtimestamp(self.date, UTC), usegmt=True)
        return [Answer(429, headers={"Retry-After": text}), "completed"]

    def check(self, world: World) -> None:
        requested_at = world.standin.requests[1].at - time.monotonic() + time.time()
        assert self.date <= requested_at < self.date + 1


RETRY_AT_DATE = RetryAtDate()

CASES: list[Case] = [
    Case(
        "HTTP 429 with Retry-After in seconds",
        given=Given(jitter=0.0),
        when=When([Answer(429, headers={"Retry-After": "1"}), "completed"]),
        then=Then(requests=2, warnings=1, check=last_interval(1.0, 2.0)),
    ),
    Case(
        "HTTP 429 with Retry-After as a date",
        given=Given(jitter=0.0),
        when=When(RETRY_AT_DATE.answers),
        then=Then(requests=2, warnings=1, check=RETRY_AT_DATE.check),
    ),
    Case(
        "HTTP 429 with retry-after-ms",
        given=Given(jitter=0.0),
        when=When([Answer(429, headers={"retry-after-ms": "300"}), "completed"]),
        then=Then(requests=2, warnings=1, check=last_interval(0.3, 1.0)),
    ),
    Case(
        "HTTP 429 with x-ms-retry-after-ms",
        given=Given(jitter=0.0),
        when=When([Answer(429, headers={"x-ms-retry-after-ms": "300"}), "completed"]),
        then=Then(requests=2, check=last_interval(0.3, 1.0)),
    ),
    Case(
        "HTTP 503 with a short retry-after-ms is retried within the call",
        given=Given(constants=REAL_BACKOFF, jitter=0.0),
        when=When([Answer(503, headers={"retry-after-ms": "200"}), "completed"]),
        then=Then(requests=2, warnings=0, check=last_interval(0.2, 0.9)),
    ),
    Case(
        "HTTP 429 with a Retry-After of a year is capped",
        given=Given(constants=SMALL_MAX_RETRY_AFTER),
        when=When([Answer(429, headers=A_YEAR), "completed"]),
        then=Then(requests=2, check=last_interval(0.27, 1.0)),
    ),
    Case(
        "HTTP 429 with a Retry-After of a year does not extend the timeout",
        when=When([Answer(429, headers=A_YEAR)], sensor={"timeout": 0.4}),
        then=Then(
            error=PortkeyBatchTimeoutError,
            first_line="Batch still in flight after 0.4 s: raise timeout, or clear the task to wait again",
            message_has=["Rate limited by the gateway (HTTP 429)"],
            requests=range(2, 4),
            check=took(0.4, 2.0),
        ),
    ),
    Case(
        "HTTP 429 without Retry-After is one request per poll",
        given=Given(jitter=0.0),
        when=When([Answer(429)], sensor={"timeout": 0.9, "poke_interval": 0.3}),
        then=Then(error=PortkeyBatchTimeoutError, requests=range(3, 6)),
    ),
    *(
        recovers_from(
            f"HTTP 429 with the unusable Retry-After {value!r}",
            Answer(429, headers={"Retry-After": value}),
            "Rate limited by the gateway (HTTP 429): temporary, retry later",
        )
        for value in UNUSABLE
    ),
]


@on_each_stack(CASES)
def test_retry_after_is_respected(case: Case, stack: Stack, world: World) -> None:
    run_case(case, stack, world)
