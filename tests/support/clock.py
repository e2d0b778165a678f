"""Clocks that a test can set."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Replaces ``time.time``: the real time plus ``offset`` seconds."""

    def __init__(self) -> None:
        self.offset = 0.0
        self._time = time.time

    def __call__(self) -> float:
        return self._time() + self.offset


class FakeTime:
    """
    Replaces the module ``time``: a sleep ends at once, and the time is later then.

    Let a module under test have it: ``monkeypatch.setattr(module, "time", FakeTime())``.
    """

    def __init__(self) -> None:
        self._began = self._now = time.time()
        self._due: list[tuple[float, Callable[[], object]]] = []
        #: How long each sleep was to be, in seconds.
        self.sleeps: list[float] = []

    @property
    def passed(self) -> float:
        """How many seconds have passed."""
        return self._now - self._began

    def after(self, seconds: float, happen: Callable[[], object]) -> None:
        """Let something happen within the sleep in which ``seconds`` have passed in all."""
        self._due.append((self._began + seconds, happen))

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self._now += seconds
        due, self._due = self._due, []
        for at, happen in due:
            if at <= self._now:
                happen()
            else:
                self._due.append((at, happen))
