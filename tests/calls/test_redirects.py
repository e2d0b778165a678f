"""Redirects: their target is named in the error, and never receives a request."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_provider_portkey.exceptions import PortkeyRefusedError
from tests.calls.case import Case, Then, When, each
from tests.calls.operations import CALLS, LIST, Call
from tests.calls.run import run_case
from tests.calls.world import CallWorld
from tests.server.standin import Answer


def redirected(call: Call, status: int) -> Case:
    """Build a case of a redirect to another server, with a secret in the query."""

    def responses(world: CallWorld) -> Sequence[Answer]:
        world.other_server = world.serve()
        return [Answer(status, b"moved\n", {"Location": f"{world.other_server.base_url}/files?token=t0psecret"})]

    def check(world: CallWorld) -> None:
        assert world.other_server.connections == 0
        assert f"redirect to {world.other_server.base_url}/files, not followed" in str(world.error)

    return Case(
        f"{call.name}: HTTP {status}",
        when=When(call, responses),
        then=Then(
            error=PortkeyRefusedError,
            error_has={"status_code": status},
            message_has=[
                f"Redirect not followed (HTTP {status}): "
                "set host to the final address (connection 'portkey_default')\n",
                f"HTTP {status} from the gateway while {call.subject}",
            ],
            never_shown=["t0psecret"],
            requests=1,
            check=check,
        ),
    )


#: With a 307 an HTTP library repeats the method and the body, with a 302 it does not.
CASES = [redirected(call, status) for call in CALLS for status in (302, 307)]
CASES += [redirected(LIST, status) for status in (301, 303, 308)]


@each(CASES)
def test_a_redirect_is_not_followed(case: Case, world: CallWorld) -> None:
    run_case(case, world)
