"""
The trigger of an asset watcher: starts DAGs when batches end, whoever created them.

How it remembers. At each poll it lists the batches, and fires an event for each that is terminal and is not in its
cursor, which the watched asset's state store holds.

- The first poll fires nothing. What ends after it is not lost while no triggerer runs, or while the DAG is paused: it
  fires at the next poll.
- The cursor is written some seconds after the events were fired, when Airflow has stored them. A triggerer that dies
  in between makes its successor fire them again: each batch fires at least once.
- Batches that were created longer than ``MAX_AGE`` ago do not fire. That bounds the list and the cursor.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, cast

from airflow.providers.common.compat.triggers import BaseEventTrigger
from airflow.triggers.base import TriggerEvent

from airflow_provider_portkey.batch import TERMINAL_STATUSES, Batch
from airflow_provider_portkey.exceptions import PortkeyError, PortkeyInputError
from airflow_provider_portkey.hooks.portkey import PortkeyHook, alist_pages
from airflow_provider_portkey.settings import task_headers
from airflow_provider_portkey.wait import as_seconds

#: How many seconds old a batch may be to fire.
MAX_AGE = 14 * 86_400
#: How many seconds the cursor is written after the events: a triggerer hands its events to Airflow about each second.
STORED_AFTER = 10.0


@dataclass(eq=False, repr=False)  # the base class has its own
class PortkeyBatchEndedTrigger(BaseEventTrigger):
    """
    Fires an event for each batch of a connection that ends: for an ``AssetWatcher``, on Airflow 3.3 and later.

    The event's payload is the batch as a dict. A DAG that the asset schedules reads it from ``triggering_asset_events``
    as ``event.extra["payload"]``. Each batch fires at least once, and again only if a triggerer died within seconds
    after the event. No failure ends it.

    :param portkey_conn_id: the id of the Airflow connection
    :param headers: headers to send in addition to the connection's, or instead of those of the same names: bucket,
        region, model, ... They may not hold credentials, which belong on the connection
    :param statuses: the terminal statuses that fire, of ``completed``, ``failed``, ``expired`` and ``cancelled``
    :param required_metadata: pairs that a batch's metadata must hold to fire; default: none. A batch whose provider
        does not return metadata then never fires
    :param poke_interval: seconds or timedelta between two polls; up to a tenth less, so that waits spread
    :raises PortkeyInputError: before Airflow 3.3, which has no state store for assets
    """

    portkey_conn_id: str = PortkeyHook.default_conn_name
    headers: Mapping[str, str] | None = None
    statuses: Iterable[str] = tuple(TERMINAL_STATUSES)
    required_metadata: Mapping[str, str] | None = None
    poke_interval: timedelta | float = 60

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if not hasattr(self, "asset_state_store"):
            raise PortkeyInputError("PortkeyBatchEndedTrigger needs Airflow 3.3 or later: use a sensor instead")
        words = [self.statuses] if isinstance(self.statuses, str) else list(self.statuses)
        if not words or not all(word in TERMINAL_STATUSES for word in words):
            raise ValueError(f"statuses must hold one or more of {', '.join(TERMINAL_STATUSES)}; got {words!r}")
        # Airflow identifies a watcher by its arguments: two spellings of the same must be equal.
        self.statuses = sorted({str(word) for word in words})
        self.headers = dict(sorted(task_headers(self.headers).items())) or None
        self.required_metadata = dict(sorted((self.required_metadata or {}).items())) or None
        self.poke_interval = as_seconds("poke_interval", self.poke_interval)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what Airflow stores to create the same trigger in any triggerer."""
        arguments = {field.name: getattr(self, field.name) for field in fields(self)}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll for ever, and fire one event for each batch that has ended."""
        assert isinstance(self.poke_interval, float)
        if self.asset_state_store is None:
            raise PortkeyInputError("PortkeyBatchEndedTrigger watches an asset: pass it to an AssetWatcher")
        key = self._cursor_key()
        cursor: dict[str, int] | None = None
        is_stored = True
        problem: str | None = None
        async with PortkeyHook(self.portkey_conn_id, self.headers) as hook:
            while True:
                try:
                    if cursor is None:
                        cursor = cast("dict[str, int] | None", await self.asset_state_store.aget(key))
                    ended = await self._ended(hook)
                    new = {name: batch for name, batch in ended.items() if name not in (cursor or {})}
                    fired = [] if cursor is None else [batch for batch in new.values() if self._is_wanted(batch)]
                    for batch in fired:
                        self.log.info("%s.", batch)
                        yield TriggerEvent(batch.to_dict())  # type: ignore[no-untyped-call]
                    if new or cursor is None:
                        cursor, is_stored = _remember(cursor or {}, ended), False
                    if fired:
                        await asyncio.sleep(STORED_AFTER)
                    if not is_stored:
                        await self.asset_state_store.aset(key, dict(cursor or {}))
                        is_stored = True
                    if problem:
                        self.log.info("Batches of connection %r are listed again.", self.portkey_conn_id)
                    problem = None
                except Exception as error:  # noqa: BLE001
                    # The watcher must outlive a wrong key and a state store that is down: nobody would start it again.
                    words = str(error) if isinstance(error, PortkeyError) else f"{type(error).__name__}: {error}"
                    if words != problem:
                        self.log.warning("Cannot list the batches that ended, retrying at the next poll: %s", words)
                    problem = words
                await asyncio.sleep(self.poke_interval * (1 - random.random() / 10))

    def _cursor_key(self) -> str:
        """Return the cursor's name: triggers that differ in what they fire for may watch one asset."""
        asked = json.dumps([self.portkey_conn_id, self.headers, self.statuses, self.required_metadata])
        return f"portkey_batches_ended_{hashlib.sha256(asked.encode()).hexdigest()[:16]}"

    async def _ended(self, hook: PortkeyHook) -> dict[str, Batch]:
        """Return the batches that are listed as terminal, by their names in the cursor, oldest first."""
        oldest = time.time() - MAX_AGE
        found: dict[str, Batch] = {}
        async for page in alist_pages(hook):
            recent = [batch for batch in page.batches if batch.created_at is None or batch.created_at > oldest]
            # A digest, since the ids of a thousand Bedrock batches would fill a row of the database.
            found |= {
                hashlib.sha256(batch.id.encode()).hexdigest()[:12]: batch
                for batch in recent
                if batch.status.is_terminal
            }
            if page.batches and not recent:
                break
        return dict(reversed(found.items()))

    def _is_wanted(self, batch: Batch) -> bool:
        pairs = self.required_metadata or {}
        return batch.status in self.statuses and pairs.items() <= (batch.metadata or {}).items()


def _remember(cursor: Mapping[str, int], ended: Mapping[str, Batch]) -> dict[str, int]:
    """Return the cursor with the batches that have ended, and without those that are too old to fire again."""
    now = int(time.time())
    listed = {name: batch.created_at or now for name, batch in ended.items()}
    return {name: at for name, at in {**cursor, **listed}.items() if at > now - 2 * MAX_AGE}
