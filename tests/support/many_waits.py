"""Waits in the triggerer: several triggers on one event loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from airflow_provider_portkey.hooks.connection import ConnectionHook
from airflow_provider_portkey.transport import aio
from airflow_provider_portkey.transport.aio import SharedSession
from airflow_provider_portkey.triggers.batch import PortkeyBatchTrigger
from tests.server.standin import Scripted, StandIn
from tests.support.triggers import only_event


def script_batches(standin: StandIn, count: int, *answers: Scripted) -> list[str]:
    """Script ``count`` batches with the same answers, and return their ids."""
    batch_ids = [f"batch_{n}" for n in range(count)]
    for batch_id in batch_ids:
        standin.script(batch_id, *answers)
    return batch_ids


async def run_wait(batch_id: str, conn_id: str = "portkey_default", poke_interval: float = 0.05) -> str:
    """Run one trigger, and return how it ended: the kind of its event, or the class of its error."""
    event = await only_event(PortkeyBatchTrigger(batch_id, conn_id, poke_interval=poke_interval))
    return str(event.get("error", event["event"]))


async def run_waits(batch_ids: list[str], poke_interval: float = 0.05) -> Counter[str]:
    """Run a trigger per batch at once, and return how many ended in which way. None may leave a session open."""
    ends = await asyncio.gather(*(run_wait(batch_id, poke_interval=poke_interval) for batch_id in batch_ids))
    assert open_sessions() == []
    return Counter(ends)


def open_sessions() -> list[SharedSession]:
    """Return the shared sessions of the running event loop."""
    return list(aio._sessions.get(asyncio.get_running_loop(), {}).values())


async def until_rate_limited() -> None:
    """Wait until the one shared session has read a response with Retry-After: no event announces that."""
    [session] = open_sessions()
    while session._blocked_by is None:  # noqa: ASYNC110
        await asyncio.sleep(0.001)


class LookupCounter:
    """Counts lookups of connections on event loops, each of which takes 0.2 s as in a slow secrets backend."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = self.in_progress = self.most_at_once = 0
        look_up = ConnectionHook._look_up_for

        async def count(hook: ConnectionHook, lookup: Any) -> None:
            self.count += 1
            self.in_progress += 1
            self.most_at_once = max(self.most_at_once, self.in_progress)
            try:
                await asyncio.sleep(0.2)
                await look_up(hook, lookup)
            finally:
                self.in_progress -= 1

        monkeypatch.setattr(ConnectionHook, "_look_up_for", count)
