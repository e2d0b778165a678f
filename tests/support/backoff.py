"""The backoff between the attempts of one call."""

from __future__ import annotations

import pytest

from airflow_provider_portkey import retry


def set_max_backoff(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Limit the backoff between two attempts, and the Retry-After for which a call waits before its next attempt."""
    monkeypatch.setattr(retry, "MAX_BACKOFF", seconds)
    monkeypatch.setattr(retry, "MAX_INLINE_RETRY_AFTER", seconds)
