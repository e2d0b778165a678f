"""A wall clock that a test can set forward or back."""

from __future__ import annotations

import time


class Clock:
    """Replaces ``time.time``: the real time plus ``offset`` seconds."""

    def __init__(self) -> None:
        self.offset = 0.0
        self._time = time.time

    def __call__(self) -> float:
        return self._time() + self.offset
