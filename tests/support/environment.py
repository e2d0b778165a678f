"""The environment variables of whoever runs the tests."""

from __future__ import annotations

import pytest

_VARIABLES = [
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "netrc",
    "requests_ca_bundle",
    "curl_ca_bundle",
    "ssl_cert_file",
]


def clear_proxy_and_ca_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset the variables that name proxies, CA files and credentials, so that a test starts without any."""
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
