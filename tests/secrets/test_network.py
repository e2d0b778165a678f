"""Outages, TLS and proxies with passwords: no message or log line shows a secret, and no proxy receives one of ours."""

from __future__ import annotations

from typing import Any

import pytest

from tests.secrets.scene import EXTRA, Run, Scene
from tests.server.standin import HOST, StandIn
from tests.support.evidence import API_KEY, PROXY_PASSWORD, VIRTUAL_KEY
from tests.support.tls import tls_server


def proxy_url(scene: Scene, *, refuses: bool = False, port: int | str | None = None) -> str:
    """Start a proxy, and return its URL with credentials; with ``port``, a URL where there is none."""
    world = scene.world
    world.proxy = world.serve_proxy(refuses=refuses)
    return f"http://me:{PROXY_PASSWORD}@{HOST}:{port or world.proxy.port}"


def serve_tls(scene: Scene, **certificate: Any) -> None:
    world = scene.world
    context = tls_server(**certificate)(world)
    world.standin = world.cleanup.enter_context(StandIn(api_key=API_KEY, virtual_key=VIRTUAL_KEY, ssl_context=context))


def connection_refused(scene: Scene) -> None:
    with scene.world.standin.outage():
        scene.wait("completed", timeout=0.4)


def tls_not_trusted(scene: Scene) -> None:
    serve_tls(scene)
    scene.world.set_connection(**EXTRA)
    scene.wait("completed", timeout=0.4)


def tls_certificate_expired(scene: Scene) -> None:
    serve_tls(scene, expired=True)
    scene.world.set_connection(**EXTRA, verify=str(scene.world.folder / "ca.pem"))
    scene.wait("completed", timeout=0.4)


def http_proxy(*, refuses: bool = False, port: int | str | None = None, in_connection: bool = False) -> Run:
    def run(scene: Scene) -> None:
        url = proxy_url(scene, refuses=refuses, port=port)
        if in_connection:
            scene.world.set_connection(**EXTRA, proxy=url)
        else:
            scene.world.set_env(HTTP_PROXY=url)
        scene.wait("in_progress", "completed", timeout=0.4 if refuses or port else 10.0)

    return run


def https_proxy(*, refuses: bool = False, port: int | str | None = None, **certificate: Any) -> Run:
    def run(scene: Scene) -> None:
        world = scene.world
        serve_tls(scene, **certificate)
        world.set_connection(**EXTRA, verify=str(world.folder / "ca.pem"))
        world.set_env(HTTPS_PROXY=proxy_url(scene, refuses=refuses, port=port))
        scene.wait("in_progress", "completed", timeout=0.4 if refuses or port or certificate else 10.0)
        if not refuses and not port:
            assert [head for head in world.proxy.heads if API_KEY in head or VIRTUAL_KEY in head] == []

    return run


def socks_proxy(scene: Scene) -> None:
    scene.world.set_env(ALL_PROXY=f"socks5://me:{PROXY_PASSWORD}@{HOST}:1")
    scene.wait("completed")


RUNS: dict[str, Run] = {
    "connection refused": connection_refused,
    "TLS, not trusted": tls_not_trusted,
    "TLS, certificate expired": tls_certificate_expired,
    "proxy": http_proxy(),
    "proxy of the connection": http_proxy(in_connection=True),
    "proxy that refuses": http_proxy(refuses=True),
    "proxy that is down": http_proxy(port=1),
    "proxy of the connection that is down": http_proxy(port=1, in_connection=True),
    "proxy with an invalid port": http_proxy(port="port"),
    "proxy of the connection with an invalid port": http_proxy(port="port", in_connection=True),
    "proxy for TLS": https_proxy(),
    "proxy for TLS that refuses": https_proxy(refuses=True),
    "proxy for TLS that is down": https_proxy(port=1),
    "proxy for TLS, certificate expired": https_proxy(expired=True),
    "SOCKS proxy": socks_proxy,
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_no_network_failure_reveals_a_secret(run: Run, scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    run(scene)
    assert scene.leaks(capfd) == []
