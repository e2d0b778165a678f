"""Clients of the stand-in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from tests.server.client import HOSTED, PROVIDER_KEY, Client
from tests.server.gateway import Gateway
from tests.server.standin import StandIn


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """One connection pool, without proxies and credentials of the environment."""
    with requests.Session() as session:
        session.trust_env = False
        session.headers.update(HOSTED)
        yield session


@pytest.fixture
def client(standin: StandIn) -> Client:
    """A client of the hosted service."""
    return Client(standin.base_url, HOSTED)


@pytest.fixture(params=["hosted", "provider", "gateway"])
def each_client(request: pytest.FixtureRequest, standin: StandIn) -> Client:
    """A client of the hosted service, of the provider, and of the real gateway in front of the provider."""
    if request.param == "gateway":
        gateway: Gateway = request.getfixturevalue("gateway")
        return Client(gateway.base_url, gateway.headers(standin))
    return Client(standin.base_url, HOSTED if request.param == "hosted" else PROVIDER_KEY)
