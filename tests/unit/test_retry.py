"""Which failures are retried, after which backoff, and what Retry-After means."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from airflow_provider_portkey.exceptions import PortkeyRefusedError as Refused
from airflow_provider_portkey.exceptions import PortkeyTransientError as Transient
from airflow_provider_portkey.retry import MAX_RETRY_AFTER, backoff_delay, is_retryable, parse_retry_after

NOW = 784111777.0  # 08:49:37 in the dates below
# Seconds, and the Retry-After headers that say so.
RETRY_AFTER: dict[float | None, list[str | dict[str, str]]] = {
    None: [{}, "soon", "", "nan", "inf", "Sun, 99 Nov 1994 08:50:07 GMT"],
    0: ["0", "-5", "Sun, 06 Nov 1994 08:00:00 GMT"],
    0.25: [" .25 ", {"retry-after-ms": "250", "retry-after": "9"}, {"x-ms-retry-after-ms": "250", "retry-after": "9"}],
    9: ["9", {"retry-after-ms": "soon", "retry-after": "9"}],
    30: ["Sun, 06 Nov 1994 08:50:07 GMT", "Sunday, 06-Nov-94 08:50:07 GMT", "Sun Nov  6 08:50:07 1994"],
    MAX_RETRY_AFTER: ["601", "31536000", "Sun, 06 Nov 2094 08:00:00 GMT"],
}
IS_RETRYABLE = {
    "a transient failure": (Transient("x"), True),
    "Retry-After of 10 s": (Transient("x", retry_after=10), True),
    "Retry-After of 11 s": (Transient("x", retry_after=11), False),
    "a batch that the provider does not know yet": (Refused("x", status_code=404, origin="provider"), True),
    "a path that the gateway does not know": (Refused("x", status_code=404, origin="gateway"), False),
    "a wrong key": (Refused("x", status_code=401, origin="provider"), False),
    "an error that is not ours": (ValueError("x"), False),
}


@pytest.mark.parametrize(
    ("header", "seconds"), [(header, seconds) for seconds in RETRY_AFTER for header in RETRY_AFTER[seconds]], ids=str
)
def test_retry_after_is_read_as_seconds_or_a_date(header: Any, seconds: float | None, monkeypatch: Any) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")  # A date without a zone is in GMT.
    time.tzset()
    found = parse_retry_after(header if isinstance(header, dict) else {"retry-after": header}, NOW)
    monkeypatch.undo()
    time.tzset()
    assert found == (None if seconds is None else pytest.approx(seconds))


@hypothesis(deadline=None)
@example("nan")
@given(st.text() | st.floats().map(str) | st.datetimes().map(lambda at: f"{at:%a, %d %b} {at.year} 08:50:07 GMT"))
def test_retry_after_is_none_or_within_bounds_for_any_header(value: str) -> None:
    for name in ("retry-after", "retry-after-ms", "x-ms-retry-after-ms"):
        found = parse_retry_after({name: value}, NOW)
        assert found is None or 0 <= found <= MAX_RETRY_AFTER


@pytest.mark.parametrize(("error", "retried"), IS_RETRYABLE.values(), ids=IS_RETRYABLE)
def test_only_failures_that_may_pass_soon_are_retried(error: Exception, retried: bool) -> None:
    assert is_retryable(error) is retried


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (Transient("x", status_code=429), False),
        (Transient("x", status_code=429, retry_after=0), False),
        (Transient("x", status_code=429, retry_after=5), True),
        (Transient("x", status_code=503), True),
        (Transient("x"), True),
    ],
    ids=lambda value: f"{value.status_code}, {value.retry_after}" if isinstance(value, Transient) else str(value),
)
def test_a_rate_limit_without_retry_after_is_left_to_the_next_poll(error: Transient, retried: bool) -> None:
    assert is_retryable(error, is_polled=True) is retried
    assert is_retryable(error)


def test_backoff_doubles_up_to_its_maximum_and_never_undercuts_retry_after() -> None:
    assert [backoff_delay(attempt, None, 0) for attempt in (1, 2, 3, 9)] == [1, 2, 4, 10]
    assert backoff_delay(1, Transient("x"), 1) == 1.5
    assert [backoff_delay(1, Transient("x", retry_after=7), jitter) for jitter in (0, 1)] == [7, 10.5]
