"""Many waits share the lookups of their connection, and a change of it reaches all of them."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from airflow_provider_portkey.exceptions import PortkeyInputError
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from tests.server.standin import StandIn
from tests.support.connections import set_connection
from tests.support.many_waits import LookupCounter, run_wait, run_waits, script_batches

pytestmark = pytest.mark.usefixtures("connection")


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> LookupCounter:
    return LookupCounter(monkeypatch)


def test_a_thousand_waits_that_start_together_share_one_lookup(standin: StandIn, lookups: LookupCounter) -> None:
    batch_ids = script_batches(standin, 1000, "in_progress", "completed")
    assert asyncio.run(run_waits(batch_ids)) == {"ended": 1000}
    assert lookups.count == 1


def test_a_rotated_key_reaches_all_waits_with_few_lookups(
    standin: StandIn, lookups: LookupCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_ids = script_batches(standin, 300, *["in_progress"] * 20, "completed")

    async def rotate() -> Counter[str]:
        waits = asyncio.ensure_future(run_waits(batch_ids))
        await asyncio.to_thread(standin.wait_for, 600)
        set_connection(monkeypatch, host=standin.url, password="pk-new", extra={"virtual_key": standin.virtual_key})
        standin.api_key = "pk-new"
        return await waits

    assert asyncio.run(rotate()) == {"ended": 300}
    assert lookups.most_at_once == 1
    # One at the start; the waits that were rejected during a lookup share the next one.
    assert 2 <= lookups.count < 15
    keys = Counter(seen.headers["x-portkey-api-key"] for seen in standin.requests)
    assert keys["pk-new"] > keys["pk-standin-0123456789"]


def test_a_wrong_key_fails_all_waits_with_few_lookups(standin: StandIn, lookups: LookupCounter) -> None:
    batch_ids = script_batches(standin, 300, "in_progress")
    standin.api_key = "another"

    assert asyncio.run(run_waits(batch_ids)) == {"PortkeyRefusedError": 300}
    assert lookups.count < 15
    assert len(standin.requests) == 300


def test_an_invalid_connection_fails_all_waits_with_few_lookups(
    standin: StandIn, lookups: LookupCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_connection(monkeypatch, host=standin.url, password="")

    assert asyncio.run(run_waits(script_batches(standin, 300, "in_progress"))) == {"PortkeyInputError": 300}
    assert lookups.count < 15
    assert not standin.requests


def test_a_failed_lookup_is_not_shared_with_waits_that_start_later(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    [batch_id] = script_batches(standin, 1, "in_progress", "completed")
    url, key = standin.url, standin.api_key

    async def repair() -> list[str]:
        other = PortkeyHook()  # It keeps the last lookup alive.
        set_connection(monkeypatch, host=url, password="")
        broken = await run_wait(batch_id)
        with pytest.raises(PortkeyInputError):
            await other.aget_batch(batch_id)
        set_connection(monkeypatch, host=url, password=key, extra={"virtual_key": standin.virtual_key})
        return [broken, await run_wait(batch_id)]

    assert asyncio.run(repair()) == ["PortkeyInputError", "ended"]


def test_a_lookup_from_before_a_change_does_not_fail_a_new_wait(
    standin: StandIn, lookups: LookupCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_batches(standin, 2, "in_progress")
    standin.script("batch_1", "in_progress", "completed")

    async def change() -> list[str]:
        first = asyncio.ensure_future(run_wait("batch_0"))
        await asyncio.to_thread(standin.wait_for, 2)
        # The credential that the connection names is replaced, and so is its name in the connection.
        standin.virtual_key = "openai-new"
        set_connection(monkeypatch, host=standin.url, password=standin.api_key, extra={"virtual_key": "openai-new"})
        second = await run_wait("batch_1")
        standin.script("batch_0", "completed")
        return [second, await first]

    assert asyncio.run(change()) == ["ended", "ended"]
    assert lookups.most_at_once == 1
