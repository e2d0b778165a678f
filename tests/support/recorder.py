"""A log handler that keeps what was logged."""

from __future__ import annotations

import logging
import threading


class Recorder(logging.Handler):
    """Keeps each logged line with its level, and lets a test block until a line was logged."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self.lines: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        # Airflow warns that the test calls execute() without its task runner.
        if "cannot be called outside" in text:
            return
        with self._changed:
            self.lines.append((record.levelno, text))
            self._changed.notify_all()

    def messages(self, level: int) -> list[str]:
        """Return what was logged at exactly this level."""
        return [text for line_level, text in self.lines if line_level == level]

    def wait_for(self, part: str, count: int = 1, timeout: float = 10.0) -> None:
        """Block until ``count`` lines contain ``part``."""
        with self._changed:
            if not self._changed.wait_for(lambda: sum(part in text for _, text in self.lines) >= count, timeout):
                raise TimeoutError(f"{part!r} was not logged {count} times within {timeout} s")
