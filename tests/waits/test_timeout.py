"""The task's timeout, and clocks that jump."""

from __future__ import annotations

from airflow_provider_portkey.exceptions import PortkeyBatchTimeoutError
from tests.server.standin import Answer
from tests.support.answers import completed_body
from tests.support.stacks import Stack
from tests.support.world import World
from tests.waits.builders import GATEWAY_503
from tests.waits.case import Case, Given, Step, Then, When, on_each_stack
from tests.waits.checks import all_of, took
from tests.waits.constants import REAL_BACKOFF
from tests.waits.run import run_case

JUMPS = [("forward", 1), ("back", -1)]


def set_clock(hours: int) -> Step:
    def meanwhile(world: World) -> None:
        world.standin.wait_for(2)
        world.clock.offset = 3600.0 * hours

    return meanwhile


def one_request_exceeded_the_deadline(world: World) -> None:
    """The request in flight at the deadline may end; no request that could exceed it further may follow."""
    deadline = world.started_at + 0.5
    assert not [seen for seen in world.standin.requests if seen.at > deadline + 0.1]
    assert 0.5 <= world.ended_at - world.started_at < 0.5 + 0.6 + 0.5


def last_poll_was_at_the_deadline(world: World) -> None:
    assert world.standin.requests[-1].at - world.started_at > 0.35


CASES: list[Case] = [
    *(
        Case(
            f"the clock jumps an hour {direction}, the batch completes",
            when=When(
                [*["in_progress"] * 6, "completed"],
                sensor={"poke_interval": 0.05},
                meanwhile=set_clock(hours),
            ),
            then=Then(requests=7, warnings=0, check=took(0.2, 3.0)),
        )
        for direction, hours in JUMPS
    ),
    *(
        Case(
            f"the clock jumps an hour {direction}, the timeout does not move",
            when=When(
                ["in_progress"],
                sensor={"poke_interval": 0.05, "timeout": 0.5},
                meanwhile=set_clock(hours),
            ),
            then=Then(
                error=PortkeyBatchTimeoutError,
                first_line="Batch still in flight after 0.5 s: raise timeout, or clear the task to wait again",
                message_has=["timeout of 0.5 s"],
                requests=range(5, 16),
                check=took(0.5, 1.5),
            ),
        )
        for direction, hours in JUMPS
    ),
    Case(
        "a slow response brings the completed batch after the deadline",
        when=When(
            ["in_progress", Answer(body=completed_body("batch_1"), delay=0.8)],
            sensor={"timeout": 0.4, "poke_interval": 0.1},
        ),
        then=Then(requests=2, check=took(0.8, 3.0)),
    ),
    Case(
        "a request without a response is in flight at the deadline",
        given=Given(extra={"timeout": 0.6}),
        when=When(["in_progress", Answer(delay=60)], sensor={"timeout": 0.5, "poke_interval": 0.1}),
        then=Then(
            error=PortkeyBatchTimeoutError,
            first_line="Batch still in flight after 0.5 s: raise timeout, or clear the task to wait again",
            message_has=["Last known status: Batch batch_1 is in_progress"],
            check=one_request_exceeded_the_deadline,
        ),
    ),
    Case(
        "the deadline passes during the backoff between two attempts",
        given=Given(constants=REAL_BACKOFF),
        when=When([GATEWAY_503], sensor={"timeout": 0.5}),
        then=Then(
            error=PortkeyBatchTimeoutError,
            first_line="Batch still in flight after 0.5 s: raise timeout, or clear the task to wait again",
            message_has=["Last known status: none received", "HTTP 503 from the gateway"],
            check=took(0.5, 2.0),
        ),
    ),
    Case(
        "timeout 0 polls at least once",
        when=When(["in_progress"], sensor={"timeout": 0}),
        then=Then(
            error=PortkeyBatchTimeoutError,
            first_line="Batch still in flight after 0 s: raise timeout, or clear the task to wait again",
            message_has=["timeout of 0 s", "Last known status: Batch batch_1 is in_progress"],
            requests=range(1, 3),
            check=took(0.0, 1.0),
        ),
    ),
    Case(
        "timeout 0 and a completed batch",
        when=When(sensor={"timeout": 0}),
        then=Then(requests=1),
    ),
    Case(
        "a poke_interval longer than the timeout: the last poll is at the deadline",
        when=When(["in_progress"], sensor={"timeout": 0.4, "poke_interval": 60}),
        then=Then(
            error=PortkeyBatchTimeoutError,
            requests=range(1, 4),  # a trigger's first poll is at a random time, which may be close to the deadline
            check=all_of(took(0.4, 1.5), last_poll_was_at_the_deadline),
        ),
    ),
]


@on_each_stack(CASES)
def test_timeout(case: Case, stack: Stack, world: World) -> None:
    run_case(case, stack, world)
