"""
The course of one wait: when to look again, and what of it is worth a line in the log.

The trigger and the operator that waits on a worker share this; a poking sensor is paced by Airflow and shares
what is logged. No I/O, no Airflow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.exceptions import PortkeyTransientError


class Log(Protocol):
    """What a task's logger and a trigger's have in common on each Airflow."""

    def info(self, msg: str, /, *args: object) -> object:
        """Log what changed."""

    def warning(self, msg: str, /, *args: object) -> object:
        """Log what somebody may have to look at."""


class Progress:
    """
    Remembers what the last look at a batch brought, so that a log tells changes and not polls.

    :ivar last: what was seen last, in words
    :ivar retry_after: how many seconds the last answer asked to wait
    """

    def __init__(self) -> None:
        self._seen = self.last = "never seen"
        self.retry_after = 0.0
        self._state: object = None
        self._failing = False
        self._warned: set[str | None] = set()

    def saw(self, batch: Batch, log: Log) -> None:
        """Take note of an answer, and log what it changes."""
        state = (batch.provider_status, batch.request_counts)
        if self._failing:
            log.info("Batch %s: Portkey answers again.", batch.id)
        if state != self._state:
            log.info("%s.", batch)
        word = batch.provider_status
        if not batch.status_is_known and word not in self._warned:
            self._warned.add(word)
            log.warning(
                "Batch %s: the provider's status %r is not a known one; it counts as in flight, and only the "
                "task's timeout ends the wait if it stays.",
                batch.id,
                word,
            )
        self._seen = self.last = str(batch)
        self.retry_after = 0.0
        self._state, self._failing = state, False

    def missed(self, error: PortkeyTransientError, log: Log) -> None:
        """Take note of a look that failed, and log it unless the one before failed alike."""
        state = (error.origin, error.status_code)
        if state != self._state:
            log.warning("%s The wait goes on.", error)
        self.last = f"{self._seen} Then: {error}"
        self.retry_after = error.retry_after or 0.0
        self._state, self._failing = state, True


class Schedule:
    """
    When to look again, until the deadline.

    The deadline is wall-clock time, since a trigger may go on in another process; within one it is measured
    with the monotonic clock, so that a clock that is set does not move it.

    :param started_at: when the wait began, in Unix seconds
    :param deadline: when it ends, in Unix seconds
    :param poke_interval: seconds between two looks
    :param exponential_backoff: let the interval grow with the time waited so far: it about doubles each time
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

    def delay(self, chance: float, retry_after: float = 0.0) -> float | None:
        """
        Return the seconds until the next look, or ``None`` when the time is up.

        The last look falls on the deadline.

        :param chance: a random number from 0 to 1: takes up to a tenth off the interval, so that waits which
            begin together drift apart
        :param retry_after: seconds that the last answer asked to wait. Many may have been asked at once, so they
            come back over a whole interval
        """
        left = self.left
        if not left:
            return None
        interval = self._poke_interval
        if self._exponential_backoff:
            interval = max(interval, self._clock() - self._started_at)
        if self._max_wait is not None:
            interval = min(interval, self._max_wait)
        delay = interval * (1 - chance / 10)
        if retry_after:
            delay = max(delay, retry_after + chance * interval)
        return min(delay, left)

    @property
    def left(self) -> float:
        """Seconds until the deadline, 0 when it is over."""
        return max(0.0, self._deadline - self._clock())
