from __future__ import annotations

import math
import time
from datetime import timedelta
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.exceptions import (
    Origin,
    PortkeyConnectionNotFoundError,
    PortkeyError,
    PortkeyRefusedError,
    PortkeyTransientError,
)
from airflow_provider_portkey.wait import Progress, Schedule, as_seconds


class Lines(list[str]):
    """A log in memory, one line per entry."""

    def debug(self, msg: str, /, *args: object) -> None:
        self.append(f"debug: {msg % args}")

    def info(self, msg: str, /, *args: object) -> None:
        self.append(f"info: {msg % args}")

    def warning(self, msg: str, /, *args: object) -> None:
        self.append(f"warning: {msg % args}")


class Clock:
    """A monotonic clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


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


KEY = PortkeyRefusedError("rejected", status_code=401, origin="portkey")
FORBIDDEN = PortkeyRefusedError("forbidden", status_code=403, origin="portkey")
PAGE = PortkeyRefusedError("page", status_code=404, is_foreign=True)
PAGE_401 = PortkeyRefusedError("page", status_code=401, is_foreign=True)
MISSING = PortkeyConnectionNotFoundError("missing")
ANSWERED: dict[str, Any] = {"polled": True, "answered": True}
UNNAMED = Batch.from_dict(
    {"id": "b", "status": "completed", "request_counts": {"completed": 3}, "output_file_id": None}
)
#: How a wait began, a failure of its polls, and for how many seconds it continues.
PATIENCE: dict[str, tuple[dict[str, Any], PortkeyError, float]] = {
    "an outage": ({}, failure("503"), math.inf),
    "a rejected key at the first poll": ({}, KEY, 0),
    "a rejected key before an answer": ({"polled": True}, KEY, 0),
    "a rejected key after an answer": (ANSWERED, KEY, 120),
    "a missing scope after an answer": (ANSWERED, FORBIDDEN, 0),
    "a page in front of the gateway at the first poll": ({}, PAGE, 0),
    "a page in front of the gateway after an answer": (ANSWERED, PAGE, math.inf),
    "a page in front of the gateway that wants a login": (ANSWERED, PAGE_401, math.inf),
    "a missing connection at the first poll": ({}, MISSING, 0),
    "a missing connection after a poll": ({"polled": True}, MISSING, 600),
    "a missing connection with silent_fail": ({"silent_fail": True}, MISSING, math.inf),
}


class TestPatience:
    @pytest.mark.parametrize(("began", "error", "seconds"), PATIENCE.values(), ids=PATIENCE)
    def test_a_wait_outlives_a_failure_for_this_long(
        self, began: dict[str, Any], error: PortkeyError, seconds: float
    ) -> None:
        clock, log = Clock(), Lines()
        progress = Progress(clock=clock, **began)
        assert progress.record_failure(error, log) is (seconds > 0)
        if seconds in (0, math.inf):
            assert progress.grace_left is None
            clock.now += 10**7
            assert progress.record_failure(error, log) is (seconds > 0)
            return
        assert progress.grace_left == seconds
        clock.now += seconds - 1
        assert progress.record_failure(error, log)
        clock.now += 1
        assert progress.grace_left is None
        assert not progress.record_failure(error, log)

    @pytest.mark.parametrize("between", ["answer", "outage"])
    def test_a_grace_begins_anew_after_another_result(self, between: str) -> None:
        clock, log = Clock(), Lines()
        progress = Progress(clock=clock, **ANSWERED)
        for _ in range(2):
            assert progress.record_failure(KEY, log)
            clock.now += 100
            if between == "answer":
                progress.record_status(batch("in_progress"), log)
            else:
                progress.record_failure(failure("503"), log)
            assert (progress.grace_left, progress.pending) == (None, None)

    def test_an_end_without_its_output_file_is_believed_after_two_minutes(self) -> None:
        clock, log = Clock(), Lines()
        progress = Progress(clock=clock)
        assert not progress.is_over(UNNAMED, log) and progress.pending == UNNAMED
        clock.now += 119
        assert progress.record_failure(failure("503"), Lines())
        assert not progress.is_over(UNNAMED, log) and progress.pending == UNNAMED
        clock.now += 1
        assert progress.is_over(UNNAMED, log)
        assert log == ["info: Batch b has completed, but names no output file yet: polling on for at most 2 min."]


class TestNoSilence:
    def test_a_wait_without_any_answer_warns_again_with_growing_gaps(self) -> None:
        clock, log, at = Clock(), Lines(), []
        progress = Progress(clock=clock)
        for minute in range(24 * 60):
            clock.now = 1000 + 60 * minute
            before = len(log)
            progress.record_failure(failure("503"), log)
            at += [minute] * (len(log) - before)
        assert at[:9] == [0, 1, 3, 7, 15, 31, 63, 123, 183]
        assert "warning: Still waiting, without an answer since 2" in log[-1]
        assert progress.silent_for is None  # HTTP 503 is a response

    def test_a_wait_that_was_answered_does_not_warn_again(self) -> None:
        clock, log = Clock(), Lines()
        progress = Progress(clock=clock, **ANSWERED)
        for _ in range(1000):
            clock.now += 60
            progress.record_failure(failure("503"), log)
        assert len(log) == 1

    def test_the_time_without_any_response_is_counted_from_the_beginning(self) -> None:
        clock = Clock()
        progress = Progress(clock=clock)
        clock.now += 90
        assert progress.silent_for is None  # nothing was tried
        progress.record_failure(PortkeyTransientError("refused", origin="network"), Lines())
        assert progress.silent_for == 90
        progress.record_status(batch("in_progress"), Lines())
        assert progress.silent_for is None

    @pytest.mark.parametrize(("delay", "times"), [(60, range(60, 63)), (1800, range(118, 122)), (7200, range(60, 62))])
    def test_at_least_once_an_hour_a_line_has_status_next_poll_and_deadline(self, delay: int, times: range) -> None:
        clock = Clock()
        progress = Progress(clock=clock)
        progress.record_status(batch("in_progress:1"), Lines())
        lines: list[str] = []
        for poll in range(60 * 3600 // min(delay, 3600)):
            log = Lines()
            progress.report(delay, 10**6 - poll * delay if delay == 60 else math.inf, log)
            lines += log
            clock.now += min(delay, 3600)
        assert len(lines) in times
        status = "info: Last known status: Batch b is in_progress: 1 succeeded, ? failed, ? in all."
        assert lines[0].startswith(f"{status} Next poll in ")
        assert ("no deadline." in lines[0]) is (delay != 60)

    def test_the_hourly_line_says_that_polls_fail(self) -> None:
        clock, log = Clock(), Lines()
        progress = Progress(clock=clock, **ANSWERED)
        progress.record_failure(failure("503"), log)
        clock.now += 3600
        progress.report(60, 7200, log)
        assert log[1] == (
            "info: Last known status: none received. The polls since then failed: HTTP 503. "
            "Next poll in 60 s, deadline in 2 h."
        )


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


@pytest.mark.parametrize("value", [-1, math.nan, timedelta(-1), "60", None, True, math.inf, timedelta.max], ids=str)
def test_an_invalid_duration_raises_value_error(value: Any) -> None:
    with pytest.raises(
        ValueError, match=r"timeout must be (a timedelta or a number of seconds, 0 or more|at most 100 years); got"
    ):
        as_seconds("timeout", value)
