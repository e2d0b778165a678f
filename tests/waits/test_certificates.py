"""CA certificates of the environment and of the connection, and servers that cannot prove who they are."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import trustme

from airflow_provider_portkey.exceptions import PortkeyBatchTimeoutError, PortkeyInputError
from tests.support.stacks import Stack
from tests.support.tls import tls_server, trust_private_ca
from tests.support.world import World
from tests.waits.case import Case, Given, Step, Then, When, on_each_stack
from tests.waits.checks import all_of, first_line_has, only_warning
from tests.waits.run import run_case

LONG_ID = quote("arn:aws:bedrock:us-east-1:123456789012:model-invocation-job/abc" + "x" * 200, safe="")
TLS_FAILED = "TLS handshake with 127.0.0.1 failed: check verify of connection 'portkey_default'"
SHORT_WAIT = When(sensor={"timeout": 0.3})


def name_ca_file(variable: str, file: str = "ca.pem", **extra: Any) -> Step:
    """Name a file in an environment variable: ca.pem is right, junk.pem has no certificate, others do not exist."""

    def setup(world: World) -> None:
        write_junk(world)
        world.set_env(**{variable: world.folder / file})
        world.set_connection(**extra)

    return setup


def write_junk(world: World) -> None:
    world.write_file("junk.pem", b"no certificate\n")


def verify_with_junk(world: World) -> None:
    world.set_connection(verify=str(world.folder / "junk.pem"))


def missing_file(place: str, setup: Step) -> Case:
    return Case(
        f"{place} names a file that does not exist",
        given=Given(setup=setup),
        then=Then(
            error=PortkeyInputError,
            message_has=[f"{place} names", "No such file"],
            requests=0,
            check=first_line_has(f"No CA certificates: check {place} ("),
        ),
    )


def junk_file(place: str, setup: Step) -> Case:
    return Case(
        f"{place} names a file without a certificate",
        given=Given(tls=tls_server(), setup=setup),
        when=SHORT_WAIT,
        then=Then(
            error=PortkeyInputError,
            message_has=[f"{place} names", "junk.pem"],
            requests=0,
            check=first_line_has(f"No CA certificates: check {place} ("),
        ),
    )


def untrusted(
    name: str,
    tls: Callable[[World], ssl.SSLContext],
    *message_has: str,
    setup: Step | None = trust_private_ca,
    batch_id: str = "batch_1",
) -> Case:
    """Build a case of a server that cannot prove who it is: nothing is sent to it, and the first warning says why."""

    def check(world: World) -> None:
        warning = only_warning(world)
        for part in (TLS_FAILED, *message_has):
            assert part in warning

    return Case(
        name,
        given=Given(batch_id=batch_id, tls=tls, setup=setup),
        when=SHORT_WAIT,
        then=Then(error=PortkeyBatchTimeoutError, message_has=[TLS_FAILED, *message_has], requests=0, check=check),
    )


CASES: list[Case] = [
    *(
        Case(
            f"{variable} names the CA file",
            given=Given(tls=tls_server(), setup=name_ca_file(variable)),
            then=Then(requests=1, warnings=0),
        )
        for variable in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
    ),
    Case(
        "the connection's verify names the CA file",
        given=Given(tls=tls_server(), setup=trust_private_ca),
        then=Then(requests=1, warnings=0),
    ),
    Case(
        "the connection's verify overrides REQUESTS_CA_BUNDLE",
        given=Given(tls=tls_server(), setup=all_of(name_ca_file("REQUESTS_CA_BUNDLE", "junk.pem"), trust_private_ca)),
        then=Then(requests=1),
    ),
    Case(
        "the connection's verify is false",
        given=Given(
            tls=tls_server("elsewhere.example", expired=True),
            setup=lambda world: world.set_connection(verify=False),
        ),
        then=Then(requests=1),
    ),
    Case(
        "the connection's verify is the text 'true'",
        given=Given(tls=tls_server(), setup=name_ca_file("SSL_CERT_FILE", verify="true")),
        then=Then(requests=1),
    ),
    missing_file("REQUESTS_CA_BUNDLE", name_ca_file("REQUESTS_CA_BUNDLE", "missing.pem")),
    missing_file("SSL_CERT_FILE", name_ca_file("SSL_CERT_FILE", "missing.pem")),
    missing_file("verify in the connection's extra", lambda world: world.set_connection(verify="/missing/ca.pem")),
    junk_file("SSL_CERT_FILE", name_ca_file("SSL_CERT_FILE", "junk.pem")),
    junk_file("verify in the connection's extra", all_of(write_junk, verify_with_junk)),
    untrusted(
        "a private CA that nothing names",
        tls_server(),
        "certificate verify failed",
        "verify in the connection's extra, or in REQUESTS_CA_BUNDLE or SSL_CERT_FILE",
        setup=None,
    ),
    untrusted(
        "another private CA than the trusted one",
        tls_server(signed_by=lambda world: trustme.CA()),
        "certificate verify failed",
    ),
    untrusted("an expired certificate", tls_server(expired=True), "certificate has expired"),
    untrusted(
        "an expired certificate, and an id of 300 characters",
        tls_server(expired=True),
        "certificate has expired",
        batch_id=LONG_ID,
    ),
    untrusted(
        "a certificate for another host",
        tls_server("elsewhere.example"),
        "certificate is not valid for '127.0.0.1'",
    ),
]


@on_each_stack(CASES)
def test_certificate(case: Case, stack: Stack, world: World) -> None:
    run_case(case, stack, world)
