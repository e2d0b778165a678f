"""API keys that change during a wait: the connection is read again, and a rejected key is sent once."""

from __future__ import annotations

from dataclasses import replace

from airflow_provider_portkey.exceptions import PortkeyConnectionNotFoundError, PortkeyRefusedError
from tests.support.stacks import Stack
from tests.support.world import World
from tests.waits.builders import GATEWAY_503, THE_CALL
from tests.waits.case import Case, Step, Then, When, on_each_stack
from tests.waits.checks import all_of
from tests.waits.run import run_case

FIRST_KEY, SECOND_KEY, THIRD_KEY = "pk-standin-0123456789", "pk-new-9876543210", "pk-newer-9876543210"
REJECTED = "API key rejected by Portkey (HTTP 401): check the password of connection 'portkey_default'"
SENSOR = {"poke_interval": 0.05}


def rotate(*, connection: str | None, server: str, after: int = 2) -> Step:
    """Change the keys after some requests; the connection's first, so that no poll comes between the two."""

    def meanwhile(world: World) -> None:
        world.standin.wait_for(after)
        if connection:
            world.set_connection(password=connection)
        world.standin.api_key = server

    return meanwhile


def rotate_twice(world: World) -> None:
    rotate(connection=SECOND_KEY, server=SECOND_KEY)(world)
    world.standin.wait_for(len(world.standin.requests) + 3)
    world.set_connection(password=THIRD_KEY)
    world.standin.api_key = THIRD_KEY


def delete_connection(world: World) -> None:
    world.monkeypatch.delenv("AIRFLOW_CONN_PORTKEY_DEFAULT")


def sent_keys(world: World) -> list[str]:
    return [seen.headers["x-portkey-api-key"] for seen in world.standin.requests]


def keys_were_sent_in_order(*expected: str) -> Step:
    """Check which keys were sent, one after the other, however often each."""

    def check(world: World) -> None:
        keys = sent_keys(world)
        assert [key for n, key in enumerate(keys) if n == 0 or keys[n - 1] != key] == list(expected)

    return check


def third_key_was_sent_once(world: World) -> None:
    assert sent_keys(world).count(THIRD_KEY) == 1


CASES: list[Case] = [
    Case(
        "the key is rotated",
        when=When(
            [*["in_progress"] * 6, "completed"],
            SENSOR,
            meanwhile=rotate(connection=SECOND_KEY, server=SECOND_KEY),
        ),
        then=Then(requests=8, warnings=0, check=keys_were_sent_in_order(FIRST_KEY, SECOND_KEY)),
    ),
    Case(
        "the key is rotated twice",
        when=When([*["in_progress"] * 12, "completed"], SENSOR, meanwhile=rotate_twice),
        then=Then(requests=15, warnings=0, check=keys_were_sent_in_order(FIRST_KEY, SECOND_KEY, THIRD_KEY)),
    ),
    Case(
        "the key is rotated, but not in the connection",
        when=When(["in_progress"], SENSOR, meanwhile=rotate(connection=None, server=SECOND_KEY)),
        then=Then(
            error=PortkeyRefusedError,
            first_line=REJECTED,
            message_has=["HTTP 401 from Portkey", THE_CALL],
            check=keys_were_sent_in_order(FIRST_KEY),
        ),
    ),
    Case(
        "the connection's new key is wrong too",
        when=When(["in_progress"], SENSOR, meanwhile=rotate(connection=THIRD_KEY, server=SECOND_KEY)),
        then=Then(
            error=PortkeyRefusedError,
            first_line=REJECTED,
            message_has=["HTTP 401 from Portkey", THE_CALL],
            check=all_of(keys_were_sent_in_order(FIRST_KEY, THIRD_KEY), third_key_was_sent_once),
        ),
    ),
    Case(
        "the key is rotated during an outage",
        when=When(
            ["in_progress", *[GATEWAY_503] * 8, "in_progress", "completed"],
            SENSOR,
            meanwhile=rotate(connection=SECOND_KEY, server=SECOND_KEY),
        ),
        then=Then(requests=12, check=keys_were_sent_in_order(FIRST_KEY, SECOND_KEY)),
    ),
    Case(
        "the key is rotated just before the end of an outage",
        # The second call after the first poll reads the old key, and its third attempt meets the new one.
        when=When(
            ["in_progress", *[GATEWAY_503] * 4, replace(GATEWAY_503, delay=0.5), "in_progress", "completed"],
            SENSOR,
            meanwhile=rotate(connection=SECOND_KEY, server=SECOND_KEY, after=6),
        ),
        then=Then(requests=9, check=keys_were_sent_in_order(FIRST_KEY, SECOND_KEY)),
    ),
    Case(
        "the connection was deleted when the key is rejected",
        when=When(
            ["in_progress"],
            SENSOR,
            meanwhile=all_of(
                rotate(connection=FIRST_KEY, server=FIRST_KEY),
                delete_connection,
                rotate(connection=None, server=SECOND_KEY),
            ),
        ),
        then=Then(
            error=PortkeyConnectionNotFoundError,
            first_line="Connection not found: define it, or check the secrets backend ('portkey_default')",
        ),
        stacks=["requests"],  # a trigger waits ten minutes for a missing connection: see the tests of the trigger
    ),
]


@on_each_stack(CASES)
def test_key_rotation(case: Case, stack: Stack, world: World) -> None:
    run_case(case, stack, world)
