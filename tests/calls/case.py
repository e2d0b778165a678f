"""What a case is: what is given, what is called and how the server responds, and what must be true afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.calls.operations import Call
from tests.calls.world import CallWorld
from tests.server.standin import Answer

Step = Callable[[CallWorld], object]


@dataclass(frozen=True)
class Given:
    """What is in place before the call."""

    #: Members of the connection's extra.
    extra: Mapping[str, Any] = field(default_factory=dict)
    #: The content of a file that is where the call downloads to.
    target: bytes | None = None
    #: Runs last, when the server listens and the connection is defined.
    setup: Step | None = None


@dataclass(frozen=True)
class When:
    """What is called, and how the server responds."""

    call: Call
    #: The responses to the call's first requests, one each; later requests get the server's usual response.
    responses: Sequence[Answer] | Callable[[CallWorld], Sequence[Answer]] = ()
    #: Whether these requests take effect all the same, as when a response is lost.
    with_effect: bool = False
    #: Runs in a thread beside the call.
    meanwhile: Callable[[CallWorld], None] | None = None


@dataclass(frozen=True)
class Then:
    """What must be true when the call has ended."""

    #: What the call raises, and then has had no effect; without it the call must return and have taken effect.
    error: type[Exception] | None = None
    #: Attributes of the error, such as its status code.
    error_has: Mapping[str, Any] = field(default_factory=dict)
    #: Parts of the error's message.
    message_has: Sequence[str] = ()
    #: What neither the message nor any line of the log may contain.
    never_shown: Sequence[str] = ()
    #: How to see that the call took effect, where :attr:`Call.took_effect` does not apply.
    took_effect: Callable[[CallWorld], bool] | None = None
    #: How many requests of the call the server received.
    requests: int | None = None
    #: Asserts whatever else must be true.
    check: Step | None = None


@dataclass(frozen=True)
class Case:
    """One call. Its name must be understandable alone, since pytest shows it as the test's id."""

    name: str
    when: When
    then: Then
    given: Given = Given()


def each(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """Parametrize a test with ``case``."""
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), "Two cases have the same name."
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases])
