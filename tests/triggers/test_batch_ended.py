"""The trigger of an asset watcher, against a real HTTP server: each batch that ends fires, once."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.triggers import BaseEventTrigger

from airflow_provider_portkey.exceptions import PortkeyInputError
from airflow_provider_portkey.triggers import batch_ended
from airflow_provider_portkey.triggers.batch_ended import MAX_AGE, PortkeyBatchEndedTrigger
from tests.server.standin import Answer, StandIn, batch_body

HAS_STATE_STORE = "asset_state_store" in BaseEventTrigger.__init__.__code__.co_names
pytestmark = pytest.mark.usefixtures("connection")
on_airflow_3_3 = pytest.mark.skipif(not HAS_STATE_STORE, reason="before Airflow 3.3 there is no state store for assets")


class Store:
    """The watched asset's state store, as far as a trigger uses it; ``failures`` are raised first."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.failures: list[Exception] = []
        self.written = asyncio.Event()

    async def aget(self, key: str, default: Any = None) -> Any:
        if self.failures:
            raise self.failures.pop()
        return json.loads(json.dumps(self.values.get(key, default)))

    async def aset(self, key: str, value: Any) -> None:
        if self.failures:
            raise self.failures.pop()
        self.values[key] = value
        self.written.set()


def trigger(store: Store, **arguments: Any) -> PortkeyBatchEndedTrigger:
    made = PortkeyBatchEndedTrigger(**{"poke_interval": 0.01, **arguments})
    made.asset_state_store = store  # type: ignore[assignment]
    return made


def listed(**statuses: str) -> Answer:
    """Return a list of batches of today, whose metadata has the batch's name."""
    at = int(time.time()) - 60
    data = [
        batch_body(name, status, created_at=at, metadata={"name": name, "team": "a"})
        for name, status in statuses.items()
    ]
    return Answer(200, {"object": "list", "data": data, "has_more": False})


def script(standin: StandIn, *answers: Answer) -> None:
    """Set the responses to consecutive lists. The last one repeats."""
    standin.fail("GET", "/v1/batches", *answers, *[answers[-1]] * 50)


async def first_events(watcher: PortkeyBatchEndedTrigger, count: int) -> list[dict[str, Any]]:
    """Return the payloads of the first events, and stop the trigger there, as a triggerer that dies."""
    events = watcher.run()
    async with asyncio.timeout(20):
        payloads = [(await anext(events)).payload for _ in range(count)]
    await events.aclose()  # type: ignore[attr-defined]
    return payloads


async def run_until(watcher: PortkeyBatchEndedTrigger, event: asyncio.Event) -> list[str]:
    """Run until something happened, and return the ids that fired."""
    fired: list[str] = []

    async def run() -> None:
        async for one in watcher.run():
            fired.append(one.payload["id"])

    task = asyncio.create_task(run())
    async with asyncio.timeout(20):
        await event.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return fired


def ids(payloads: list[dict[str, Any]]) -> list[str]:
    return [payload["id"] for payload in payloads]


@pytest.fixture(autouse=True)
def no_pause_before_the_cursor_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_ended, "STORED_AFTER", 0)


@on_airflow_3_3
def test_a_batch_that_ends_fires_once_with_its_dict(standin: StandIn) -> None:
    script(
        standin,
        listed(a="completed", b="in_progress"),
        listed(a="completed", b="completed"),
        listed(a="completed", b="completed"),
        listed(a="completed", b="completed", c="failed"),
    )
    events = asyncio.run(first_events(trigger(Store()), 2))
    assert [(event["id"], event["status"]) for event in events] == [("b", "completed"), ("c", "failed")]
    assert events[0]["output_file_id"] == "file-b-output"
    assert json.loads(json.dumps(events)) == events


@on_airflow_3_3
def test_what_ended_while_no_triggerer_ran_fires_at_the_next_start(standin: StandIn) -> None:
    script(standin, listed(a="completed", b="in_progress"), listed(a="completed", b="completed", c="completed"))

    async def both_runs() -> tuple[list[str], list[str]]:
        store = Store()
        return await run_until(trigger(store), store.written), ids(await first_events(trigger(store), 2))

    before, after = asyncio.run(both_runs())
    assert before == []
    assert sorted(after) == ["b", "c"]


@on_airflow_3_3
def test_a_triggerer_that_dies_before_the_cursor_is_written_fires_again(standin: StandIn) -> None:
    script(standin, listed(a="in_progress"), listed(a="completed"))

    async def two_runs() -> list[list[str]]:
        store = Store()
        return [ids(await first_events(trigger(store), 1)) for _ in range(2)]

    assert asyncio.run(two_runs()) == [["a"], ["a"]]


@on_airflow_3_3
def test_once_the_cursor_is_written_another_triggerer_does_not_fire_again(standin: StandIn) -> None:
    script(standin, listed(a="in_progress"), listed(a="completed"), listed(a="completed"), listed(b="completed"))

    async def two_runs() -> tuple[list[str], list[str]]:
        store = Store()
        await run_until(trigger(store), store.written)
        store.written.clear()
        first = await run_until(trigger(store), store.written)
        return first, ids(await first_events(trigger(store), 1))

    assert asyncio.run(two_runs()) == (["a"], ["b"])


