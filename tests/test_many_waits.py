"""Many waits on one event loop: what they share, what they must not, and what they leave behind."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from airflow_provider_portkey import api
from airflow_provider_portkey.exceptions import PortkeyInputError, PortkeyTransientError
from airflow_provider_portkey.hooks import portkey
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.triggers.batch import PortkeyBatchTrigger
from airflow_provider_portkey.wait import Progress
from tests.conftest import set_connection
from tests.server.standin import Answer, StandIn, batch_body

pytestmark = pytest.mark.usefixtures("connection")


async def end(batch_id: str, conn_id: str = "portkey_default", interval: float = 0.05) -> Any:
    [event] = [e.payload async for e in PortkeyBatchTrigger(batch_id, conn_id, poke_interval=interval).run()]
    return event


async def ends(batch_ids: list[str], conn_id: str = "portkey_default", interval: float = 0.05) -> Counter[str]:
    events = await asyncio.gather(*(end(batch_id, conn_id, interval) for batch_id in batch_ids))
    assert not portkey._sessions.get(asyncio.get_running_loop())
    return Counter(event["event"] for event in events)


def batches(standin: StandIn, count: int, *answers: Any) -> list[str]:
    ids = [f"batch_{n}" for n in range(count)]
    for batch_id in ids:
        standin.script(batch_id, *answers)
    return ids


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - what it waits for has no event
        await asyncio.sleep(0.001)


class Lookups:
    """Counts look-ups of connections as they happen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = self.under_way = self.at_once = 0
        read = PortkeyHook._aread_connection

        async def counted(hook: PortkeyHook) -> Any:
            self.made += 1
            self.under_way += 1
            self.at_once = max(self.at_once, self.under_way)
            try:
                await asyncio.sleep(0.2)  # a secrets backend takes its time
                return await read(hook)
            finally:
                self.under_way -= 1

        monkeypatch.setattr(PortkeyHook, "_aread_connection", counted)


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> Lookups:
    return Lookups(monkeypatch)


