"""A limit on how long a block may run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def fail_after(seconds: float) -> Iterator[None]:
    """Fail the test, from a signal, if the block runs longer: a wait that never ends must not stop the suite."""

    def fail(*_: object) -> None:
        pytest.fail(f"The block still ran after {seconds:g} s.")

    previous = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
