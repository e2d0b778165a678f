"""
The course of one wait: when to poll again, and what of it is worth a log line.

The trigger and the operators that wait on a worker share this. A sensor in mode poke or reschedule is paced by Airflow,
and uses :class:`Progress` alone. No I/O, no Airflow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from airflow_provider_portkey.batch import Batch

if TYPE_CHECKING:
    from airflow_provider_portkey.exceptions import PortkeyTransientError


class Log(Protocol):
    """What a task's logger and a trigger's have in common in each Airflow version."""

    def debug(self, msg: str, /, *args: object) -> object:
        """Log a detail."""

    def info(self, msg: str, /, *args: object) -> object:
        """Log a change."""

    def warning(self, msg: str, /, *args: object) -> object:
        """Log what somebody may have to act on."""


class Progress:
    """
    Remembers the last poll's result, so that the log shows changes and not polls.

    :ivar last_status: the last known status, in words, and what failed since
    :ivar retry_after: seconds that the last response asked to wait
    """

    def __init__(self) -> None:
        self._status = self.last_status = "none received"
        self.retry_after = 0.0
        self._state: object = None
        self._failing = False
        self._unknown_statuses: set[str | None] = set()

    def record_status(self, batch: Batch, log: Log) -> None:
        """Record a response, and log what it changes."""
        state = (batch.provider_status, batch.request_counts)
        if self._failing:
            log.info("Portkey is reachable again (batch %s).", batch.id)
        if state != self._state:
            log.info("%s.", batch)
        status = batch.provider_status
        if not batch.status_is_known and status not in self._unknown_statuses:
            self._unknown_statuses.add(status)
            log.warning(
                "Unknown status %r counts as in flight, until the task's timeout (batch %s).",
                status,
                batch.id,
            )
        self._status = self.last_status = str(batch)
        self.retry_after = 0.0
        self._state, self._failing = state, False

    def record_failure(self, error: PortkeyTransientError, log: Log) -> None:
        """Record a poll that failed, and log it unless the one before failed in the same way."""
        state = (error.origin, error.status_code)
        if state != self._state:
            log.warning("Still waiting: %s", error)
        self.last_status = f"{self._status}. The polls since then failed: {error}"
        self.retry_after = error.retry_after or 0.0
        self._state, self._failing = state, True


class Schedule:
    """
    When to poll again, until the deadline.

    The deadline is wall-clock time, since a trigger may continue in another process. Within one process the monotonic
    clock measures it, so that an adjusted wall clock does not move it.

    :param started_at: when the wait began, in Unix seconds
    :param deadline: when it ends, in Unix seconds
    :param poke_interval: seconds between two polls
    :param exponential_backoff: let the interval grow with the time waited so far, so that it about doubles each time
    :param max_wait: the longest interval in seconds; ``None`` for no limit
    :param clock: a monotonic clock
    """

    def __init__(
        self,
        *,
        started_at: float,
        deadline: float,
        poke_interval: float,
        exponential_backoff: bool = False,
        max_wait: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        offset = clock() - time.time()
        self._started_at = started_at + offset
        self._deadline = deadline + offset
        self._poke_interval = poke_interval
        self._exponential_backoff = exponential_backoff
        self._max_wait = max_wait
        self._clock = clock

    def delay(self, jitter: float, retry_after: float = 0.0) -> float | None:
        """
        Return the seconds until the next poll, or ``None`` once the deadline has passed.

        The last poll falls on the deadline.

        :param jitter: a random number from 0 to 1: takes up to a tenth off the interval, so that waits which begin
            together drift apart
        :param retry_after: seconds that the last response asked to wait. Many waits may have been asked at once, so
            their next polls are spread over a whole interval
        """
        left = self.left
        if not left:
            return None
        interval = self._poke_interval
        if self._exponential_backoff:
            interval = max(interval, self._clock() - self._started_at)
        if self._max_wait is not None:
            interval = min(interval, self._max_wait)
        delay = interval * (1 - jitter / 10)
        if retry_after:
            delay = max(delay, retry_after + jitter * interval)
        return min(delay, left)

    @property
    def left(self) -> float:
        """Seconds until the deadline, 0 once it has passed."""
        return max(0.0, self._deadline - self._clock())


def as_seconds(name: str, value: timedelta | float) -> float:
    """
    Return a duration in seconds.

    :raises ValueError: if it is not one
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise ValueError(f"{name} must be a timedelta or a number of seconds, 0 or more; got {value!r}")
    return float(seconds)
