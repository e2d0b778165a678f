"""How the stand-in chooses the response to the next GET of a batch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from tests.server.answer import Answer
from tests.server.batches import Run


class Plan(Protocol):
    """Gives the response to a batch's next GET. ``peek`` gives it without any effect."""

    def next(self) -> Answer: ...

    def peek(self) -> Answer: ...


class Script:
    """Answers one after the other. The last one repeats."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._left = deque(answers)

    def next(self) -> Answer:
        return self._left.popleft() if len(self._left) > 1 else self._left[0]

    def peek(self) -> Answer:
        return self._left[0]


class Timeline:
    """Answers by the time since the first GET. The first step holds until the second is due."""

    def __init__(self, steps: Sequence[tuple[float, Answer]]) -> None:
        self._steps = steps
        self._started_at: float | None = None

    def next(self) -> Answer:
        if self._started_at is None:
            self._started_at = time.monotonic()
        return self.peek()

    def peek(self) -> Answer:
        elapsed = 0.0 if self._started_at is None else time.monotonic() - self._started_at
        return next((answer for at, answer in reversed(self._steps) if at <= elapsed), self._steps[0][1])


class Course:
    """Answers with the state of a batch that a client created."""

    def __init__(self, run: Run, show: Callable[[dict[str, object]], dict[str, object]]) -> None:
        self.run = run
        self._show = show

    def next(self) -> Answer:
        return self.peek()

    def peek(self) -> Answer:
        return Answer(body=self._show(self.run.body()))
