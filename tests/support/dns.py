"""DNS failures, without asking any name server."""

from __future__ import annotations

import socket
from typing import Any

from tests.support.world import World

_REAL_GETADDRINFO = socket.getaddrinfo


def make_host_unresolvable(world: World) -> None:
    """Point the connection at ``localhost``, and let that name be unknown to both HTTP libraries."""

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "localhost":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return _REAL_GETADDRINFO(host, *args, **kwargs)

    world.monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    world.set_connection(host=f"http://localhost:{world.standin.port}")


def restore_dns(world: World) -> None:
    world.monkeypatch.setattr(socket, "getaddrinfo", _REAL_GETADDRINFO)
