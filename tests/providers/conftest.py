"""Portkey's real gateway in front of every provider."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count

import pytest

from airflow_provider_portkey import creation
from tests.providers.azure import Azure
from tests.providers.bedrock import Bedrock
from tests.providers.cohere import Cohere
from tests.providers.openai import OpenAI
from tests.providers.provider import Provider
from tests.providers.scripted import Anthropic, Managed
from tests.providers.storage import Storage
from tests.providers.vertex import Vertex
from tests.server.gateway import Gateway
from tests.support.backoff import set_max_backoff
from tests.support.connections import set_connection

#: Those behind the gateway, and those that the open-source gateway does not have.
NAMES = (OpenAI.name, Azure.name, Bedrock.name, Vertex.name, Cohere.name)
SCRIPTED = (Managed.name, Anthropic.name)

_buckets = count(1)


@dataclass(frozen=True)
class Clouds:
    """The gateway, and the providers by name."""

    gateway: Gateway
    providers: dict[str, Provider]
    storage: Storage


@pytest.fixture(scope="session")
def clouds() -> Iterator[Clouds]:
    """Run the gateway and, on loopback, the providers behind it."""
    with ExitStack() as stack:
        storage = stack.enter_context(Storage())
        openai, azure = stack.enter_context(OpenAI()), stack.enter_context(Azure())
        bedrock, vertex = stack.enter_context(Bedrock(storage)), stack.enter_context(Vertex(storage))
        cohere = stack.enter_context(Cohere())
        ports = storage.ports | {
            "openai": openai.standin.port,
            "azure": azure.port,
            "bedrock": bedrock.port,
            "vertex": vertex.port,
            "cohere": cohere.port,
        }
        gateway = stack.enter_context(Gateway(clouds=ports))
        scripted = [stack.enter_context(provider()) for provider in (Managed, Anthropic)]
        providers = (openai, azure, bedrock, vertex, cohere, *scripted)
        yield Clouds(gateway, {provider.name: provider for provider in providers}, storage)


@pytest.fixture(params=NAMES + SCRIPTED)
def provider(request: pytest.FixtureRequest, clouds: Clouds, monkeypatch: pytest.MonkeyPatch) -> Provider:
    """Make ``portkey_default`` a connection to each provider in turn, with a bucket of its own."""
    return connect(clouds, request.param, monkeypatch)


def connect(clouds: Clouds, name: str, monkeypatch: pytest.MonkeyPatch, **headers: str) -> Provider:
    """Make ``portkey_default`` a connection to a provider, with further headers."""
    provider = clouds.providers[name]
    provider.reset(f"batches-{next(_buckets)}")
    fields = provider.connection(provider.base_url or clouds.gateway.base_url)
    fields["extra"]["headers"] |= headers
    set_connection(monkeypatch, **fields)
    monkeypatch.setattr(creation, "FILE_POLL_INTERVAL", 0.05)
    # Some providers answer what they do not have as a proxy would, so that it is asked for again.
    set_max_backoff(monkeypatch, 0.05)
    return provider