@on_airflow_3_3
@pytest.mark.parametrize(
    ("arguments", "fired"),
    [
        ({"statuses": ["failed", "expired"]}, ["b"]),
        ({"statuses": "failed"}, ["b"]),
        ({"required_metadata": {"name": "c", "team": "a"}}, ["c"]),
    ],
)
def test_only_what_is_asked_for_fires(standin: StandIn, arguments: dict[str, Any], fired: list[str]) -> None:
    script(standin, listed(), listed(a="completed", b="failed", c="completed"))
    assert ids(asyncio.run(first_events(trigger(Store(), **arguments), 1))) == fired


@on_airflow_3_3
def test_a_watcher_outlives_a_refusal_an_outage_and_a_broken_state_store(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Airflow 3 logs with structlog, which pytest does not capture.
    monkeypatch.setattr(PortkeyBatchEndedTrigger, "log", logging.getLogger("trigger"))
    refused = Answer(401, {"status": "failure", "message": "Invalid API Key"})
    script(standin, listed(a="in_progress"), refused, Answer(400, "no"), listed(a="completed"))
    store = Store()
    store.failures = [ConnectionError("the API server is down")]
    assert ids(asyncio.run(first_events(trigger(store), 1))) == ["a"]
    problems = [record.getMessage().splitlines()[0] for record in caplog.records if record.levelname == "WARNING"]
    prefix = "Cannot list the batches that ended, retrying at the next poll: "
    assert [problem.removeprefix(prefix) for problem in problems] == [
        "ConnectionError: the API server is down",
        "API key rejected by Portkey (HTTP 401): check the password of connection 'portkey_default'",
        "Request rejected by the gateway (HTTP 400): check what was sent",
    ]


@on_airflow_3_3
def test_batches_older_than_two_weeks_are_neither_listed_nor_remembered(standin: StandIn) -> None:
    old = [batch_body(f"old_{n}", "completed", created_at=int(time.time()) - MAX_AGE - 60) for n in range(100)]
    page = Answer(200, {"data": old, "has_more": True, "last_id": "old_99"})
    standin.fail("GET", "/v1/batches", page, page, page)

    async def one_poll() -> Store:
        store = Store()
        await run_until(trigger(store, poke_interval=60), store.written)
        return store

    assert list(asyncio.run(one_poll()).values.values()) == [{}]
    assert len(standin.requests) == 1


@on_airflow_3_3
def test_a_batch_without_a_time_fires_once_however_long_it_is_listed(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def undated(*names: str) -> Answer:
        return Answer(200, {"data": [batch_body(name, "completed", created_at=None) for name in names]})

    script(standin, undated("a"), undated("b", "a"), undated("c", "b", "a"))
    months = itertools.count(time.time(), 3 * MAX_AGE)
    monkeypatch.setattr(batch_ended, "time", SimpleNamespace(time=lambda: next(months)))
    assert ids(asyncio.run(first_events(trigger(Store()), 2))) == ["b", "c"]


@on_airflow_3_3
def test_headers_of_the_trigger_are_sent_and_may_not_hold_credentials(standin: StandIn) -> None:
    script(standin, listed(), listed(a="completed"))
    asyncio.run(first_events(trigger(Store(), headers={"X-Portkey-AWS-Region": "eu-west-1"}), 1))
    assert {request.headers["x-portkey-aws-region"] for request in standin.requests} == {"eu-west-1"}
    with pytest.raises(PortkeyInputError, match="headers must not contain 'authorization'"):
        PortkeyBatchEndedTrigger(headers={"authorization": "Bearer abc"})


@on_airflow_3_3
def test_equal_watchers_have_equal_arguments_at_each_parse() -> None:
    one = PortkeyBatchEndedTrigger(statuses=["failed", "completed"], required_metadata={"a": "1", "b": "2"})
    other = PortkeyBatchEndedTrigger(statuses=("completed", "failed"), required_metadata={"b": "2", "a": "1"})
    assert json.dumps(one.serialize()) == json.dumps(other.serialize())
    assert PortkeyBatchEndedTrigger(**one.serialize()[1]).serialize() == one.serialize()


@on_airflow_3_3
def test_an_asset_watcher_accepts_it() -> None:
    from airflow.sdk import Asset, AssetWatcher

    Asset("portkey_batches", watchers=[AssetWatcher(name="ended", trigger=PortkeyBatchEndedTrigger())])


@on_airflow_3_3
def test_without_an_asset_it_refuses_to_run() -> None:
    with pytest.raises(PortkeyInputError, match="pass it to an AssetWatcher"):
        asyncio.run(first_events(PortkeyBatchEndedTrigger(), 1))


@on_airflow_3_3
def test_a_status_that_does_not_end_a_batch_is_refused_when_the_dag_is_parsed() -> None:
    with pytest.raises(ValueError, match="statuses must hold one or more of completed"):
        PortkeyBatchEndedTrigger(statuses=["in_progress"])


@pytest.mark.skipif(HAS_STATE_STORE, reason="Airflow 3.3 has a state store for assets")
def test_before_airflow_3_3_it_is_refused_when_the_dag_is_parsed() -> None:
    with pytest.raises(PortkeyInputError, match=r"needs Airflow 3\.3 or later"):
        PortkeyBatchEndedTrigger()
