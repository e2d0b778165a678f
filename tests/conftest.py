"""Gives Airflow its own home before anything imports it; the fixtures of all suites; the search for leaks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

REPO = Path(__file__).parent.parent
HOME = Path(tempfile.mkdtemp(prefix="airflow-portkey-"))
DAGS = HOME / "dags"

for name in [n for n in os.environ if n.startswith("AIRFLOW")]:
    del os.environ[name]
os.environ.update(
    AIRFLOW_HOME=str(HOME),
    NO_PROXY="127.0.0.1",
    AIRFLOW__CORE__DAGS_FOLDER=str(DAGS),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
    AIRFLOW__CORE__TEST_CONNECTION="Enabled",
    AIRFLOW__API_AUTH__JWT_SECRET="for tests on loopback, of at least 64 characters, as Airflow 3 wants it",
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{HOME}/airflow.db",
)

from tests.providers import keys  # noqa: E402
from tests.server.gateway import Gateway  # noqa: E402
from tests.server.standin import StandIn  # noqa: E402
from tests.support.connections import set_connection  # noqa: E402

if TYPE_CHECKING:
    from tests.support.world import World

#: The keys of the stand-in and the providers, which no test may print or log, and Airflow may not store.
SECRETS = (StandIn().api_key, StandIn().provider_key, *keys.ALL)
#: What aiohttp and asyncio log about objects that were left open.
UNCLOSED = ("Unclosed client session", "Unclosed connector", "Task was destroyed but it is pending")
_leaks: list[str] = []


def files_with(secrets: Iterable[str], folder: Path) -> list[str]:
    """Return the files below ``folder`` that hold one of ``secrets``: logs, the metadata database, anything."""
    wanted = [secret.encode() for secret in secrets]
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [str(path.relative_to(folder)) for path in files if any(s in path.read_bytes() for s in wanted)]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.passed:
        output = "".join(text for _, text in report.sections)
        if any(secret in output for secret in SECRETS):
            _leaks.append(f"A secret is in the output or log of {report.nodeid}")
        # The object may be of an earlier test: it is reported when it is collected.
        _leaks.extend(f"{words}: in or before {report.nodeid}" for words in UNCLOSED if words in output)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run whose tests all passed if it leaked a secret, or left a session or a task open."""
    _leaks.extend(f"A secret is in Airflow's {name}" for name in files_with(SECRETS, HOME))
    if _leaks:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    shutil.rmtree(HOME, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for leak in dict.fromkeys(_leaks):
        terminalreporter.line(leak, red=True)


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """Make the metadata database that running a DAG needs, and the DAGs' folder."""
    DAGS.mkdir()
    for file in (REPO / "example_dags").glob("*.py"):
        shutil.copy(file, DAGS)
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
    with suppress(ImportError):  # Airflow 2
        from airflow.sdk.execution_time import supervisor

        # Airflow 3.3 keeps it too; earlier ones build it anew for each task, which takes them seconds.
        supervisor.in_process_api_server = cache(supervisor.in_process_api_server)


@pytest.fixture
def standin() -> Iterator[StandIn]:
    with StandIn() as server:
        yield server


@pytest.fixture
def connection(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make ``portkey_default`` a connection to the stand-in; return its id."""
    set_connection(monkeypatch, host=standin.url, password=standin.api_key, extra={"virtual_key": standin.virtual_key})
    return "portkey_default"


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    """Run Portkey's real open-source gateway."""
    with Gateway() as gateway:
        yield gateway


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[World]:
    """The place of one hostile case: see :mod:`tests.support.world`."""
    # Imported here, because it imports what a run of other tests need not have.
    from tests.support.world import open_world

    with open_world(monkeypatch, tmp_path) as world:
        yield world
