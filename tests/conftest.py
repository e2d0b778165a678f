"""Points Airflow at a home of its own before anything imports it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

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

from tests.server.gateway import Gateway  # noqa: E402
from tests.server.standin import StandIn  # noqa: E402

#: What no test may print, log or have Airflow store: the stand-in's keys.
SECRETS = (StandIn().api_key, StandIn().provider_key)
#: What aiohttp and asyncio say of what was left open.
UNCLOSED = ("Unclosed client session", "Unclosed connector", "Task was destroyed but it is pending")
_leaks: list[str] = []


def files_with(secrets: Iterable[str], folder: Path) -> list[str]:
    """Return the files below ``folder`` that hold one of ``secrets``: logs, the metadata database, anything."""
    wanted = [secret.encode() for secret in secrets]
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [str(path.relative_to(folder)) for path in files if any(s in path.read_bytes() for s in wanted)]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.passed:
        told = "".join(text for _, text in report.sections)
        if any(secret in told for secret in SECRETS):
            _leaks.append(f"A secret is in what {report.nodeid} printed or logged")
        _leaks.extend(f"{words}: by the time of {report.nodeid}" for words in UNCLOSED if words in told)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run, however green, that left a secret in what it printed, logged or stored, or something open."""
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


def set_connection(monkeypatch: pytest.MonkeyPatch, conn_id: str = "portkey_default", **fields: object) -> None:
    """Define an Airflow connection the way a deployment would: in the environment."""
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps({"conn_type": "portkey"} | fields))


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    """Run Portkey's real open-source gateway."""
    with Gateway() as gateway:
        yield gateway
