"""Redirects: their target is named in the error, and never receives a request."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests

from airflow_provider_portkey.exceptions import PortkeyRefusedError
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from tests.server.standin import HOST, Answer, Scripted, StandIn
from tests.support.stacks import Stack
from tests.support.world import World
from tests.waits.builders import THE_CALL, foreign
from tests.waits.case import Case, Then, When, on_each_stack
from tests.waits.run import run_case

SET_HOST = "set host to the final address (connection 'portkey_default')"


def other_server_url(world: World) -> str:
    return f"{world.other_server.url}/v1/batches/batch_1"


def redirects(name: str, status: int, location: Callable[[World], str], *, never_shown: tuple[str, ...] = ()) -> Case:
    """Build a case of a redirect to ``location``."""

    def answers(world: World) -> list[Scripted]:
        world.other_server = world.serve()
        world.other_server.script("batch_1", "completed")
        return [Answer(status, "moved", {"Location": location(world)}), "completed"]

    def check(world: World) -> None:
        assert world.other_server.connections == 0
        assert f"redirect to {location(world).split('?')[0]}, not followed" in world.message

    return Case(
        name,
        when=When(answers),
        then=Then(
            error=PortkeyRefusedError,
            first_line=f"Redirect not followed (HTTP {status}): {SET_HOST}",
            message_has=[f"HTTP {status} from the gateway", THE_CALL],
            never_shown=never_shown,
            requests=1,
            check=check,
        ),
    )


CASES: list[Case] = [
    *(
        redirects(
            f"HTTP {status} to another host", status, lambda world: f"{world.other_server.url}/v1/batches/batch_1"
        )
        for status in (301, 302, 303, 307, 308)
    ),
    redirects("HTTP 302 to a path of the same host", 302, lambda world: "/login"),
    redirects(
        "HTTP 302 to another host, without a scheme",
        302,
        lambda world: f"//{HOST}:{world.other_server.port}/v1/batches/batch_1",
    ),
    redirects("HTTP 302 to an invalid URL", 302, lambda world: "http://[broken/path"),
    redirects(
        "HTTP 307 to a URL with a query, which may be secret",
        307,
        lambda world: f"{other_server_url(world)}?token=t0psecret",
        never_shown=("t0psecret",),
    ),
    *foreign(
        "HTTP 302 without Location",
        Answer(302),
        "HTTP 302 from the gateway",
        THE_CALL,
        "redirect without a Location, not followed",
        first_line=f"Redirect not followed (HTTP 302): {SET_HOST}",
    ),
]


@on_each_stack(CASES)
def test_a_redirect_is_not_followed(case: Case, stack: Stack, world: World) -> None:
    run_case(case, stack, world)


def test_the_session_of_get_conn_follows_no_redirect(standin: StandIn, connection: str) -> None:
    hook = PortkeyHook(connection)
    with StandIn() as other_server, hook.get_conn() as session:
        location = f"{other_server.base_url}/batches/batch_1"
        standin.script("batch_1", Answer(302, headers={"location": location}), "completed")
        with pytest.raises(requests.TooManyRedirects, match="redirect, which is not followed"):
            session.get(f"{hook.base_url}/batches/batch_1", timeout=10)
        assert session.get(f"{hook.base_url}/batches/batch_1", timeout=10).json()["status"] == "completed"
        assert not other_server.requests
