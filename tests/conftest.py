"""Points Airflow at a home of its own before anything imports it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent
HOME = Path(tempfile.mkdtemp(prefix="airflow-portkey-"))
DAGS = HOME / "dags"

for name in [n for n in os.environ if n.startswith("AIRFLOW")]:
    del os.environ[name]
os.environ.update(
    AIRFLOW_HOME=str(HOME),
    AIRFLOW__CORE__DAGS_FOLDER=str(DAGS),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
    AIRFLOW__CORE__TEST_CONNECTION="Enabled",
    AIRFLOW__API_AUTH__JWT_SECRET="for tests on loopback, of at least 64 characters, as Airflow 3 wants it",
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{HOME}/airflow.db",
)

from tests.server.gateway import Gateway  # noqa: E402
from tests.server.standin import StandIn  # noqa: E402


def pytest_sessionfinish() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """Make the metadata database that running a DAG needs, and the DAGs' folder."""
    DAGS.mkdir()
    for file in (REPO / "example_dags").glob("*.py"):
        shutil.copy(file, DAGS)
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)


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
