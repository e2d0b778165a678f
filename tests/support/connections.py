"""Airflow connections, defined for one test."""

from __future__ import annotations

import json

import pytest


def set_connection(monkeypatch: pytest.MonkeyPatch, conn_id: str = "portkey_default", **fields: object) -> None:
    """Define an Airflow connection the way a deployment would: in the environment."""
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps({"conn_type": "portkey"} | fields))
