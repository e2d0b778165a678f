"""A triggerer that stops during a wait, and another that takes over what Airflow stored."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from airflow_provider_portkey.triggers.batch import PortkeyBatchTrigger
from tests.support.triggers import only_event, reload_trigger
from tests.support.world import World


@pytest.fixture(autouse=True)
def _serve(world: World) -> None:
    world.standin = world.serve()
    world.set_connection()


def run_with_restart(world: World, *, timeout: float) -> dict[str, Any]:
    """Run a trigger, cancel it after three polls, run it again, and return its event."""
    now = time.time()
    trigger = PortkeyBatchTrigger("batch_1", poke_interval=0.05, started_at=now, deadline=now + timeout)
    world.started_at = time.monotonic()

    async def run_and_cancel() -> None:
        task = asyncio.ensure_future(only_event(reload_trigger(trigger)))
        await asyncio.to_thread(world.standin.wait_for, 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run_and_cancel())
    event = asyncio.run(only_event(reload_trigger(trigger)))
    world.ended_at = time.monotonic()
    return event


def test_a_restart_of_the_triggerer_does_not_move_the_deadline(world: World) -> None:
    world.standin.script("batch_1", "in_progress")
    event = run_with_restart(world, timeout=1.0)
    assert event["event"] == "timeout"
    assert 1.0 <= world.ended_at - world.started_at < 1.6


def test_the_wait_continues_after_a_restart_of_the_triggerer(world: World) -> None:
    world.standin.script("batch_1", *["in_progress"] * 8, "completed")
    event = run_with_restart(world, timeout=20.0)
    assert event["batch"]["status"] == "completed"


def test_a_trigger_started_after_its_deadline_polls_once(world: World) -> None:
    world.standin.script("batch_1", "completed")
    event = asyncio.run(only_event(PortkeyBatchTrigger("batch_1", started_at=0.0, deadline=1.0)))
    assert event["event"] == "ended"
    assert len(world.standin.requests) == 1
