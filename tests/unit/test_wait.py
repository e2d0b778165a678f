from __future__ import annotations

import math
import time
from datetime import timedelta
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.exceptions import Origin, PortkeyTransientError
from airflow_provider_portkey.wait import Progress, Schedule, as_seconds


class Lines(list[str]):
    """A log in memory, one line per entry."""

    def debug(self, msg: str, /, *args: object) -> None:
        self.append(f"debug: {msg % args}")

    def info(self, msg: str, /, *args: object) -> None:
        self.append(f"info: {msg % args}")

    def warning(self, msg: str, /, *args: object) -> None:
        self.append(f"warning: {msg % args}")


def batch(status: str) -> Batch:
    """Return a batch of a status, with a number of completed requests behind it: ``in_progress:1``."""
    word, _, completed = status.partition(":")
    return Batch.from_dict({"id": "b", "status": word, "request_counts": {"completed": completed or None}})


def failure(poll: str, retry_after: float | None = None) -> PortkeyTransientError:
    """Return the error of a poll from its HTTP status, with the origin behind it: ``429@provider``."""
    status, _, origin = poll.partition("@")
    return PortkeyTransientError(
        f"HTTP {status}.", status_code=int(status), origin=cast("Origin", origin or "gateway"), retry_after=retry_after
    )


# What each poll returns, a status or a failure; the levels that it is logged with.
INFO, WARNING = "info", "warning"
POLLS: dict[str, list[tuple[str, list[str]]]] = {
    "nothing changes": [("validating", [INFO]), ("validating", []), ("validating", [])],
    "the status changes": [("validating", [INFO]), ("in_progress", [INFO]), ("in_progress", [])],
    "counts change": [("in_progress", [INFO]), ("in_progress:1", [INFO]), ("in_progress:1", [])],
    "the provider's own word changes": [("submitted", [INFO]), ("scheduled", [INFO])],
    "a status is unknown": [
        ("odd", [INFO, WARNING]),
        ("odd", []),
        ("validating", [INFO]),
        ("odd", [INFO]),
        ("strange", [INFO, WARNING]),
    ],
    "an outage begins and ends": [
        ("validating", [INFO]),
        ("503", [WARNING]),
        ("503", []),
        ("503", []),
        ("validating", [INFO, INFO]),
        ("validating", []),
    ],
    "an outage changes": [
        ("503", [WARNING]),
        ("503", []),
        ("429", [WARNING]),
        ("429", []),
        ("429@provider", [WARNING]),
        ("429@provider", []),
    ],
    "an outage begins again": [("503", [WARNING]), ("validating", [INFO, INFO]), ("503", [WARNING])],
}


class TestProgress:
    @pytest.mark.parametrize("polls", POLLS.values(), ids=POLLS)
    def test_changes_are_logged_and_not_every_poll(self, polls: list[tuple[str, list[str]]]) -> None:
        progress = Progress()
        for poll, levels in polls:
            log = Lines()
            if poll[0].isdigit():
                progress.record_failure(failure(poll), log)
            else:
                progress.record_status(batch(poll), log)
            assert [line.partition(":")[0] for line in log] == levels

    def test_log_lines_say_what_changed(self) -> None:
        progress, log = Progress(), Lines()
        progress.record_failure(failure("503"), log)
        progress.record_status(batch("odd:1"), log)
        assert log[:3] == [
            "warning: Still waiting: HTTP 503.",
            "info: Portkey is reachable again (batch b).",
            f"info: {batch('odd:1')}.",
        ]
        assert log[3] == "warning: Unknown status 'odd' counts as in flight, until the task's timeout (batch b)."

    def test_it_keeps_the_last_known_status_and_the_last_failure(self) -> None:
        progress, log = Progress(), Lines()
        assert progress.last_status == "none received"
        progress.record_status(batch("validating"), log)
        progress.record_failure(failure("503"), log)
        progress.record_failure(failure("429", 30), log)
        last_status = f"{batch('validating')}. The polls since then failed: HTTP 429."
        assert (progress.last_status, progress.retry_after) == (last_status, 30)
        progress.record_failure(failure("503"), log)
        assert progress.retry_after == 0
        progress.record_failure(failure("429", 30), log)
        progress.record_status(batch("in_progress"), log)
        assert (progress.last_status, progress.retry_after) == (str(batch("in_progress")), 0)


