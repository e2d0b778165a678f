"""The gateway in front of the providers sends requests to loopback only."""

from __future__ import annotations

import requests

from tests.providers.collect import Client
from tests.providers.conftest import Clouds
from tests.providers.vertex import REGION, Vertex


def test_the_gateway_reaches_no_host_without_a_server_on_loopback(clouds: Clouds) -> None:
    headers = {"x-portkey-provider": "anthropic", "Authorization": "Bearer not-a-secret"}
    response = requests.get(f"{clouds.gateway.base_url}/batches/b", headers=headers, timeout=10)
    assert response.status_code == 500
    assert "No server on loopback stands for api.anthropic.com" in response.text


def test_the_original_host_is_in_a_header(clouds: Clouds) -> None:
    vertex = clouds.providers["vertex-ai"]
    assert isinstance(vertex, Vertex)
    Client(clouds.gateway, vertex).call("GET", "/batches/1")
    assert vertex.received[-1].headers["x-original-host"] == f"{REGION}-aiplatform.googleapis.com"
