"""Runs a case on one of the two HTTP stacks."""

from __future__ import annotations

import logging
import random
import time
from contextlib import nullcontext
from functools import partial
from urllib.parse import unquote

from tests.server.standin import Answer
from tests.support.answers import completed_body
from tests.support.stacks import Stack, wait_on_stack
from tests.support.threads import in_background
from tests.support.world import World
from tests.waits.case import Case, Given, Then, When
from tests.waits.constants import set_constants


def run_case(case: Case, stack: Stack, world: World) -> None:
    _prepare(case.given, world)
    _wait(case.given.batch_id, case.when, stack, world)
    _verify(case.then, world)


def _prepare(given: Given, world: World) -> None:
    monkeypatch = world.monkeypatch
    set_constants(monkeypatch, given.constants)
    monkeypatch.setattr(time, "time", world.clock)
    if given.jitter is not None:
        jitter = given.jitter
        monkeypatch.setattr(random, "random", lambda: jitter)
    world.standin = world.serve(given.tls(world) if given.tls else None)
    world.set_connection(**given.extra)
    if given.setup:
        given.setup(world)


def _wait(batch_id: str, when: When, stack: Stack, world: World) -> None:
    answers = when.answers(world) if callable(when.answers) else when.answers
    decoded_id = unquote(batch_id.strip())
    completed = Answer(body=completed_body(decoded_id))
    world.standin.script(decoded_id, *(completed if answer == "completed" else answer for answer in answers))
    with in_background(partial(when.meanwhile, world)) if when.meanwhile else nullcontext():
        wait_on_stack(stack, world, batch_id, **when.sensor)


def _verify(then: Then, world: World) -> None:
    if then.error is None:
        if world.error is not None:
            raise world.error
        assert world.result is not None
        assert world.result["status"] == "completed"
        assert world.xcoms == {name: world.result[name] for name in ("output_file_id", "error_file_id")}
    else:
        assert type(world.error) is then.error, world.error or world.result
    if then.first_line is not None:
        assert world.message.partition("\n")[0] == then.first_line
    for part in then.message_has:
        assert part in world.message
    for part in then.never_shown:
        assert part not in world.message
        assert not any(part in line for _, line in world.log.lines)
    if then.requests is not None:
        expected = then.requests if isinstance(then.requests, range) else [then.requests]
        assert len(world.standin.batch_requests) in expected
    if then.warnings is not None:
        assert len(world.log.messages(logging.WARNING)) == then.warnings, world.log.lines
    if then.check:
        then.check(world)
