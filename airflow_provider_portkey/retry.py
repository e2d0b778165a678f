"""When one call is sent again: attempts, backoff, ``Retry-After``. The one place for retries within a call."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_portkey.exceptions import PortkeyApiError, PortkeyRefusedError, PortkeyTransientError

if TYPE_CHECKING:
    from airflow_provider_portkey.wait import Log

#: How often one call is sent before it counts as failed.
MAX_ATTEMPTS = 3
#: Seconds before the second attempt; they double with each further one. Jitter adds up to a half.
INITIAL_BACKOFF = 1.0
#: The longest backoff in seconds, before jitter.
MAX_BACKOFF = 10.0
#: The longest ``Retry-After``, in seconds, that is waited for within a call. A longer one ends the call: the next poll
#: of a wait comes after it.
MAX_INLINE_RETRY_AFTER = 10.0
#: The longest ``Retry-After``, in seconds, that is honored at all.
MAX_RETRY_AFTER = 600.0


def is_retryable(error: BaseException, *, is_polled: bool = False) -> bool:
    """
    Whether the same call may be sent again, as one of :data:`MAX_ATTEMPTS`.

    An unknown batch or file is retried: just after its creation, the replica that answers may not know it yet.

    :param is_polled: whether the caller will repeat the call anyway: then a rate limit without ``Retry-After`` is left
        to its next poll, since more requests would prolong it
    """
    if isinstance(error, PortkeyTransientError):
        if is_polled and error.status_code == 429 and not error.retry_after:
            return False
        return (error.retry_after or 0) <= MAX_INLINE_RETRY_AFTER
    return isinstance(error, PortkeyRefusedError) and error.status_code == 404 and error.origin != "gateway"


def backoff_delay(attempt: int, error: BaseException | None, jitter: float) -> float:
    """
    Return the seconds before the next attempt.

    :param attempt: how many attempts were made
    :param error: how the last one failed; its ``Retry-After`` replaces the backoff
    :param jitter: a random number from 0 to 1: adds up to a half, so that many tasks do not retry in step
    """
    retry_after = error.retry_after if isinstance(error, PortkeyApiError) else None
    return min(MAX_BACKOFF, retry_after or INITIAL_BACKOFF * 2 ** (attempt - 1)) * (1 + jitter / 2)


def parse_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """
    Return the seconds that a response asks to wait, at most :data:`MAX_RETRY_AFTER`; ``None`` if it asks for none.

    :param headers: with names in lower case
    :param now: the current time, in Unix seconds
    """
    for name, unit in (("retry-after-ms", 1e-3), ("x-ms-retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                date = parsedate_to_datetime(value)  # asctime's format has no time zone; all are GMT
                seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
            except (ValueError, OverflowError):
                continue
        if math.isfinite(seconds):
            return min(max(seconds, 0.0), MAX_RETRY_AFTER)
    return None


def tenacity_policy(retry_within: float | None, log: Log) -> dict[str, Any]:
    """
    Return the arguments of ``tenacity.Retrying`` and ``tenacity.AsyncRetrying``.

    :param retry_within: seconds after which no further attempt begins, for a wait that polls; ``None`` for any other
        call, which has no limit
    :param log: gets one debug line per failed attempt
    """
    from tenacity import RetryCallState, retry_if_exception, stop_after_attempt, stop_any, stop_before_delay

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return backoff_delay(state.attempt_number, error, random.random())

    def before_sleep(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.debug("Attempt %d of %d failed: %s", state.attempt_number, MAX_ATTEMPTS, error)

    return {
        "stop": stop_any(
            stop_after_attempt(MAX_ATTEMPTS), stop_before_delay(math.inf if retry_within is None else retry_within)
        ),
        "wait": wait,
        "retry": retry_if_exception(partial(is_retryable, is_polled=retry_within is not None)),
        "before_sleep": before_sleep,
        "reraise": True,
    }
