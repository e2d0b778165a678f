"""Many waits share HTTP sessions: their number of connections, their slots, and how the last wait closes them."""

from __future__ import annotations

import asyncio
import itertools
import random
from contextlib import suppress
from typing import Any

import pytest

from airflow_provider_portkey import retry
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.transport import aio
from airflow_provider_portkey.wait import Progress
from tests.server.standin import Answer, StandIn, batch_body
from tests.support.connections import set_connection
from tests.support.many_waits import open_sessions, run_wait, run_waits, script_batches

pytestmark = pytest.mark.usefixtures("connection")


def test_waits_of_one_connection_share_a_session_that_the_last_one_closes(standin: StandIn) -> None:
    batch_ids = script_batches(standin, 50, *["in_progress"] * 3, "completed")

    assert asyncio.run(run_waits(batch_ids)) == {"ended": 50}
    assert len(standin.requests) == 200
    assert standin.connections <= 50


def test_a_cancelled_wait_closes_its_session(standin: StandIn) -> None:
    standin.script("batch_1", "in_progress")

    async def cancel() -> None:
        wait = asyncio.ensure_future(run_wait("batch_1", poke_interval=0.02))
        await asyncio.to_thread(standin.wait_for, 3)
        assert len(open_sessions()) == 1
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait
        assert open_sessions() == []

    asyncio.run(cancel())


def test_no_more_than_max_connections_are_open(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"virtual_key": standin.virtual_key, "max_connections": 5}
    set_connection(monkeypatch, host=standin.url, password=standin.api_key, extra=extra)
    slow = Answer(body=batch_body("batch_0"), delay=0.02)
    batch_ids = script_batches(standin, 50, slow)
    for batch_id in batch_ids:
        standin.script(batch_id, slow, Answer(body=batch_body(batch_id, "completed"), delay=0.02))

    assert asyncio.run(run_waits(batch_ids)) == {"ended": 50}
    assert standin.connections == 5


def test_the_time_in_the_queue_for_a_slot_does_not_count_for_the_request_timeout(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"virtual_key": standin.virtual_key, "max_connections": 1, "timeout": 0.5}
    set_connection(monkeypatch, host=standin.url, password=standin.api_key, extra=extra)
    monkeypatch.setattr(retry, "MAX_ATTEMPTS", 1)
    failures: list[Any] = []
    monkeypatch.setattr(Progress, "record_failure", lambda *args: failures.append(args))
    batch_ids = script_batches(standin, 15)
    for batch_id in batch_ids:
        standin.script(batch_id, Answer(body=batch_body(batch_id, "completed"), delay=0.1))

    assert asyncio.run(run_waits(batch_ids)) == {"ended": 15}
    assert failures == []


def test_connections_with_other_credentials_have_their_own_session(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin.script("batch_1", "in_progress", "completed")
    standin.script("batch_2", "in_progress", "completed")
    fields = {"host": standin.url, "password": standin.api_key}
    set_connection(monkeypatch, "second", **fields, extra={"provider": f"@{standin.virtual_key}"})

    async def wait_on_both() -> None:
        await asyncio.gather(run_wait("batch_1"), run_wait("batch_2", "second"))

    asyncio.run(wait_on_both())
    assert standin.connections == 2
    routes = {tuple(sorted(h for h in s.headers if h.startswith("x-portkey-"))) for s in standin.requests}
    assert len(routes) == 2


def test_each_event_loop_has_its_own_session(standin: StandIn) -> None:
    for _ in range(3):  # A session of a closed event loop would fail.
        standin.script("batch_1", "in_progress", "completed")
        assert asyncio.run(run_wait("batch_1")) == "ended"


@pytest.mark.parametrize("seed", range(3))
def test_waits_killed_at_random_leave_nothing_open(seed: int, standin: StandIn) -> None:
    rng = random.Random(seed)
    answers = itertools.cycle(
        [
            Answer(body=batch_body("x"), delay=0.03),
            Answer(503, "down"),
            Answer(how="reset"),
            Answer(body=batch_body("x"), how="trickle", pause=0.001),
            Answer(body=batch_body("x"), how="truncate"),
        ]
    )
    batch_ids = script_batches(standin, 100, "in_progress")
    for batch_id in batch_ids:
        standin.script(batch_id, next(answers))

    async def kill() -> None:
        waits = [asyncio.ensure_future(run_wait(batch_id)) for batch_id in batch_ids]
        for wait in rng.sample(waits, len(waits)):
            await asyncio.sleep(rng.random() * 0.02)
            wait.cancel()
        for wait in waits:
            with suppress(asyncio.CancelledError):
                await wait
        assert open_sessions() == []
        # A lookup that others may wait for runs to its end.
        assert len(asyncio.all_tasks() - {asyncio.current_task()}) <= 1

    asyncio.run(kill())
    assert standin.connections > 0
    standin.wait_until_left()


def test_a_hook_that_is_left_while_a_call_opens_its_session_leaves_none_open(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin.script("batch_1", "completed")

    async def leave_early() -> None:
        opening, left = asyncio.Event(), asyncio.Event()
        open_session = aio.SharedSession.open

        async def open_late(session: aio.SharedSession) -> None:
            opening.set()
            await left.wait()
            await open_session(session)

        monkeypatch.setattr(aio.SharedSession, "open", open_late)

        async def fail() -> None:
            await opening.wait()
            raise RuntimeError("another call of the gather")

        hook = PortkeyHook()
        with suppress(RuntimeError):
            async with hook:
                call = asyncio.ensure_future(hook.aget_batch("batch_1"))
                await asyncio.gather(call, fail())
        left.set()
        assert (await call).status == "completed"
        assert open_sessions() == []

    asyncio.run(leave_early())
