"""Assertions and steps that more than one table needs."""

from __future__ import annotations

import logging
import tracemalloc
from collections.abc import Callable

from tests.support.world import World
from tests.waits.case import Step


def all_of(*steps: Callable[[World], object]) -> Step:
    """Run one step after the other."""

    def run(world: World) -> None:
        for step in steps:
            step(world)

    return run


def result_has(**members: object) -> Step:
    """Check members of what the task returned."""

    def check(world: World) -> None:
        assert world.result is not None
        assert {name: world.result[name] for name in members} == members

    return check


def first_line_has(*parts: str) -> Step:
    """Check parts of the first line of the error, which is cut at 100 characters."""

    def check(world: World) -> None:
        first_line = world.message.partition("\n")[0]
        assert len(first_line) <= 100
        for part in parts:
            assert part in first_line

    return check


def first_line_is_whole(world: World) -> None:
    """Check that the first line of the error was not cut, so that no part of the remedy is missing."""
    assert not world.message.partition("\n")[0].endswith("…")


def no_xcoms(world: World) -> None:
    assert world.xcoms == {}


def took(at_least: float, below: float) -> Step:
    """Check how many seconds the wait lasted."""

    def check(world: World) -> None:
        assert at_least <= world.ended_at - world.started_at < below

    return check


def last_interval(at_least: float, below: float) -> Step:
    """Check how many seconds passed between the last two requests."""

    def check(world: World) -> None:
        assert at_least <= world.request_intervals[-1] < below

    return check


def logged(level: int, part: str, times: int) -> Step:
    """Check how many lines of a level contain ``part``."""

    def check(world: World) -> None:
        assert sum(part in line for line in world.log.messages(level)) == times, world.log.lines

    return check


def wait_for_failed_attempts(world: World, count: int) -> None:
    """Block until that many attempts of calls were logged as failed."""
    world.log.wait_for(" of 3 failed: ", count)


def trace_memory(world: World) -> None:
    tracemalloc.start()
    world.cleanup.callback(tracemalloc.stop)


def peak_memory() -> int:
    """Return the most bytes that were allocated since :func:`trace_memory`."""
    return tracemalloc.get_traced_memory()[1]


def only_warning(world: World) -> str:
    [warning] = world.log.messages(logging.WARNING)
    return warning
