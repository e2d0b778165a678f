from __future__ import annotations

import math
import time
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.exceptions import Origin, PortkeyTransientError
from airflow_provider_portkey.wait import Progress, Schedule


class Lines(list[str]):
    """A log in memory."""

    def info(self, msg: str, /, *args: object) -> None:
        self.append(f"info: {msg % args}")

    def warning(self, msg: str, /, *args: object) -> None:
        self.append(f"warning: {msg % args}")


def batch(status: str) -> Batch:
    """Read a word, with a number of completed requests behind it: ``in_progress:1``."""
    word, _, completed = status.partition(":")
    return Batch.from_dict({"id": "b", "status": word, "request_counts": {"completed": completed or None}})


def down(look: str, retry_after: float | None = None) -> PortkeyTransientError:
    """Read an HTTP status, with who failed behind it: ``429@provider``."""
    status, _, origin = look.partition("@")
    return PortkeyTransientError(
        f"HTTP {status}.", status_code=int(status), origin=cast("Origin", origin or "gateway"), retry_after=retry_after
    )


# What each look brings, a batch or a failure; what it logs: i for a line of information, w for a warning.
LOOKS = {
    "nothing changes": ("validating validating validating", "i - -"),
    "the status changes": ("validating in_progress in_progress", "i i -"),
    "counts change": ("in_progress in_progress:1 in_progress:1", "i i -"),
    "the provider's own word changes": ("submitted scheduled", "i i"),
    "a word is not known": ("odd odd validating odd strange", "iw - i i iw"),
    "an outage begins and ends": ("validating 503 503 503 validating validating", "i w - - ii -"),
    "an outage changes": ("503 503 429 429 429@provider 429@provider", "w - w - w -"),
    "an outage comes again": ("503 validating 503", "w ii w"),
}


class TestProgress:
    @pytest.mark.parametrize(("looks", "logged"), LOOKS.values(), ids=LOOKS)
    def test_changes_are_logged_and_not_looks(self, looks: str, logged: str) -> None:
        progress, levels = Progress(), []
        for look in looks.split():
            log = Lines()
            progress.missed(down(look), log) if look[0].isdigit() else progress.saw(batch(look), log)
            levels.append("".join(line[0] for line in log) or "-")
        assert " ".join(levels) == logged

    def test_lines_say_what_changed(self) -> None:
        progress, log = Progress(), Lines()
        progress.missed(down("503"), log)
        progress.saw(batch("odd:1"), log)
        assert log[:2] == ["warning: HTTP 503. The wait goes on.", "info: Batch b: Portkey answers again."]
        assert log[2] == f"info: {batch('odd:1')}."
        assert log[3].startswith("warning: Batch b: the provider's status 'odd' is not a known one")

    def test_it_remembers_what_it_saw_last_and_why_it_sees_nothing_now(self) -> None:
        progress, log = Progress(), Lines()
        assert progress.last == "never seen"
        progress.saw(batch("validating"), log)
        progress.missed(down("503"), log)
        progress.missed(down("429", 30), log)
        assert (progress.last, progress.retry_after) == (f"{batch('validating')} Then: HTTP 429.", 30)
        progress.missed(down("503"), log)
        assert progress.retry_after == 0
        progress.missed(down("429", 30), log)
        progress.saw(batch("in_progress"), log)
        assert (progress.last, progress.retry_after) == (str(batch("in_progress")), 0)


class Clock:
    """A monotonic clock that goes when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def schedule(clock: Clock, lasts: float, interval: float = 60, *, waited: float = 0, **pace: Any) -> Schedule:
    now = time.time()
    return Schedule(started_at=now - waited, deadline=now + lasts, poke_interval=interval, clock=clock, **pace)


# How long the wait lasts, its pace, what the answer asked for; when the next look is due.
NEXT: dict[str, tuple[float, dict[str, Any], float, float | None]] = {
    "the interval": (3600, {}, 0, 60),
    "the interval, without a deadline": (math.inf, {}, 0, 60),
    "backoff begins with the interval": (3600, {"exponential_backoff": True}, 0, 60),
    "backoff doubles the wait": (3600, {"exponential_backoff": True, "waited": 180}, 0, 180),
    "without backoff it does not": (3600, {"waited": 180}, 0, 60),
    "backoff ends at max_wait": (3600, {"exponential_backoff": True, "waited": 500, "max_wait": 90}, 0, 90),
    "max_wait below the interval": (3600, {"max_wait": 20}, 0, 20),
    "as long as the answer asked": (3600, {"interval": 6}, 300, 300),
    "as long as the answer asked, beyond max_wait": (3600, {"max_wait": 6}, 300, 300),
    "no earlier because the answer asked for less": (3600, {}, 5, 60),
    "the last look falls on the deadline": (30, {}, 0, 30),
    "on the deadline, whatever the answer asked": (30, {}, 300, 30),
    "no time at all": (0, {}, 0, None),
    "a deadline before the restart": (-9, {}, 0, None),
}
NUMBERS = st.lists(st.floats(0, 10**6), min_size=5, max_size=5)


class TestSchedule:
    @pytest.mark.parametrize(("lasts", "pace", "asked", "due"), NEXT.values(), ids=NEXT)
    def test_the_next_look(self, lasts: float, pace: dict[str, Any], asked: float, due: float | None) -> None:
        delay = schedule(Clock(), lasts, **pace).delay(0, asked)
        assert delay == (None if due is None else pytest.approx(due))

    def test_looks_are_spread_by_a_tenth_but_never_beyond_the_interval(self) -> None:
        waits = schedule(Clock(), 3600)
        assert [waits.delay(chance) for chance in (0.0, 0.5, 1.0)] == pytest.approx([60, 57, 54])

    def test_after_a_pause_that_was_asked_for_looks_are_spread_over_an_interval(self) -> None:
        waits = schedule(Clock(), 3600)
        assert [waits.delay(chance, 300) for chance in (0.0, 0.5, 1.0)] == pytest.approx([300, 330, 360])

    def test_the_deadline_comes_with_the_monotonic_clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock, now = Clock(), time.time()
        waits = schedule(clock, 100)
        clock.now += 90
        for jump in (3600, -3600):  # somebody sets the wall clock
            monkeypatch.setattr(time, "time", lambda then=now + jump: then)
            assert waits.delay(0.5) == pytest.approx(10, abs=0.1)
        clock.now += 10.1
        assert waits.delay(0.5) is None

    @settings(deadline=None)
    @given(NUMBERS, st.booleans(), st.none() | st.floats(0, 10**6), st.floats(0, 1))
    def test_no_look_is_after_the_deadline(
        self, numbers: list[float], backoff: bool, max_wait: float | None, chance: float
    ) -> None:
        lasts, interval, waited, later, asked = numbers
        clock = Clock()
        waits = schedule(clock, lasts, interval, waited=waited, exponential_backoff=backoff, max_wait=max_wait)
        clock.now += later
        delay = waits.delay(chance, asked)
        assert (delay is None) == (lasts <= later) or lasts == pytest.approx(later, abs=1e-3)
        assert delay is None or 0 <= delay <= lasts - later + 1e-3
