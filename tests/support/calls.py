"""Settings of a connection, and what comes of a response, without a network: for tests of pure functions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.calls import read_batch, retrieve_batch
from airflow_provider_portkey.exceptions import PortkeyApiError
from airflow_provider_portkey.http import Response
from airflow_provider_portkey.settings import Settings

API_KEY = "pk-0123456789abcdef"
VIRTUAL_KEY: dict[str, Any] = {"virtual_key": "vk-stored-slug"}
SECRET_EXTRA = VIRTUAL_KEY | {
    "config": {"retry": {"attempts": 3}, "targets": [{"provider": "openai", "api_key": "sk-6f1e2d3c4b5a"}]},
    "headers": {"Authorization": "bearer sk-a0b9c8d7e6f5", "x-portkey-aws-secret-access-key": "wJalrXUtnFEMI/K7MDENG"},
    "proxy": "http://scott:tiger-tiger@proxy.example:3128",
}
#: The secrets of a connection with ``API_KEY`` and ``SECRET_EXTRA``.
SECRETS = [
    API_KEY,
    "vk-stored-slug",
    "sk-6f1e2d3c4b5a",
    "sk-a0b9c8d7e6f5",
    "wJalrXUtnFEMI/K7MDENG",
    "tiger-tiger",
]


def read_settings(extra: Any, password: str | None = API_KEY, **fields: Any) -> Settings:
    """Return the settings of connection ``my_portkey``. ``extra`` is JSON text, or what becomes JSON text."""
    text = extra if isinstance(extra, str | None) else json.dumps(extra)
    return Settings.from_connection("my_portkey", password=password, extra=text, **fields)


PLAIN, WITH_SECRETS = read_settings(VIRTUAL_KEY), read_settings(SECRET_EXTRA)


def read_response(status: int, body: Any, headers: dict[str, str] | None = None, settings: Settings = PLAIN) -> Batch:
    """Read a response to the retrieval of ``batch_1``. ``body`` is bytes, or what becomes JSON."""
    response = Response(status, headers or {}, body if isinstance(body, bytes) else json.dumps(body).encode())
    return read_batch(response, retrieve_batch(settings, "batch_1"), settings, "batch_1")


def error_of(*args: Any) -> PortkeyApiError:
    """Return the error that :func:`read_response` raises."""
    with pytest.raises(PortkeyApiError) as caught:
        read_response(*args)
    return caught.value
