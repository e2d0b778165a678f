"""A network that is down: nothing was sent, so that every call may be repeated, creating a batch included."""

from __future__ import annotations

import pytest

from airflow_provider_portkey.exceptions import PortkeyTransientError
from tests.calls.case import Case, Given, Then, When, each
from tests.calls.checks import end_outage, logged_attempts, start_outage
from tests.calls.operations import ASYNC_CANCEL, CALLS, Call, for_each_call
from tests.calls.run import run_case
from tests.calls.world import CallWorld


def start_outage_with_long_backoff(world: CallWorld) -> None:
    world.set_max_backoff(0.3)
    start_outage(world)


SHORT_OUTAGES = [
    Case(
        call.name,
        given=Given(setup=start_outage_with_long_backoff),
        when=When(call, meanwhile=end_outage),
        then=Then(requests=1),
    )
    for call in CALLS
]
LONG_OUTAGES = [
    Case(
        call.name,
        given=Given(setup=start_outage),
        when=When(call),
        then=Then(
            error=PortkeyTransientError,
            # The asynchronous call does not find out, since it may be repeated in any case.
            error_has={"origin": "network", "was_sent": call is ASYNC_CANCEL},
            message_has=[
                "Cannot reach 127.0.0.1 (",
                "check host, DNS, firewall and proxy\n",
                "Check the host of connection 'portkey_default'",
            ],
            requests=0,
            check=logged_attempts(call, 2),
        ),
    )
    for call in CALLS
]


@each(SHORT_OUTAGES)
def test_a_call_succeeds_when_the_network_is_back_before_its_last_attempt(case: Case, world: CallWorld) -> None:
    run_case(case, world)


@each(LONG_OUTAGES)
def test_a_call_raises_a_transient_error_when_the_network_is_down(case: Case, world: CallWorld) -> None:
    run_case(case, world)


@for_each_call(CALLS)
def test_the_call_after_a_failed_one_uses_the_new_host_of_the_connection(call: Call, world: CallWorld) -> None:
    world.use_hook()
    start_outage(world)
    with pytest.raises(PortkeyTransientError):
        call.run(world)
    world.move_server()
    world.returned = call.run(world)
    assert call.took_effect(world)
