"""One deployment of Airflow, one gateway and one stand-in, shared by all scenarios of a run."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.live.deployment import AIRFLOW, IS_AIRFLOW_2, Deployment
from tests.live.host import free_port, require_program
from tests.live.portkey import save_connection
from tests.server.gateway import Gateway
from tests.server.standin import StandIn


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the search for secrets last, because it searches what all other scenarios left behind."""
    items.sort(key=lambda item: item.path.name == "test_secrets.py")


@pytest.fixture(scope="session")
def standin() -> Iterator[StandIn]:
    with StandIn() as server:
        yield server


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    # The gateway is restarted on the same port, which no client may take in between.
    gateway.port = free_port()
    with gateway:
        yield gateway


@pytest.fixture(scope="session")
def airflow(request: pytest.FixtureRequest, standin: StandIn, gateway: Gateway) -> Iterator[Deployment]:
    if any("page" in getattr(item, "fixturenames", ()) for item in request.session.items) and not IS_AIRFLOW_2:
        # Without Chromium the run ends now, and not after the scenarios that need none.
        require_program("chromium", "chromium")
    home = Path(tempfile.mkdtemp(prefix="airflow-portkey-live-"))
    home.chmod(0o755)  # PostgreSQL runs as another user.
    print(f"\nAirflow {AIRFLOW}, in {home}", flush=True)
    # A run that is terminated, for example by timeout(1), stops its Airflow too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Deployment(home) as deployment:
        save_connection(deployment, standin, gateway)
        yield deployment
    if not request.session.testsfailed:
        shutil.rmtree(home)


@pytest.fixture
def page() -> Iterator[Any]:
    """Open a page in Debian's Chromium."""
    sync_api = import_module("playwright.sync_api")  # The linters' environment does not have it.
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=require_program("chromium", "chromium"),
            # A container gives root no sandbox, and little shared memory.
            args=["--no-sandbox", "--disable-dev-shm-usage"],
        )
        yield browser.new_page(viewport={"width": 1100, "height": 1180})
        browser.close()


@pytest.fixture
def save_screenshot(airflow: Deployment, page: Any) -> Callable[..., None]:
    """Return a function that saves a screenshot in the folder that ``SCREENSHOTS`` names, for example ``docs``."""
    folder = Path(os.environ.get("SCREENSHOTS", airflow.home))

    def save(name: str, **options: Any) -> None:
        page.screenshot(path=folder / name, **options)

    return save
