"""API keys that change during a wait: the connection is read again at each rejected poll, for two minutes."""

from __future__ import annotations

from dataclasses import replace

from airflow_provider_portkey.exceptions import PortkeyConnectionNotFoundError, PortkeyRefusedError
from tests.support.stacks import Stack
from tests.support.world import World
from tests.waits.builders import GATEWAY_503, THE_CALL
from tests.waits.case import Case, Given, Step, Then, When, on_each_stack
from tests.waits.checks import all_of
from tests.waits.constants import SHORT_GRACE
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


def rotate_server_first(world: World) -> None:
    """Revoke the old key, and change the connection only after polls were rejected."""
    rotate(connection=None, server=SECOND_KEY)(world)
    world.log.wait_for("Still waiting, for at most 2 min: API key rejected by Portkey (HTTP 401)")
    world.standin.wait_for(len(world.standin.requests) + 2)
    world.set_connection(password=SECOND_KEY)


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
        given=Given(constants=SHORT_GRACE),
        when=When(["in_progress"], SENSOR, meanwhile=rotate(connection=None, server=SECOND_KEY)),
        then=Then(
            error=PortkeyRefusedError,
            first_line=REJECTED,
            message_has=["HTTP 401 from Portkey", THE_CALL],
            check=keys_were_sent_in_order(FIRST_KEY),
        ),
    ),
    Case(
        "the old key is revoked before the connection has the new one",
        when=When([*["in_progress"] * 6, "completed"], SENSOR, meanwhile=rotate_server_first),
        then=Then(warnings=1, check=keys_were_sent_in_order(FIRST_KEY, SECOND_KEY)),
    ),
    Case(
        "the key is revoked for good, at the deadline: the error is that of the key",
        when=When(["in_progress"], SENSOR | {"timeout": 1.0}, meanwhile=rotate(connection=None, server=SECOND_KEY)),
        then=Then(error=PortkeyRefusedError, first_line=REJECTED),
    ),
    Case(
        "the connection's new key is wrong too",
        given=Given(constants=SHORT_GRACE),
        when=When(["in_progress"], SENSOR, meanwhile=rotate(connection=THIRD_KEY, server=SECOND_KEY)),
        then=Then(
            error=PortkeyRefusedError,
            first_line=REJECTED,
            message_has=["HTTP 401 from Portkey", THE_CALL],
            check=keys_were_sent_in_order(FIRST_KEY, THIRD_KEY),
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
        given=Given(constants={"MISSING_CONNECTION_GRACE": 0.3}),
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
    ),
]


@on_each_stack(CASES)
def test_key_rotation(case: Case, stack: Stack, world: World) -> None:
    run_case(case, stack, world)
