"""Constants of the package that a case may change, so that no test waits for seconds or sends gigabytes."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

import pytest

from airflow_provider_portkey import failures, http, retry, wait
from airflow_provider_portkey.transport import aio, sync

#: Every module that has the constant: one that imported it has a name of its own.
_MODULES: dict[str, list[ModuleType]] = {
    "MAX_BACKOFF": [retry],
    "MAX_INLINE_RETRY_AFTER": [retry],
    "MAX_RETRY_AFTER": [retry],
    "GRACE": [wait],
    "MISSING_CONNECTION_GRACE": [wait],
    "MAX_RESPONSE_BYTES": [http, failures, sync, aio],
}
#: A call's attempts follow each other at once, and a Retry-After is left to the next poll.
FAST_BACKOFF = {"MAX_BACKOFF": 0.02, "MAX_INLINE_RETRY_AFTER": 0.02}
#: As in production: backoff in seconds, and a short Retry-After is waited for within the call.
REAL_BACKOFF = {"MAX_BACKOFF": retry.MAX_BACKOFF, "MAX_INLINE_RETRY_AFTER": retry.MAX_INLINE_RETRY_AFTER}
#: Backoff of at most 0.1 s, long enough to measure its jitter.
SHORT_BACKOFF = {"MAX_BACKOFF": 0.1}
SMALL_MAX_RETRY_AFTER = {"MAX_RETRY_AFTER": 0.3}
SHORT_GRACE = {"GRACE": 0.4}
SMALL_MAX_RESPONSE = {"MAX_RESPONSE_BYTES": 2**20}


def set_constants(monkeypatch: pytest.MonkeyPatch, values: Mapping[str, float]) -> None:
    for name, value in (FAST_BACKOFF | dict(values)).items():
        for module in _MODULES[name]:
            monkeypatch.setattr(module, name, value)
