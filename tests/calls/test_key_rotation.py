"""An API key that is rotated while a hook lives."""

from __future__ import annotations

import asyncio

import pytest

from airflow_provider_portkey.exceptions import PortkeyRefusedError
from tests.calls.operations import ASYNC_CANCEL, CALLS, Call, for_each_call
from tests.calls.world import CallWorld

#: A hook reads the connection anew in each event loop, so that the asynchronous call has a test of its own.
SYNC_CALLS = [call for call in CALLS if call is not ASYNC_CANCEL]


@for_each_call(SYNC_CALLS)
def test_a_call_that_is_rejected_reads_the_new_key_and_is_repeated(call: Call, world: CallWorld) -> None:
    world.use_hook()
    world.rotate_api_key()
    world.set_connection()
    world.returned = call.run(world)
    assert call.took_effect(world)
    assert len(world.received_at(call.method, call.path)) == 2


def test_an_async_cancel_that_is_rejected_reads_the_new_key_and_is_repeated(world: CallWorld) -> None:
    async def cancel() -> None:
        async with world.hook as hook:
            await hook.aget_batch("batch_1")
            world.rotate_api_key()
            world.set_connection()
            await hook.acancel_batch("batch_1")

    asyncio.run(cancel())
    assert [seen.method for seen in world.standin.requests] == ["GET", "POST", "POST"]
    assert world.standin.cancelled == ["batch_1"]


@for_each_call(CALLS)
def test_a_key_that_is_rotated_before_the_connection_fails_the_call_once(call: Call, world: CallWorld) -> None:
    world.use_hook()
    world.rotate_api_key()
    with pytest.raises(PortkeyRefusedError, match="HTTP 401"):
        call.run(world)
    assert len(world.received_at(call.method, call.path)) == 1
    world.set_connection()
    world.returned = call.run(world)
    assert call.took_effect(world)
