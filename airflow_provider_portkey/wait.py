"""
The course of one wait: when to poll again, and what of it is worth a log line.

The trigger and the operators that wait on a worker share this. A sensor in mode poke or reschedule is paced by Airflow,
and uses :class:`Progress` and :func:`poll_interval` alone. No I/O, no Airflow.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.exceptions import (
    PortkeyConnectionNotFoundError,
    PortkeyError,
    PortkeyRefusedError,
    PortkeyTransientError,
)
from airflow_provider_portkey.text import duration, sentence

#: How many seconds a wait polls on before it believes a rejected key, or that a completed batch has no output file.
GRACE = 120.0
#: How many seconds a wait continues while Airflow does not find its connection.
MISSING_CONNECTION_GRACE = 600.0
#: The longest silence of a wait's log, in seconds.
HOUR = 3600.0
# Seconds until the second warning of a wait that was never answered; they double with each further one, up to an hour.
_FIRST_GAP = 60.0
# Airflow stores the deadline as a date, which has four digits for the year.
_LONGEST = 100 * 365 * 86_400.0


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
    What a wait has seen so far: decides which failures it outlives, and logs changes instead of polls.

    Workers and triggers share these rules:

    - A transient failure never ends a wait.
    - Once Portkey has answered with the batch, a refusal that neither Portkey nor a provider wrote does not end it
      either: what stands in front of the gateway is not the gateway.
    - Three things are believed only after a grace, during which the wait polls on: a rejected key (401), since it may
      be rotated just now; a connection that Airflow does not find, since its secrets backend may be down; and a batch
      that has completed without naming the file of its answers.

    :param polled: whether another process of this wait has polled before
    :param answered: whether one of its polls was answered with the batch
    :param silent_fail: let a missing connection never end the wait, as Airflow's parameter of a sensor says
    :param clock: a monotonic clock

    :ivar last_status: the last known status, in words, and what failed since
    :ivar retry_after: seconds that the last response asked to wait
    :ivar pending: what the wait ends with if its deadline comes during a grace
    """

    def __init__(
        self,
        *,
        polled: bool = False,
        answered: bool = False,
        silent_fail: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.answered = answered
        self._status = self.last_status = "none received"
        self.retry_after = 0.0
        self.pending: Batch | PortkeyRefusedError | None = None
        self._polled = polled
        self._silent_fail = silent_fail
        self._clock = clock
        self._started_at = self._logged_at = clock()
        self._had_response = answered
        self._state: object = None
        self._failing: str | None = None
        self._unknown_statuses: set[str | None] = set()
        # When the next warning about the same failure is due, and how long after the one before.
        self._warn_at = self._warn_gap = 0.0
        # What the wait does not believe yet, and until when.
        self._grace: tuple[str, float] | None = None

    def record_status(self, batch: Batch, log: Log) -> None:
        """Record a response, and log what it changes."""
        state = (batch.provider_status, batch.request_counts)
        if self._failing is not None:
            log.info("Portkey is reachable again (batch %s).", batch.id)
        if state != self._state:
            self._logged_at = self._clock()
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
        self._state, self._failing = state, None
        self._polled = self.answered = self._had_response = True
        if not batch.status.is_terminal:
            self._grace = self.pending = None

    def is_over(self, batch: Batch, log: Log) -> bool:
        """Whether the batch has ended, and what it says of its end can be believed."""
        if not batch.status.is_terminal:
            return False
        is_new = self._grace is None or self._grace[0] != "output"
        if not batch.lacks_output or not self._is_within_grace("output", GRACE):
            return True
        self.pending = batch
        if is_new:
            text = "Batch %s has completed, but names no output file yet: polling on for at most %s."
            log.info(text, batch.id, duration(GRACE))
        return False

    def record_failure(self, error: PortkeyError, log: Log) -> bool:
        """
        Record a poll that failed, unless it ends the wait, and log it if it is news.

        :return: whether the wait continues
        """
        grace = self._tolerance(error)
        if grace is None:
            return False
        state = (type(error), getattr(error, "origin", None), getattr(error, "status_code", None))
        if state != self._state:
            self._warn_gap = _FIRST_GAP
            if grace == math.inf:
                self._warn(log, "Still waiting: %s", error)
            else:
                self._warn(log, "Still waiting, for at most %s: %s", duration(grace), error)
        elif not self.answered and self._clock() >= self._warn_at:
            self._warn_gap = min(2 * self._warn_gap, HOUR)
            began = time.gmtime(time.time() - self._clock() + self._started_at)
            since = time.strftime("%Y-%m-%d %H:%M:%S UTC", began)
            self._warn(log, "Still waiting, without an answer since %s: %s", since, error)
        self.last_status = f"{self._status}. The polls since then failed: {error}"
        self.retry_after = getattr(error, "retry_after", None) or 0.0
        self._state, self._failing = state, str(error).partition("\n")[0]
        self._polled = True
        self._had_response = self._had_response or getattr(error, "status_code", None) is not None
        return True

    def _warn(self, log: Log, text: str, *args: object) -> None:
        log.warning(text, *args)
        self._logged_at = self._clock()
        self._warn_at = self._logged_at + self._warn_gap

    def _tolerance(self, error: PortkeyError) -> float | None:
        """Return for how many seconds a failure is tolerated, ``None`` if it ends the wait."""
        if isinstance(error, PortkeyConnectionNotFoundError):
            if self._silent_fail:
                return math.inf
            # Somebody has just read it: a secrets backend that is down for a moment looks the same.
            is_tolerated = self._polled and self._is_within_grace("connection", MISSING_CONNECTION_GRACE)
            return MISSING_CONNECTION_GRACE if is_tolerated else None
        if isinstance(error, PortkeyTransientError) or (
            isinstance(error, PortkeyRefusedError) and error.is_foreign and self.answered
        ):
            if not isinstance(self.pending, Batch):  # an end that was seen stays seen
                self._grace = self.pending = None
            return math.inf
        if isinstance(error, PortkeyRefusedError) and error.status_code == 401 and self.answered:
            self.pending = error
            return GRACE if self._is_within_grace("key", GRACE) else None
        return None

    def _is_within_grace(self, subject: str, seconds: float) -> bool:
        now = self._clock()
        if self._grace is None or self._grace[0] != subject:
            self._grace = (subject, now + seconds)
        return now < self._grace[1]

    def until_grace_ends(self, delay: float) -> float:
        """Return ``delay``, or the seconds until a grace ends if these are fewer: the next poll falls on its end."""
        return min(delay, self.grace_left or delay)

    @property
    def grace_left(self) -> float | None:
        """Seconds until a grace ends, ``None`` if there is none."""
        left = self._grace[1] - self._clock() if self._grace else 0.0
        return left if left > 0 else None

    @property
    def silent_for(self) -> float | None:
        """Seconds that this process has waited without any response; ``None`` if there was one, here or before."""
        return None if self._had_response or self._failing is None else self._clock() - self._started_at

    def report(self, delay: float, left: float, log: Log) -> None:
        """
        Log status, next poll and deadline, if more than an hour would pass without a line otherwise.

        :param delay: seconds until the next poll
        :param left: seconds until the deadline
        """
        now = self._clock()
        if now + min(delay, HOUR) - self._logged_at < HOUR:
            return
        self._logged_at = now
        failing = "" if self._failing is None else f" The polls since then failed: {sentence(self._failing)}"
        deadline = "no deadline" if left == math.inf else f"deadline in {duration(left)}"
        log.info("Last known status: %s.%s Next poll in %s, %s.", self._status, failing, duration(delay), deadline)


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
        waited = self._clock() - self._started_at
        interval = poll_interval(self._poke_interval, waited, self._exponential_backoff, self._max_wait)
        delay = interval * (1 - jitter / 10)
        if retry_after:
            delay = max(delay, retry_after + jitter * interval)
        return min(delay, left)

    @property
    def left(self) -> float:
        """Seconds until the deadline, 0 once it has passed."""
        return max(0.0, self._deadline - self._clock())


def poll_interval(poke_interval: float, waited: float, exponential_backoff: bool, max_wait: float | None) -> float:
    """
    Return the seconds between two polls. For the parameters see :class:`Schedule`.

    :param waited: seconds that the wait has lasted
    """
    interval = max(poke_interval, waited) if exponential_backoff else poke_interval
    return interval if max_wait is None else min(interval, max_wait)


def as_seconds(name: str, value: timedelta | float, *, above_zero: bool = False) -> float:
    """
    Return a duration in seconds.

    :param above_zero: whether 0 is invalid, since a wait would poll without a pause
    :raises ValueError: if it is not one, or beyond what Airflow can store as a date
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise ValueError(f"{name} must be a timedelta or a number of seconds, 0 or more; got {value!r}")
    if seconds > _LONGEST:
        raise ValueError(f"{name} must be at most 100 years; got {value!r}")
    if above_zero and not seconds:
        raise ValueError(f"{name} must be above 0; got {value!r}")
    return float(seconds)
