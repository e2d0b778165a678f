"""What is installed in the Airflow under test."""

from __future__ import annotations

import json
from importlib.metadata import distribution

from tests.live.deployment import Deployment


def test_airflow_lists_the_provider_and_it_is_installed_from_a_wheel(airflow: Deployment) -> None:
    installed = distribution("airflow-provider-portkey")
    versions = {p["package_name"]: p["version"] for p in airflow.get("providers", limit=100)["providers"]}
    assert versions["airflow-provider-portkey"] == installed.version
    assert json.loads(installed.read_text("direct_url.json") or "{}")["url"].endswith(".whl")
