"""Assertions and steps that more than one table needs."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tests.calls.case import Step
from tests.calls.operations import Call
from tests.calls.world import CallWorld


def returned(value: object) -> Callable[[CallWorld], bool]:
    """See by what the call returned that it took effect."""
    return lambda world: bool(world.returned == value)


def took(at_least: float, below: float) -> Step:
    """Check how many seconds the call lasted."""

    def check(world: CallWorld) -> None:
        assert at_least <= world.ended_at - world.started_at < below

    return check


def logged_attempts(call: Call, count: int) -> Step:
    """Check that the log names each attempt that was followed by another one, and what failed."""

    def check(world: CallWorld) -> None:
        lines = [line for line in world.log.messages(logging.DEBUG) if "failed" in line and call.subject in line]
        assert len(lines) == count
        for number, line in enumerate(lines, 1):
            assert line.startswith(f"Attempt {number} of 3 failed: ")

    return check


def start_outage(world: CallWorld) -> None:
    world.outage.enter_context(world.standin.outage())


def end_outage(world: CallWorld) -> None:
    """End the outage when the first attempt has failed."""
    world.log.wait_for("Attempt 1 of 3 failed")
    world.outage.close()
