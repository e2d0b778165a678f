"""A wait on each of the two HTTP stacks."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, Literal

from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor
from airflow_provider_portkey.triggers.batch import PortkeyBatchTrigger
from tests.support.task_instance import TaskInstance
from tests.support.time_limit import fail_after
from tests.support.triggers import only_event, reload_trigger
from tests.support.world import World

Stack = Literal["requests", "aiohttp"]
STACKS: tuple[Stack, ...] = ("requests", "aiohttp")


def wait_on_stack(stack: Stack, world: World, batch_id: str, **parameters: Any) -> None:
    """
    Wait for a batch as Airflow would, and keep in ``world`` the result, the error, the event and the XComs.

    On ``requests`` a sensor polls on a worker. On ``aiohttp`` its trigger polls, and the sensor takes the event.
    """
    parameters = {"poke_interval": 0.02, "timeout": 10.0} | parameters
    sensor = PortkeyBatchSensor(task_id="wait", batch_id=batch_id, **parameters)
    ti = TaskInstance()
    world.started_at = time.monotonic()
    with fail_after(15):
        try:
            if stack == "requests":
                world.result = sensor.execute(ti.context)
            else:
                now = time.time()
                trigger = PortkeyBatchTrigger(
                    batch_id,
                    poke_interval=sensor.poke_interval,
                    started_at=now,
                    deadline=now + sensor.timeout,
                    exponential_backoff=sensor.exponential_backoff,
                )
                world.event = asyncio.run(only_event(reload_trigger(trigger)))
                world.result = sensor.execute_complete(ti.context, json.loads(json.dumps(world.event)))
        except Exception as error:  # noqa: BLE001 - each test says which error it expects
            world.error = error
    world.ended_at = time.monotonic()
    world.xcoms = ti.xcoms