class Clock:
    """A monotonic clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def schedule(clock: Clock, left: float, interval: float = 60, *, waited: float = 0, **options: Any) -> Schedule:
    now = time.time()
    return Schedule(started_at=now - waited, deadline=now + left, poke_interval=interval, clock=clock, **options)


# Seconds until the deadline, the schedule's options, the last Retry-After; seconds until the next poll.
DELAYS: dict[str, tuple[float, dict[str, Any], float, float | None]] = {
    "the interval": (3600, {}, 0, 60),
    "the interval, without a deadline": (math.inf, {}, 0, 60),
    "backoff starts at the interval": (3600, {"exponential_backoff": True}, 0, 60),
    "with backoff, as long as the wait so far": (3600, {"exponential_backoff": True, "waited": 180}, 0, 180),
    "without backoff, the interval however long the wait": (3600, {"waited": 180}, 0, 60),
    "backoff is limited by max_wait": (3600, {"exponential_backoff": True, "waited": 500, "max_wait": 90}, 0, 90),
    "max_wait below the interval": (3600, {"max_wait": 20}, 0, 20),
    "Retry-After": (3600, {"interval": 6}, 300, 300),
    "Retry-After beyond max_wait": (3600, {"max_wait": 6}, 300, 300),
    "the interval, if Retry-After is shorter": (3600, {}, 5, 60),
    "the last poll is at the deadline": (30, {}, 0, 30),
    "the last poll is at the deadline, whatever Retry-After": (30, {}, 300, 30),
    "no time left": (0, {}, 0, None),
    "a deadline that passed before a restart": (-9, {}, 0, None),
}
NUMBERS = st.lists(st.floats(0, 10**6), min_size=5, max_size=5)


class TestSchedule:
    @pytest.mark.parametrize(("left", "options", "retry_after", "delay"), DELAYS.values(), ids=DELAYS)
    def test_the_delay_until_the_next_poll(
        self, left: float, options: dict[str, Any], retry_after: float, delay: float | None
    ) -> None:
        found = schedule(Clock(), left, **options).delay(0, retry_after)
        assert found == (None if delay is None else pytest.approx(delay))

    def test_jitter_shortens_the_interval_by_up_to_a_tenth(self) -> None:
        wait = schedule(Clock(), 3600)
        assert [wait.delay(jitter) for jitter in (0.0, 0.5, 1.0)] == pytest.approx([60, 57, 54])

    def test_after_retry_after_jitter_spreads_polls_over_an_interval(self) -> None:
        wait = schedule(Clock(), 3600)
        assert [wait.delay(jitter, 300) for jitter in (0.0, 0.5, 1.0)] == pytest.approx([300, 330, 360])

    def test_the_deadline_follows_the_monotonic_clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock, now = Clock(), time.time()
        wait = schedule(clock, 100)
        clock.now += 90
        for jump in (3600, -3600):  # the wall clock is set
            monkeypatch.setattr(time, "time", lambda then=now + jump: then)
            assert wait.delay(0.5) == pytest.approx(10, abs=0.1)
        clock.now += 10.1
        assert wait.delay(0.5) is None

    @settings(deadline=None)
    @given(NUMBERS, st.booleans(), st.none() | st.floats(0, 10**6), st.floats(0, 1))
    def test_no_poll_is_after_the_deadline(
        self, numbers: list[float], backoff: bool, max_wait: float | None, jitter: float
    ) -> None:
        left, interval, waited, later, retry_after = numbers
        clock = Clock()
        wait = schedule(clock, left, interval, waited=waited, exponential_backoff=backoff, max_wait=max_wait)
        clock.now += later
        delay = wait.delay(jitter, retry_after)
        assert (delay is None) == (left <= later) or left == pytest.approx(later, abs=1e-3)
        assert delay is None or 0 <= delay <= left - later + 1e-3


@pytest.mark.parametrize(("value", "seconds"), [(timedelta(minutes=2), 120), (60, 60), (0.5, 0.5), (0, 0)], ids=str)
def test_a_duration_is_given_as_timedelta_or_in_seconds(value: timedelta | float, seconds: float) -> None:
    assert as_seconds("timeout", value) == seconds


@pytest.mark.parametrize("value", [-1, math.nan, timedelta(-1), "60", None, True], ids=str)
def test_an_invalid_duration_raises_value_error(value: Any) -> None:
    with pytest.raises(ValueError, match="timeout must be a timedelta or a number of seconds, 0 or more; got"):
        as_seconds("timeout", value)
