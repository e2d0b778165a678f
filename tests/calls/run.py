"""Runs a case."""

from __future__ import annotations

import time
from contextlib import nullcontext
from functools import partial

from airflow_provider_portkey.exceptions import PortkeyApiError
from tests.calls.case import Case, Given, When
from tests.calls.world import CallWorld
from tests.support.threads import in_background


def run_case(case: Case, world: CallWorld) -> None:
    _prepare(case.given, world)
    files = world.target_files
    effects = _effects_on_server(world)
    responses = case.when.responses(world) if callable(case.when.responses) else case.when.responses
    world.standin.fail(case.when.call.method, case.when.call.path, *responses, after=case.when.with_effect)
    _call(case.when, world)
    if case.then.error is None:
        if world.error is not None:
            raise world.error
        assert (case.then.took_effect or case.when.call.took_effect)(world), world.returned
    else:
        assert type(world.error) is case.then.error, world.error or world.returned
        if isinstance(world.error, PortkeyApiError):
            assert f"while {case.when.call.subject}" in str(world.error)
        assert world.target_files == files
        # Only where the case says so has the call had an effect on the server.
        assert _effects_on_server(world) == effects + (len(responses) if case.when.with_effect else 0)
    _verify(case, world)


def _prepare(given: Given, world: CallWorld) -> None:
    world.set_connection(**given.extra)
    if given.target is not None:
        world.write_target(given.target)
    if given.setup:
        given.setup(world)


def _call(when: When, world: CallWorld) -> None:
    world.started_at = time.monotonic()
    with in_background(partial(when.meanwhile, world)) if when.meanwhile else nullcontext():
        try:
            world.returned = when.call.run(world)
        except Exception as error:  # noqa: BLE001 - each case says which error it expects
            world.error = error
    world.ended_at = time.monotonic()


def _effects_on_server(world: CallWorld) -> int:
    return len(world.standin.uploads) + len(world.standin.batches) + len(world.standin.cancelled)


def _verify(case: Case, world: CallWorld) -> None:
    then = case.then
    assert {name: getattr(world.error, name) for name in then.error_has} == then.error_has
    for part in then.message_has:
        assert part in str(world.error)
    for part in then.never_shown:
        assert part not in str(world.error)
        assert not any(part in line for _, line in world.log.lines)
    if then.requests is not None:
        assert len(world.received_at(case.when.call.method, case.when.call.path)) == then.requests
    if then.check:
        then.check(world)
