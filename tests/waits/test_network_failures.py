"""Connections that fail, break off or are too slow."""

from __future__ import annotations

from airflow_provider_portkey.exceptions import PortkeyBatchTimeoutError
from tests.server.standin import HOST, Answer, batch_body
from tests.support.answers import raw_answer
from tests.support.dns import make_host_unresolvable, restore_dns
from tests.support.stacks import Stack
from tests.support.tls import tls_server, trust_private_ca
from tests.support.world import World
from tests.waits.builders import STILL_WAITING, recovers_from
from tests.waits.case import Case, Given, Then, When, on_each_stack
from tests.waits.checks import wait_for_failed_attempts
from tests.waits.run import run_case

SHORT_TIMEOUT = Given(extra={"timeout": 0.2})
NO_RESPONSE = "No response while retrieving batch 'batch_1'"
UNUSABLE = "No usable response from 127.0.0.1 ("
CHECK_NETWORK = "): check host, DNS, firewall and proxy"
CHECK_HOST = "Check the host of connection 'portkey_default', and DNS, firewall and proxy"
TLS_FAILED = "TLS handshake with 127.0.0.1 failed: check verify of connection 'portkey_default'"
TIMED_OUT = [
    "No response from 127.0.0.1 in time: usually temporary, retry later",
    "The limits are timeout=0.2 s for a request",
]


def refuse_connections(world: World) -> None:
    world.outage.enter_context(world.standin.outage())


def accept_connections_after_ten_polls(world: World) -> None:
    wait_for_failed_attempts(world, 24)
    world.outage.close()


def restore_dns_after_five_attempts(world: World) -> None:
    wait_for_failed_attempts(world, 5)
    restore_dns(world)


def renew_certificate_after_five_attempts(world: World) -> None:
    wait_for_failed_attempts(world, 5)
    world.renew_certificate()


def requests_were_paced(world: World) -> None:
    assert min(world.request_intervals) > 0.015


def request_timeout_was_kept(world: World) -> None:
    assert 0.15 < max(world.request_intervals) < 0.6


CASES: list[Case] = [
    Case(
        "connections refused for more than ten polls",
        given=Given(setup=refuse_connections),
        when=When(meanwhile=accept_connections_after_ten_polls),
        then=Then(
            message_has=["Cannot reach 127.0.0.1 (", CHECK_NETWORK, NO_RESPONSE, CHECK_HOST, STILL_WAITING],
            requests=1,
            warnings=1,
        ),
    ),
    recovers_from(
        "connection reset before the response",
        Answer(how="reset"),
        UNUSABLE,
        CHECK_NETWORK,
        NO_RESPONSE,
        CHECK_HOST,
        times=7,
    ),
    Case(
        "connection reset twice: requests are paced",
        when=When([Answer(how="reset"), Answer(how="reset"), "completed"]),
        then=Then(requests=3, check=requests_were_paced),
        stacks=["requests"],  # aiohttp itself repeats a GET immediately when a connection breaks
    ),
    recovers_from(
        "connection reset in the middle of the body",
        Answer(body=batch_body("batch_1", "completed"), how="truncate"),
        UNUSABLE,
        CHECK_NETWORK,
        NO_RESPONSE,
        CHECK_HOST,
    ),
    recovers_from(
        "connection closed in the middle of the body",
        Answer(body=raw_answer(b'{"id": "batch_1", "sta', 900), how="raw"),
        UNUSABLE,
        CHECK_NETWORK,
        NO_RESPONSE,
        CHECK_HOST,
    ),
    recovers_from(
        "connection closed without a response",
        Answer(body=b"", how="raw"),
        UNUSABLE,
        CHECK_NETWORK,
        NO_RESPONSE,
        CHECK_HOST,
        times=7,
    ),
    recovers_from(
        "response that is not HTTP",
        Answer(body=b"220 mail.example.com ESMTP\r\n", how="raw"),
        UNUSABLE,
        CHECK_NETWORK,
        NO_RESPONSE,
        CHECK_HOST,
    ),
    Case(
        "host name cannot be resolved for five attempts",
        given=Given(setup=make_host_unresolvable),
        when=When(meanwhile=restore_dns_after_five_attempts),
        then=Then(
            message_has=["Cannot reach localhost (", CHECK_NETWORK, NO_RESPONSE, CHECK_HOST, STILL_WAITING],
            requests=1,
            warnings=1,
        ),
    ),
    Case(
        "server certificate expired and is renewed during the wait",
        given=Given(tls=tls_server(expired=True), setup=trust_private_ca),
        when=When(meanwhile=renew_certificate_after_five_attempts),
        then=Then(message_has=[TLS_FAILED, "certificate has expired", STILL_WAITING], requests=1, warnings=1),
    ),
    Case(
        "https URL of a server that speaks plain HTTP",
        given=Given(setup=lambda world: world.set_connection(host=f"https://{HOST}:{world.standin.port}")),
        when=When(sensor={"timeout": 0.3}),
        then=Then(
            error=PortkeyBatchTimeoutError,
            message_has=[
                f"Portkey never answered in 0.3 s (https://{HOST}",
                f"{HOST} does not speak TLS: if it is plain HTTP, write http:// in host",
            ],
            requests=0,
        ),
    ),
    recovers_from(
        "read timeout",
        Answer(delay=60),
        *TIMED_OUT,
        given=SHORT_TIMEOUT,
        check=request_timeout_was_kept,
    ),
    recovers_from(
        "body that arrives byte by byte exceeds the timeout",
        Answer(body=batch_body("batch_1", "completed"), how="trickle", pause=0.05),
        *TIMED_OUT,
        given=SHORT_TIMEOUT,
        check=request_timeout_was_kept,
    ),
    recovers_from(
        "headers that arrive byte by byte exceed the timeout",
        Answer(body=raw_answer(b"{}"), how="drip", pause=0.02),
        *TIMED_OUT,
        given=SHORT_TIMEOUT,
        check=request_timeout_was_kept,
        stacks=("aiohttp",),  # requests limits each read of the headers, not all of them together
    ),
]


@on_each_stack(CASES)
def test_a_network_failure_does_not_end_the_wait(case: Case, stack: Stack, world: World) -> None:
    run_case(case, stack, world)
