"""Triggers, run without a triggerer."""

from __future__ import annotations

import importlib
import json
from typing import Any

from airflow_provider_portkey.triggers.batch import PortkeyBatchTrigger


def reload_trigger(trigger: PortkeyBatchTrigger) -> PortkeyBatchTrigger:
    """Serialize a trigger and build it again, as Airflow does between a worker and a triggerer."""
    from airflow.serialization.serialized_objects import BaseSerialization

    path, kwargs = trigger.serialize()
    stored = json.loads(json.dumps(BaseSerialization.serialize(kwargs)))
    module, _, name = path.rpartition(".")
    reloaded = getattr(importlib.import_module(module), name)(**BaseSerialization.deserialize(stored))
    assert isinstance(reloaded, PortkeyBatchTrigger)
    return reloaded


async def only_event(trigger: PortkeyBatchTrigger) -> dict[str, Any]:
    """Run a trigger to its end, and return its one event."""
    [event] = [event.payload async for event in trigger.run()]
    assert isinstance(event, dict)
    return event
