"""Outages that outlast many polls: what is logged, how retries are paced, what the timeout says."""

from __future__ import annotations

import logging

from airflow_provider_portkey.exceptions import PortkeyBatchTimeoutError
from tests.support.stacks import Stack
from tests.support.world import World
from tests.waits.builders import GATEWAY_503, PORTKEY_500, STILL_WAITING
from tests.waits.case import Case, Given, Then, When, on_each_stack
from tests.waits.checks import logged, took
from tests.waits.constants import REAL_BACKOFF, SHORT_BACKOFF
from tests.waits.run import run_case


def backoff_doubled(world: World) -> None:
    first, second = world.request_intervals[:2]
    assert 1 <= first < 2 <= second < 4


def backoff_varied(world: World) -> None:
    """Each third interval is the one between two polls; the others must differ by more than scheduling noise."""
    delays = [interval for n, interval in enumerate(world.request_intervals) if n % 3 != 2]
    assert max(delays) - min(delays) > 0.015


CASES: list[Case] = [
    Case(
        "an outage of more than ten polls causes one warning",
        when=When([GATEWAY_503] * 33 + ["completed"]),
        then=Then(
            message_has=["The gateway failed (HTTP 503)", "HTTP 503 from the gateway", "down", STILL_WAITING],
            requests=34,
            warnings=1,
        ),
    ),
    Case(
        "each change of an outage is logged once",
        when=When(
            [
                *[GATEWAY_503] * 9,
                *[PORTKEY_500] * 9,
                *["in_progress"] * 3,
                *[GATEWAY_503] * 6,
                "in_progress",
                "completed",
            ]
        ),
        then=Then(
            message_has=["HTTP 503 from the gateway", "HTTP 500 from Portkey"],
            requests=29,
            warnings=3,
            check=logged(logging.INFO, "Portkey is reachable again (batch batch_1).", times=2),
        ),
    ),
    Case(
        "backoff doubles between the attempts of a call",
        given=Given(constants=REAL_BACKOFF),
        when=When([GATEWAY_503, GATEWAY_503, "completed"]),
        then=Then(requests=3, warnings=0, check=backoff_doubled),
    ),
    Case(
        "backoff has jitter",
        given=Given(constants=SHORT_BACKOFF),
        when=When([GATEWAY_503] * 17 + ["completed"]),
        then=Then(requests=18, check=backoff_varied),
    ),
    Case(
        "the timeout's message has the last known status and the last failure",
        when=When(["in_progress", GATEWAY_503], sensor={"timeout": 0.3}),
        then=Then(
            error=PortkeyBatchTimeoutError,
            first_line="Batch still in flight after 0.3 s: raise timeout, or clear the task to wait again",
            message_has=[
                "Batch batch_1 had not ended within the task's timeout of 0.3 s",
                "Last known status: Batch batch_1 is in_progress",
                "The polls since then failed: The gateway failed (HTTP 503)",
                "HTTP 503 from the gateway while retrieving batch 'batch_1'",
            ],
            check=took(0.3, 2.0),
        ),
    ),
]


@on_each_stack(CASES)
def test_outage(case: Case, stack: Stack, world: World) -> None:
    run_case(case, stack, world)
