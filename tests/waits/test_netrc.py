"""A .netrc of whoever runs Airflow: its credentials must not be sent."""

from __future__ import annotations

from tests.server.standin import HOST
from tests.support.stacks import Stack
from tests.support.world import World
from tests.waits.case import Case, Given, Then, on_each_stack
from tests.waits.run import run_case

NETRC = f"machine {HOST}\nlogin me\npassword stray\n".encode()


def name_netrc_in_environment(world: World) -> None:
    world.set_env(NETRC=world.write_file("netrc", NETRC))


def put_netrc_in_home(world: World) -> None:
    world.write_file(".netrc", NETRC)
    world.set_env(HOME=world.folder)


def no_authorization_was_sent(world: World) -> None:
    [seen] = world.standin.requests
    assert "Authorization" not in seen.headers
    assert seen.headers["x-portkey-api-key"] == world.standin.api_key


CASES: list[Case] = [
    Case(
        "NETRC names a file with the server's host",
        given=Given(setup=name_netrc_in_environment),
        then=Then(requests=1, check=no_authorization_was_sent),
    ),
    Case(
        "~/.netrc has the server's host",
        given=Given(setup=put_netrc_in_home),
        then=Then(requests=1, check=no_authorization_was_sent),
    ),
]


@on_each_stack(CASES)
def test_netrc_is_ignored(case: Case, stack: Stack, world: World) -> None:
    run_case(case, stack, world)
