"""TLS with a private certificate authority."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import trustme

from tests.server.standin import HOST
from tests.support.world import World


def tls_server(
    name: str = HOST, *, expired: bool = False, signed_by: Callable[[World], trustme.CA] | None = None
) -> Callable[[World], ssl.SSLContext]:
    """
    Return a function that makes a server's TLS context: a certificate for ``name``, signed by a private CA.

    The CA's own certificate is written to ca.pem in the world's folder. ``signed_by`` names another CA than that one.
    """

    def context(world: World) -> ssl.SSLContext:
        world.ca = trustme.CA()
        world.ca.cert_pem.write_to_path(world.folder / "ca.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca = signed_by(world) if signed_by else world.ca
        now = datetime.now(UTC)
        not_after = now + timedelta(days=-1 if expired else 1)
        ca.issue_cert(name, not_before=now - timedelta(days=9), not_after=not_after).configure_cert(context)
        world.renew_certificate = lambda: world.ca.issue_cert(HOST).configure_cert(context)
        return context

    return context


def trust_private_ca(world: World) -> None:
    """Name the private CA in the connection."""
    world.set_connection(verify=str(world.folder / "ca.pem"))