class TestLookups:
    def test_a_thousand_waits_that_begin_together_make_one(self, standin: StandIn, lookups: Lookups) -> None:
        assert asyncio.run(ends(batches(standin, 1000, "in_progress", "completed"))) == {"ended": 1000}
        assert lookups.made == 1

    def test_a_rotated_key_reaches_all_with_few(
        self, standin: StandIn, lookups: Lookups, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = batches(standin, 300, *["in_progress"] * 20, "completed")

        async def rotate() -> Counter[str]:
            waits = asyncio.ensure_future(ends(ids))
            await asyncio.to_thread(standin.wait_for, 600)
            set_connection(monkeypatch, host=standin.url, password="pk-new", extra={"virtual_key": standin.virtual_key})
            standin.api_key = "pk-new"
            return await waits

        assert asyncio.run(rotate()) == {"ended": 300}
        assert lookups.at_once == 1
        # One at the start; then those that were refused during one share the next.
        assert 2 <= lookups.made < 15
        keys = Counter(seen.headers["x-portkey-api-key"] for seen in standin.requests)
        assert keys["pk-new"] > keys["pk-standin-0123456789"]

    def test_a_key_that_is_wrong_refuses_all_with_few(self, standin: StandIn, lookups: Lookups) -> None:
        ids = batches(standin, 300, "in_progress")
        standin.api_key = "another"

        assert asyncio.run(ends(ids)) == {"refused": 300}
        assert lookups.made < 15
        assert len(standin.requests) == 300

    def test_a_connection_that_cannot_be_used_fails_all_with_few(
        self, standin: StandIn, lookups: Lookups, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_connection(monkeypatch, host=standin.url, password="")

        assert asyncio.run(ends(batches(standin, 300, "in_progress"))) == {"input_error": 300}
        assert lookups.made < 15
        assert not standin.requests

    def test_one_that_failed_is_not_for_who_comes_later(
        self, standin: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        [batch_id] = batches(standin, 1, "in_progress", "completed")
        url, key = standin.url, standin.api_key

        async def mend() -> list[str]:
            other = PortkeyHook()  # keeps what was looked up last
            set_connection(monkeypatch, host=url, password="")
            broken = (await end(batch_id))["event"]
            with pytest.raises(PortkeyInputError):
                await other.aget_batch(batch_id)
            set_connection(monkeypatch, host=url, password=key, extra={"virtual_key": standin.virtual_key})
            return [broken, (await end(batch_id))["event"]]

        assert asyncio.run(mend()) == ["input_error", "ended"]

    def test_what_another_wait_looked_up_before_a_change_does_not_refuse_a_new_one(
        self, standin: StandIn, lookups: Lookups, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batches(standin, 2, "in_progress")
        standin.script("batch_1", "in_progress", "completed")

        async def change() -> list[str]:
            first = asyncio.ensure_future(end("batch_0"))
            await asyncio.to_thread(standin.wait_for, 2)
            # The credential that the connection named is gone; somebody has put the new one into the connection.
            standin.virtual_key = "openai-new"
            set_connection(monkeypatch, host=standin.url, password=standin.api_key, extra={"virtual_key": "openai-new"})
            second = (await end("batch_1"))["event"]
            standin.script("batch_0", "completed")
            return [second, (await first)["event"]]

        assert asyncio.run(change()) == ["ended", "ended"]
        assert lookups.at_once == 1


@pytest.mark.parametrize("stack", ["requests", "aiohttp"])
class TestAfterAFailure:
    @pytest.fixture
    def status(self, stack: str) -> Iterator[Callable[[], str]]:
        hook, loop = PortkeyHook(), asyncio.new_event_loop()
        if stack == "requests":
            yield lambda: hook.get_batch("batch_1", retry_within=0).status
        else:
            loop.run_until_complete(hook.__aenter__())  # keeps its session, as a wait does
            yield lambda: loop.run_until_complete(hook.aget_batch("batch_1", retry_within=0)).status
            loop.run_until_complete(hook.__aexit__())
        loop.close()

    def test_a_connection_that_moved_is_read_again(
        self, status: Callable[[], str], standin: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        standin.script("batch_1", "in_progress")
        with StandIn() as elsewhere:
            elsewhere.script("batch_1", "completed")
            assert status() == "in_progress"
            extra = {"virtual_key": standin.virtual_key}
            set_connection(monkeypatch, host=elsewhere.url, password=standin.api_key, extra=extra)
            assert status() == "in_progress"
            with standin.outage():
                with pytest.raises(PortkeyTransientError):
                    status()
                assert status() == "completed"

    def test_one_that_airflow_does_not_find_meanwhile_stays_as_known(
        self, status: Callable[[], str], standin: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker that is cut off reaches neither Portkey nor, often, its secrets backend."""
        standin.script("batch_1", "in_progress")
        assert status() == "in_progress"
        with standin.outage():
            monkeypatch.delenv("AIRFLOW_CONN_PORTKEY_DEFAULT")
            for _ in range(3):
                with pytest.raises(PortkeyTransientError, match="No answer to retrieving batch"):
                    status()
        assert status() == "in_progress"

    def test_ca_certificates_that_were_replaced_are_read_again(
        self, status: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "ca.pem"
        authorities = [trustme.CA(), trustme.CA()]
        port = 0
        for number, authority in enumerate(authorities):
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            authority.issue_cert("127.0.0.1").configure_cert(context)
            with StandIn(port=port, ssl_context=context) as server:
                port = server.port
                server.script("batch_1", "in_progress")
                extra = {"virtual_key": server.virtual_key, "verify": str(file)}
                set_connection(monkeypatch, host=server.url, password=server.api_key, extra=extra)
                if number:
                    with pytest.raises(PortkeyTransientError, match="private CA"):
                        status()
                authority.cert_pem.write_to_path(str(file))
                os.utime(file, (number, number))
                assert status() == "in_progress"


class TestPace:
    def test_waits_that_begin_together_do_not_poll_together(self, standin: StandIn) -> None:
        def most_at_once() -> int:
            """Return how many of 300 waits look in the same tenth of one of the first three intervals."""
            ids = batches(standin, 300, *["in_progress"] * 3, "completed")
            first, began = len(standin.requests), time.monotonic()
            assert asyncio.run(ends(ids, interval=2.0)) == {"ended": 300}
            tenths = Counter(int((seen.at - began) * 5) for seen in standin.requests[first:])
            return max(tenths[tenth] for tenth in range(30))

        # 30 are due in each, give or take what a busy machine shifts, for which there are three tries; in step, 300
        # would be due in one of them.
        assert any(most_at_once() <= 150 for _ in range(3))

    def test_retry_after_holds_back_all_of_the_connection_and_no_others(
        self, standin: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = batches(standin, 40, *["in_progress"] * 12, "completed")
        limited = Answer(429, {"error": {"message": "Slow down"}}, {"retry-after": "12"})
        standin.script("batch_7", "in_progress", limited, "completed")
        # In twelve seconds' place, so that the test need not take them.
        monkeypatch.setattr(api, "MAX_RETRY_AFTER", 1.5)
        monkeypatch.setattr(api, "MAX_PAUSE", 1.0)
        with StandIn(api_key="pk-other") as other:
            other.script("batch_1", *["in_progress"] * 1000)
            extra = {"virtual_key": other.virtual_key}
            set_connection(monkeypatch, "other", host=other.url, password=other.api_key, extra=extra)

            async def both() -> Counter[str]:
                bystander = asyncio.ensure_future(end("batch_1", "other"))
                result = await ends_but(ids)
                other.script("batch_1", "completed")
                assert (await bystander)["event"] == "ended"
                return result

            async def ends_but(ids: list[str]) -> Counter[str]:
                return Counter(e["event"] for e in await asyncio.gather(*(end(i) for i in ids)))

            assert asyncio.run(both()) == {"ended": 40}
            [told_at] = [seen.at for seen in standin.requests if seen.raw_path.endswith("/batch_7")][1:2]
            # What was under way may still arrive.
            assert not [seen for seen in standin.requests if told_at + 0.5 < seen.at < told_at + 1.45]
            assert [seen for seen in standin.requests if seen.at > told_at + 1.45]
            assert len([seen for seen in other.requests if told_at + 0.5 < seen.at < told_at + 1.45]) > 10

    def test_the_last_look_of_a_wait_is_not_held_back(self, standin: StandIn) -> None:
        standin.script("batch_limited", Answer(429, {"error": {"message": "Slow down"}}, {"retry-after": "300"}))
        standin.script("batch_1", "completed")

        async def last_look() -> tuple[float, Any]:
            limited = asyncio.ensure_future(end("batch_limited"))
            await asyncio.to_thread(standin.wait_for, 1)
            [shared] = portkey._sessions[asyncio.get_running_loop()].values()
            await asyncio.wait_for(until(lambda: shared.held_by is not None), 10)
            now = time.time()
            trigger = PortkeyBatchTrigger("batch_1", poke_interval=0.05, started_at=now, deadline=now + 0.5)
            began = time.monotonic()
            [event] = [e.payload async for e in trigger.run()]
            limited.cancel()
            return began, event

        began, event = asyncio.run(last_look())
        assert event["event"] == "ended"
        [look] = [seen for seen in standin.requests if seen.raw_path.endswith("/batch_1")]
        assert look.at >= began + 0.4

    def test_a_cancel_is_not_held_back(self, standin: StandIn) -> None:
        standin.script("batch_limited", Answer(429, {"error": {"message": "Slow down"}}, {"retry-after": "300"}))
        standin.script("batch_1", "in_progress")

        async def cancel() -> None:
            async with PortkeyHook() as hook:
                with pytest.raises(PortkeyTransientError, match="HTTP 429"):
                    await hook.aget_batch("batch_limited")
                with pytest.raises(PortkeyTransientError, match="No request was sent"):
                    await hook.aget_batch("batch_1")
                await hook.acancel_batch("batch_1")

        asyncio.run(cancel())
        assert standin.cancelled == ["batch_1"]

    def test_a_fault_of_one_batch_holds_back_no_other(self, standin: StandIn) -> None:
        standin.script("batch_faulty", Answer(500, {"error": {"message": "Oops"}}, {"retry-after": "300"}))
        standin.script("batch_1", *["in_progress"] * 3, "completed")

        async def both() -> Any:
            faulty = asyncio.ensure_future(end("batch_faulty"))
            await asyncio.to_thread(standin.wait_for, 1)
            event = await asyncio.wait_for(end("batch_1"), 20)
            faulty.cancel()
            return event

        assert asyncio.run(both())["event"] == "ended"

    def test_a_queue_does_not_hold_a_wait_beyond_its_deadline(
        self, standin: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        extra = {"virtual_key": standin.virtual_key, "max_connections": 2, "timeout": 3}
        set_connection(monkeypatch, host=standin.url, password=standin.api_key, extra=extra)
        ids = batches(standin, 20, Answer(body=batch_body("x"), delay=3))
        standin.script("batch_1", Answer(body=batch_body("batch_1", "completed"), delay=0.1))

        async def among_many() -> float:
            others = [asyncio.ensure_future(end(batch_id)) for batch_id in ids if batch_id != "batch_1"]
            await asyncio.to_thread(standin.wait_for, 2)
            began, now = time.monotonic(), time.time()
            trigger = PortkeyBatchTrigger("batch_1", poke_interval=0.05, started_at=now, deadline=now + 0.5)
            [_] = [e async for e in trigger.run()]
            for other in others:
                other.cancel()
            return time.monotonic() - began

        # With nothing but a queue it would be more than ten seconds: 19 others, two at a time, three seconds each.
        assert asyncio.run(among_many()) < 8


class TestConnections:
    def test_no_more_than_the_connection_says_are_open(self, standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
        extra = {"virtual_key": standin.virtual_key, "max_connections": 5}
        set_connection(monkeypatch, host=standin.url, password=standin.api_key, extra=extra)
        slow = Answer(body=batch_body("batch_0"), delay=0.02)
        ids = batches(standin, 50, slow)
        for batch_id in ids:
            standin.script(batch_id, slow, Answer(body=batch_body(batch_id, "completed"), delay=0.02))

        assert asyncio.run(ends(ids)) == {"ended": 50}
        assert standin.connections == 5

    def test_waiting_for_a_turn_is_no_part_of_a_request_s_time_limit(
        self, standin: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        extra = {"virtual_key": standin.virtual_key, "max_connections": 1, "timeout": 0.5}
        set_connection(monkeypatch, host=standin.url, password=standin.api_key, extra=extra)
        monkeypatch.setattr(api, "ATTEMPTS", 1)
        missed: list[Any] = []
        monkeypatch.setattr(Progress, "missed", lambda *args: missed.append(args))
        ids = batches(standin, 15)
        for batch_id in ids:
            standin.script(batch_id, Answer(body=batch_body(batch_id, "completed"), delay=0.1))

        assert asyncio.run(ends(ids)) == {"ended": 15}
        assert not missed

    def test_other_credentials_have_connections_of_their_own(
        self, standin: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        standin.script("batch_1", "in_progress", "completed")
        standin.script("batch_2", "in_progress", "completed")
        fields = {"host": standin.url, "password": standin.api_key}
        set_connection(monkeypatch, "second", **fields, extra={"provider": f"@{standin.virtual_key}"})

        async def both() -> None:
            await asyncio.gather(end("batch_1"), end("batch_2", "second"))

        asyncio.run(both())
        assert standin.connections == 2
        routes = {tuple(sorted(h for h in s.headers if h.startswith("x-portkey-"))) for s in standin.requests}
        assert len(routes) == 2

    def test_each_loop_has_its_own(self, standin: StandIn) -> None:
        standin.script("batch_1", "in_progress", "completed")
        for _ in range(3):  # a session of a loop that is closed would fail
            assert asyncio.run(end("batch_1"))["event"] == "ended"
            standin.script("batch_1", "in_progress", "completed")

    @pytest.mark.parametrize("seed", range(3))
    def test_waits_killed_at_random_leave_nothing_open(self, seed: int, standin: StandIn) -> None:
        chance = random.Random(seed)
        moods = itertools.cycle(
            [
                Answer(body=batch_body("x"), delay=0.03),
                Answer(503, "down"),
                Answer(how="reset"),
                Answer(body=batch_body("x"), how="trickle", pause=0.001),
                Answer(body=batch_body("x"), how="truncate"),
            ]
        )
        ids = batches(standin, 100, "in_progress")
        for batch_id in ids:
            standin.script(batch_id, next(moods))

        async def kill() -> None:
            loop = asyncio.get_running_loop()
            waits = [asyncio.ensure_future(end(batch_id)) for batch_id in ids]
            for wait in chance.sample(waits, len(waits)):
                await asyncio.sleep(chance.random() * 0.02)
                wait.cancel()
            for wait in waits:
                with suppress(asyncio.CancelledError):
                    await wait
            assert not portkey._sessions.get(loop)
            # A look-up that somebody else may be waiting for runs to its end.
            assert len(asyncio.all_tasks() - {asyncio.current_task()}) <= 1

        asyncio.run(kill())
        assert standin.connections > 0
        standin.wait_until_left()
