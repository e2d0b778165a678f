"""The fixture of every call's tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.calls.world import CallWorld
from tests.support.backoff import set_max_backoff
from tests.support.environment import clear_proxy_and_ca_environment
from tests.support.time_limit import fail_after
from tests.support.world import record_package_log


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[CallWorld]:
    """A server with files and a batch, and a hook. No test may log the API key, or last longer than 20 s."""
    clear_proxy_and_ca_environment(monkeypatch)
    with fail_after(20), ExitStack() as cleanup:
        world = CallWorld(monkeypatch, tmp_path, cleanup)
        record_package_log(monkeypatch, world.log)
        yield world
        assert not any(world.standin.api_key in line for _, line in world.log.lines)


@pytest.fixture
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    set_max_backoff(monkeypatch, 0.01)
