"""What Airflow sees of the package: its registration, its connection type, and what an import loads."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from importlib.resources import files
from typing import Any

import jsonschema
import pytest

from airflow_provider_portkey.exceptions import PortkeyRefusedError
from airflow_provider_portkey.get_provider_info import CONNECTION_TYPE, get_provider_info
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from tests.conftest import REPO
from tests.server.standin import StandIn


def run_python(code: str) -> Any:
    """Run code in a new interpreter and return the JSON that its last line of output is."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout.splitlines()[-1])


def schema(name: str) -> Any:
    return json.loads((files("airflow") / name).read_text())


def test_the_entry_point_is_get_provider_info() -> None:
    [entry] = [e for e in entry_points(group="apache_airflow_provider") if e.module.startswith("airflow_provider_p")]
    assert entry.name == "provider_info"
    assert entry.load() is get_provider_info


def test_provider_info_matches_airflow_s_schema() -> None:
    jsonschema.validate(get_provider_info(), schema("provider_info.schema.json"))


def test_the_connection_form_matches_airflow_s_schema() -> None:
    properties = schema("provider.yaml.schema.json")["properties"]["connection-types"]["items"]
    assert "connection-type" in properties["properties"]
    jsonschema.validate(CONNECTION_TYPE, properties)


def test_the_links_of_the_providers_page_lead_somewhere() -> None:
    # Airflow's page removes this syntax, and takes each word that begins like a URL as a whole.
    words = re.sub("[`_<>]", "", get_provider_info()["description"]).split(" ")
    links = [word for word in words if word.startswith("http")]
    assert links == ["https://portkey.ai/"]
    urls = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["urls"]
    integration = get_provider_info()["integrations"][0]
    assert urls["Documentation"] == integration["external-doc-url"]


def test_every_module_and_class_in_provider_info_exists() -> None:
    info = get_provider_info()
    modules = [m for kind in ("hooks", "operators", "sensors", "triggers") for m in info[kind][0]["python-modules"]]
    assert len(modules) == 5
    for module in modules:
        __import__(module)
    [connection] = info["connection-types"]
    assert connection["hook-class-name"] == f"{PortkeyHook.__module__}.{PortkeyHook.__qualname__}"
    assert (connection["connection-type"], connection["hook-name"]) == (PortkeyHook.conn_type, PortkeyHook.hook_name)


def test_provider_discovery_imports_no_other_module() -> None:
    code = """
import sys, json
before = set(sys.modules)
from airflow_provider_portkey.get_provider_info import get_provider_info
get_provider_info()
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    loaded = run_python(code)
    assert "airflow_provider_portkey.get_provider_info" in loaded
    assert {name.split(".")[0] for name in loaded} <= {"airflow_provider_portkey", "typing", "__future__"} | set(
        sys.stdlib_module_names
    )


@pytest.mark.parametrize("module", ["sensors", "operators"])
def test_importing_for_a_dag_loads_no_http_library(module: str) -> None:
    code = f"""
import sys, json
from airflow.providers.common.compat.sdk import BaseOperator, BaseSensorOperator
before = set(sys.modules)
import airflow_provider_portkey.{module}.batch
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    loaded = run_python(code)
    assert f"airflow_provider_portkey.{module}.batch" in loaded
    assert not {name.split(".")[0] for name in loaded} & {"requests", "aiohttp", "urllib3", "tenacity", "httpx"}


def test_importing_the_package_causes_no_warning() -> None:
    code = """
import json, warnings
from airflow.providers.common.compat.sdk import BaseOperator, BaseSensorOperator
import airflow.triggers.base
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import airflow_provider_portkey.sensors.batch, airflow_provider_portkey.operators.batch
    import airflow_provider_portkey.triggers.batch
print(json.dumps([str(w.message) for w in caught if "airflow_provider_portkey" in w.filename]))
"""
    assert run_python(code) == []


def airflow(*args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "airflow", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | (env or {}))


def connection(standin: StandIn, change: dict[str, Any]) -> str:
    """Return a connection that works, with this change, as JSON."""
    fields = {
        "conn_type": "portkey",
        "host": standin.url,
        "password": standin.api_key,
        "extra": {"virtual_key": standin.virtual_key},
    }
    return json.dumps(fields | change).replace("{url}", standin.url)


#: What is changed in a connection that works, and words of the result of its test.
TESTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "valid": ({}, ["Connection success"]),
    "wrong key": (
        {"password": "wrong"},
        ["API key rejected by Portkey (HTTP 401): check the password of the connection"],
    ),
    "wrong virtual key": (
        {"extra": {"virtual_key": "other"}},
        ["Unknown virtual key, provider or config (HTTP 400): check the extra of the connection"],
    ),
    "no network": ({"host": "http://127.0.0.1:1"}, ["Cannot reach 127.0.0.1", "Check the host of the connection"]),
    "wrong URL": ({"host": "{url}/elsewhere"}, ["No API at this address (HTTP 404): check the host of the connection"]),
    "no provider": ({"extra": {}}, ["virtual_key", "provider", "config", "managed"]),
    "host of a call": ({"host": "{url}/v1/batches"}, ["Invalid connection: host: remove what follows /v1"]),
    "CA certificates that are missing": (
        {"host": "https://gw.example", "extra": {"managed": True, "verify": "/no/such.pem"}},
        ["No CA certificates", "For the connection, verify"],
    ),
}


@pytest.mark.usefixtures("airflow_db")
class TestCommandLine:
    def test_airflow_lists_the_provider_and_the_hook(self) -> None:
        assert "airflow-provider-portkey" in airflow("providers", "list").stdout
        assert "PortkeyHook" in airflow("providers", "hooks", "-o", "plain").stdout

    @pytest.mark.parametrize(("change", "words"), TESTS.values(), ids=TESTS)
    def test_connections_test_says_what_to_change(
        self, change: dict[str, Any], words: list[str], standin: StandIn
    ) -> None:
        done = airflow(
            "connections",
            "test",
            "portkey_default",
            env={"AIRFLOW_CONN_PORTKEY_DEFAULT": connection(standin, change)},
        )
        output = " ".join((done.stdout + done.stderr).split())
        for word in words:
            assert word in output


@pytest.mark.parametrize(("change", "words"), TESTS.values(), ids=TESTS)
def test_the_test_of_a_form_does_not_show_the_passing_name_that_airflow_gives_its_connection(
    change: dict[str, Any], words: list[str], standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SSNUBKYA", connection(standin, change))
    hook = PortkeyHook("ssnUBkYA")
    passed, text = hook.test_connection()
    assert passed is (change == {})
    assert "ssnubkya" not in text.lower()
    if not passed:
        assert [word for word in words if word not in text] == []


def test_after_a_test_a_hook_names_its_connection_again(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MINE", connection(standin, {"password": "wrong"}))
    hook = PortkeyHook("mine")
    hook.test_connection()
    with pytest.raises(PortkeyRefusedError, match="check the password of connection 'mine'"):
        hook.get_batch("batch_1")
