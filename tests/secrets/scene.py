"""A world with secrets in every field of its connection, where all that can be read is recorded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest

from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.calls import retrieve_batch
from airflow_provider_portkey.exceptions import PortkeyError
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.operators.batch import PortkeyRetrieveBatchOperator
from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor
from airflow_provider_portkey.settings import Settings
from airflow_provider_portkey.triggers.batch import PortkeyBatchTrigger
from tests.server.standin import Scripted
from tests.support.evidence import API_KEY, AWS_KEY, CONFIG, CONFIG_KEY, PROVIDER_KEY, SECRETS, VIRTUAL_KEY, Evidence
from tests.support.stacks import Stack, wait_on_stack
from tests.support.world import World

#: The extra of the connection.
EXTRA: dict[str, Any] = {
    "virtual_key": VIRTUAL_KEY,
    "config": CONFIG,
    "headers": {"x-portkey-aws-secret-access-key": AWS_KEY, "x-portkey-forward-key": PROVIDER_KEY},
}
#: What a server receives, and can quote in its responses.
SENT = [API_KEY, VIRTUAL_KEY, SECRETS["config"], CONFIG_KEY, AWS_KEY, PROVIDER_KEY]
ALL_SECRETS = "; ".join(SENT)


@dataclass
class Scene:
    """A world, and the evidence of what can be read in it."""

    world: World
    evidence: Evidence
    stack: Stack

    def wait(self, *answers: Scripted, **parameters: Any) -> None:
        """Wait for a batch with these answers, and record what comes of it."""
        world, evidence = self.world, self.evidence
        world.standin.script("batch_1", *answers)
        wait_on_stack(self.stack, world, "batch_1", **parameters)
        if world.error:
            evidence.add_error(world.error)
        for place, value in {"event": world.event, "XCom": world.xcoms, "return value": world.result}.items():
            evidence.add(place, json.dumps(value))
            evidence.add(place, json.dumps(value, ensure_ascii=False))

    def wait_with_retries(self, *answers: Scripted) -> None:
        """Wait as above; repeat the last answer beyond the attempts of a call, in case it does not end the wait."""
        self.wait(*answers[:-1], *[answers[-1]] * 4, "completed")
        self.world.standin.script("batch_1", answers[-1])

    def record_objects(self) -> None:
        """Record our public objects, after use where they are used."""
        for kind in (PortkeyBatchSensor, PortkeyRetrieveBatchOperator):
            task = kind(task_id="record", batch_id="batch_1")
            self.evidence.add_object(kind.__name__, task)
            self.evidence.add("templates", repr([getattr(task, name) for name in task.template_fields]))
        trigger = PortkeyBatchTrigger("batch_1")
        self.evidence.add_object("trigger", trigger)
        self.evidence.add("trigger's arguments", repr(trigger.serialize()))
        hook = PortkeyHook()
        try:
            self.evidence.add("test_connection", repr(hook.test_connection()))
            self.evidence.add_object("session", hook.get_conn())
            hook.get_conn().close()
        except PortkeyError as error:
            self.evidence.add_error(error)
        else:
            [settings] = [value for value in vars(hook).values() if isinstance(value, Settings)]
            self.evidence.add_object("Settings", settings)
            self.evidence.add_object("Request", retrieve_batch(settings, "batch_1"))
        polls: list[Callable[[], Batch]] = [
            lambda: hook.get_batch("batch_1"),
            lambda: asyncio.run(hook.aget_batch("batch_1")),
        ]
        for poll in polls:
            try:
                self.evidence.add_object("Batch", poll())
            except PortkeyError as error:
                self.evidence.add_error(error)
        self.evidence.add_object("hook", hook)

    def leaks(self, capfd: pytest.CaptureFixture[str]) -> list[str]:
        """Return the secrets that can be read, also in our objects and in the output."""
        self.record_objects()
        out, err = capfd.readouterr()
        self.evidence.add("stdout", out)
        self.evidence.add("stderr", err)
        return self.evidence.leaks()


#: What happens in a scene.
Run: TypeAlias = Callable[[Scene], None]


def text_cut_at(secret: str, length: int) -> str:
    """Return a text in which ``secret`` is cut in its middle, when a message is cut at ``length`` characters."""
    return "x" * (length - 12 - len("openai error: ")) + " " + secret
