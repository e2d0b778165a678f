"""The scene of each test, once per HTTP stack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from airflow_provider_portkey import retry
from tests.secrets.scene import EXTRA, Scene
from tests.server.standin import StandIn
from tests.support.environment import clear_proxy_and_ca_environment
from tests.support.evidence import API_KEY, VIRTUAL_KEY, Evidence, record_logging, record_structlog
from tests.support.stacks import STACKS
from tests.support.world import World


@pytest.fixture(params=STACKS)
def scene(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Scene]:
    clear_proxy_and_ca_environment(monkeypatch)
    monkeypatch.setattr(retry, "MAX_BACKOFF", 0.02)
    evidence = Evidence()
    with ExitStack() as cleanup:
        world = World(monkeypatch, tmp_path, cleanup)
        world.standin = cleanup.enter_context(StandIn(api_key=API_KEY, virtual_key=VIRTUAL_KEY))
        world.set_connection(**EXTRA)
        record_logging(evidence, cleanup)
        record_structlog(evidence, cleanup)
        yield Scene(world, evidence, request.param)
