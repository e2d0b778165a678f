"""Proxies of the environment and of the connection."""

from __future__ import annotations

import base64
import gc

from airflow_provider_portkey.exceptions import PortkeyBatchTimeoutError, PortkeyInputError, PortkeyRefusedError
from tests.server.standin import HOST
from tests.support.stacks import Stack
from tests.support.tls import tls_server, trust_private_ca
from tests.support.world import World
from tests.waits.builders import THE_CALL
from tests.waits.case import Case, Given, Step, Then, When, on_each_stack
from tests.waits.checks import all_of, first_line_has, first_line_is_whole
from tests.waits.run import run_case

PASSWORD = "proxypass123"  # noqa: S105 - so that the log is searched for it
USE_ANOTHER = "use a URL such as http://proxy.example.com:3128, or NO_PROXY"
CANNOT_REACH = "Cannot reach 127.0.0.1 ("
NO_RESPONSE = "No response while retrieving batch 'batch_1'"


def through_proxy(*, tls: bool = False, credentials: str | None = None) -> Step:
    """Check that the one request went through the proxy, with these credentials for it and no others."""

    def check(world: World) -> None:
        [head] = world.proxy.heads
        target = f"{HOST}:{world.standin.port}"
        assert head.startswith(f"CONNECT {target} " if tls else f"GET http://{target}/v1/batches/batch_1 ")
        if tls:
            assert world.standin.api_key not in head
        sent = [line for line in head.splitlines() if line.lower().startswith("proxy-authorization:")]
        expected = [f"Basic {base64.b64encode(credentials.encode()).decode()}"] if credentials else []
        assert [line.split(":", 1)[1].strip() for line in sent] == expected
        assert "Proxy-Authorization" not in world.standin.requests[0].headers or not tls

    return check


def past_proxy(world: World) -> None:
    """Check that the proxy received nothing."""
    assert world.proxy.heads == []


def proxied(
    name: str, *variables: str, check: Step, credentials: str = "", tls: bool = False, **environment: str
) -> Case:
    """Build a case of a proxy that the environment's ``variables`` name, or the connection if there are none."""

    def setup(world: World) -> None:
        world.proxy = world.serve_proxy()
        url = world.proxy.url.replace("//", f"//{credentials}@" if credentials else "//")
        world.set_env(**dict.fromkeys(variables, url), **environment)
        extra = {} if variables else {"proxy": url}
        if tls:
            extra["verify"] = str(world.folder / "ca.pem")
        world.set_connection(**extra)

    return Case(
        name,
        given=Given(tls=tls_server() if tls else None, setup=setup),
        then=Then(requests=1, warnings=0, check=check),
    )


def proxy_that_refuses(world: World) -> None:
    world.proxy = world.serve_proxy(refuses=True)
    world.set_env(HTTP_PROXY=world.proxy.url.replace("//", f"//me:{PASSWORD}@"))


def use_the_proxy_for_https(world: World) -> None:
    world.set_env(HTTPS_PROXY=world.proxy.url)


def nothing_was_left_open(world: World) -> None:
    assert world.error is not None
    world.error.__traceback__ = None
    gc.collect()
    assert not any("Unclosed" in line for _, line in world.log.lines)


CASES: list[Case] = [
    proxied("HTTP_PROXY is used", "HTTP_PROXY", check=through_proxy()),
    proxied("http_proxy is used", "http_proxy", check=through_proxy()),
    proxied("ALL_PROXY is used", "ALL_PROXY", check=through_proxy()),
    proxied("HTTPS_PROXY is used for https", "HTTPS_PROXY", check=through_proxy(tls=True), tls=True),
    proxied("HTTPS_PROXY is not used for http", "HTTPS_PROXY", check=past_proxy),
    proxied(
        "HTTPS_PROXY with percent-encoded credentials",
        "HTTPS_PROXY",
        credentials="me%40corp:p%3Ass",
        check=through_proxy(tls=True, credentials="me@corp:p:ss"),
        tls=True,
    ),
    proxied(
        "HTTP_PROXY with credentials",
        "HTTP_PROXY",
        credentials="me:pass",
        check=through_proxy(credentials="me:pass"),
    ),
    proxied("NO_PROXY names the host", "HTTP_PROXY", NO_PROXY=f"example.com,{HOST}", check=past_proxy),
    proxied("no_proxy names the host's network", "HTTP_PROXY", no_proxy="127.0.0.0/8", check=past_proxy),
    proxied("NO_PROXY is *", "HTTP_PROXY", NO_PROXY="*", check=past_proxy),
    proxied("NO_PROXY names another host", "HTTP_PROXY", NO_PROXY="example.com", check=through_proxy()),
    proxied("NO_PROXY names the host of an https URL", "HTTPS_PROXY", NO_PROXY=HOST, check=past_proxy, tls=True),
    proxied("the connection's proxy is used for http", check=through_proxy()),
    proxied("the connection's proxy is used for https", check=through_proxy(tls=True), tls=True),
    proxied(
        "the connection's proxy with credentials",
        credentials="me:pa%20ss",
        check=through_proxy(credentials="me:pa ss"),
    ),
    proxied("the connection's proxy overrides NO_PROXY", NO_PROXY="*", check=through_proxy()),
    Case(
        "a proxy that answers HTTP 407 to an http request",
        given=Given(setup=proxy_that_refuses),
        then=Then(
            error=PortkeyRefusedError,
            message_has=["HTTP 407 from the proxy", THE_CALL],
            never_shown=[PASSWORD],
            requests=0,
            check=all_of(
                first_line_has("(HTTP 407): ", "check proxy of connection 'portkey_default' or "),
                first_line_is_whole,
            ),
        ),
    ),
    Case(
        "a proxy that answers HTTP 407 to CONNECT",
        given=Given(tls=tls_server(), setup=all_of(proxy_that_refuses, trust_private_ca, use_the_proxy_for_https)),
        when=When(sensor={"timeout": 0.3}),
        then=Then(
            error=PortkeyBatchTimeoutError,
            message_has=["No usable response from 127.0.0.1 (", NO_RESPONSE, "407"],
            requests=0,
        ),
    ),
    Case(
        "a proxy that is down",
        given=Given(setup=lambda world: world.set_env(HTTP_PROXY="http://127.0.0.1:1")),
        when=When(sensor={"timeout": 0.3}),
        then=Then(
            error=PortkeyBatchTimeoutError,
            message_has=[CANNOT_REACH, NO_RESPONSE, "firewall and proxy between this machine and it"],
            requests=0,
        ),
    ),
    Case(
        "a proxy URL whose port is not a number",
        given=Given(setup=lambda world: world.set_env(HTTP_PROXY=f"http://me:{PASSWORD}@127.0.0.1:port")),
        when=When(sensor={"timeout": 0.3}),
        then=Then(
            error=PortkeyInputError,
            first_line=f"Invalid proxy URL: {USE_ANOTHER}",
            message_has=["the environment names the proxy"],
            never_shown=[PASSWORD],
            requests=0,
        ),
    ),
    Case(
        "a SOCKS proxy",
        given=Given(setup=lambda world: world.set_env(ALL_PROXY=f"socks5://me:{PASSWORD}@127.0.0.1:1")),
        then=Then(
            error=PortkeyInputError,
            first_line=f"Unsupported socks5 proxy: {USE_ANOTHER}",
            message_has=["the environment names the proxy"],
            never_shown=[PASSWORD],
            requests=0,
            check=nothing_was_left_open,
        ),
    ),
]


@on_each_stack(CASES)
def test_proxy(case: Case, stack: Stack, world: World) -> None:
    run_case(case, stack, world)
