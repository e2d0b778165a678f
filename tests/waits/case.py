"""What a case is: what is given, what happens during the wait, and what must be true afterwards."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.server.standin import Scripted
from tests.support.stacks import STACKS, Stack
from tests.support.world import World

Step = Callable[[World], None]


@dataclass(frozen=True)
class Given:
    """What is in place before the wait starts."""

    #: The batch's id, as the user wrote it.
    batch_id: str = "batch_1"
    #: Members of the connection's extra.
    extra: Mapping[str, Any] = field(default_factory=dict)
    #: Constants of the package that have another value here: see :mod:`tests.waits.constants`.
    constants: Mapping[str, float] = field(default_factory=dict)
    #: What each call of ``random.random()`` returns; without one it stays random.
    jitter: float | None = None
    #: Makes the server's TLS context; without it the server speaks plain HTTP.
    tls: Callable[[World], ssl.SSLContext] | None = None
    #: Runs when the server listens and the connection is defined.
    setup: Step | None = None


@dataclass(frozen=True)
class When:
    """What happens during the wait."""

    #: The server's answers, one per request; the last one repeats. ``"completed"`` has no failed requests.
    answers: Sequence[Scripted] | Callable[[World], Sequence[Scripted]] = ("completed",)
    #: Parameters of the sensor.
    sensor: Mapping[str, Any] = field(default_factory=dict)
    #: Runs in a thread beside the wait.
    meanwhile: Step | None = None


@dataclass(frozen=True)
class Then:
    """What must be true when the wait has ended."""

    #: What the wait raises; without it the wait must return a completed batch.
    error: type[Exception] | None = None
    #: The first line of the error's message, whole: cause and remedy, which Airflow's log view shows.
    first_line: str | None = None
    #: Parts of the error's message, or of the warnings of a wait that succeeded.
    message_has: Sequence[str] = ()
    #: What neither the message nor any line of the log may contain.
    never_shown: Sequence[str] = ()
    #: How many requests about batches the server received.
    requests: int | range | None = None
    #: How many warnings were logged.
    warnings: int | None = None
    #: Asserts whatever else must be true.
    check: Step | None = None


@dataclass(frozen=True)
class Case:
    """One wait. Its name must be understandable alone, since pytest shows it as the test's id."""

    name: str
    given: Given = Given()
    when: When = When()
    then: Then = Then()
    #: The HTTP stacks on which it can happen.
    stacks: Sequence[Stack] = STACKS


def on_each_stack(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """Parametrize a test with ``case`` and ``stack``."""
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), "Two cases have the same name."
    return pytest.mark.parametrize(
        ("case", "stack"),
        [pytest.param(case, stack, id=f"{case.name}-{stack}") for case in cases for stack in case.stacks],
    )
