"""Where one hostile case happens."""

from __future__ import annotations

import itertools
import logging
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.server.standin import StandIn
from tests.support.clock import Clock
from tests.support.connections import set_connection
from tests.support.environment import clear_proxy_and_ca_environment
from tests.support.proxy import Proxy
from tests.support.recorder import Recorder


class World:
    """The servers, the connection, the clock and the log of one case, and what its wait returned or raised."""

    standin: StandIn
    #: A second server, to which nothing may be sent.
    other_server: StandIn
    proxy: Proxy
    #: The private certificate authority of :mod:`tests.support.tls`.
    ca: trustme.CA
    renew_certificate: Callable[[], None]

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, cleanup: ExitStack) -> None:
        self.monkeypatch = monkeypatch
        self.folder = folder
        #: Closed when the test ends, after everything that was entered into it.
        self.cleanup = cleanup
        #: Closed by a case to end an outage.
        self.outage = cleanup.enter_context(ExitStack())
        self.log = Recorder()
        self.clock = Clock()
        self.result: dict[str, Any] | None = None
        self.error: BaseException | None = None
        self.event: dict[str, Any] | None = None
        self.xcoms: dict[str, Any] = {}
        self.started_at = self.ended_at = 0.0

    def serve(self, context: ssl.SSLContext | None = None) -> StandIn:
        return self.cleanup.enter_context(StandIn(ssl_context=context))

    def serve_proxy(self, *, refuses: bool = False) -> Proxy:
        return self.cleanup.enter_context(Proxy(refuses=refuses))

    def set_connection(self, *, host: str | None = None, password: str | None = None, **extra: Any) -> None:
        """Define the Airflow connection; what is not given is the stand-in's own."""
        set_connection(
            self.monkeypatch,
            host=host or self.standin.url,
            password=password or self.standin.api_key,
            extra={"virtual_key": self.standin.virtual_key} | extra,
        )

    def set_env(self, **variables: str | Path) -> None:
        for name, value in variables.items():
            self.monkeypatch.setenv(name, str(value))

    def write_file(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        # requests reads a .netrc only if nobody else may.
        path.chmod(0o600)
        return path

    @property
    def message(self) -> str:
        """The error's message, or the warnings of a wait that succeeded."""
        return str(self.error) if self.error else "\n".join(self.log.messages(logging.WARNING))

    @property
    def request_intervals(self) -> list[float]:
        """The seconds between each request and the next."""
        times = [seen.at for seen in self.standin.requests]
        return [later - earlier for earlier, later in itertools.pairwise(times)]


def record_package_log(monkeypatch: pytest.MonkeyPatch, recorder: Recorder) -> None:
    """Let the sensor, the trigger and the hook log to ``recorder``: Airflow 3's structlog ignores handlers."""
    # Imported here, because the other users of this module need no Airflow.
    from airflow_provider_portkey.hooks.portkey import PortkeyHook
    from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor
    from airflow_provider_portkey.triggers.batch import PortkeyBatchTrigger

    logger = logging.Logger("recorded", logging.DEBUG)
    logger.addHandler(recorder)
    for kind in (PortkeyBatchSensor, PortkeyBatchTrigger, PortkeyHook):
        monkeypatch.setattr(kind, "log", logger)


@contextmanager
def open_world(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[World]:
    """Build the world of one test, without a server and without a connection, and close it."""
    clear_proxy_and_ca_environment(monkeypatch)
    with ExitStack() as cleanup:
        world = World(monkeypatch, folder, cleanup)
        record_package_log(monkeypatch, world.log)
        asyncio_logger = logging.getLogger("asyncio")
        asyncio_logger.addHandler(world.log)
        cleanup.callback(asyncio_logger.removeHandler, world.log)
        yield world
