"""The pace of many waits: spread over the interval, and stopped together when Portkey limits the rate."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from airflow_provider_portkey import retry
from airflow_provider_portkey.exceptions import PortkeyTransientError
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.triggers.batch import PortkeyBatchTrigger
from tests.server.standin import Answer, StandIn, batch_body
from tests.support.connections import set_connection
from tests.support.many_waits import run_wait, run_waits, script_batches, until_rate_limited
from tests.support.triggers import only_event

pytestmark = pytest.mark.usefixtures("connection")


def rate_limit(retry_after: int) -> Answer:
    return Answer(429, {"error": {"message": "Slow down"}}, {"retry-after": str(retry_after)})


def wait_until(deadline: float, batch_id: str = "batch_1") -> PortkeyBatchTrigger:
    """Return a trigger whose deadline is in so many seconds."""
    now = time.time()
    return PortkeyBatchTrigger(batch_id, poke_interval=0.05, started_at=now, deadline=now + deadline)


def test_waits_that_start_together_do_not_poll_together(standin: StandIn) -> None:
    def most_at_once() -> int:
        """Return how many of 300 waits poll in the same tenth of one of the first three intervals."""
        batch_ids = script_batches(standin, 300, *["in_progress"] * 3, "completed")
        first, started_at = len(standin.requests), time.monotonic()
        assert asyncio.run(run_waits(batch_ids, poke_interval=2.0)) == {"ended": 300}
        tenths = Counter(int((seen.at - started_at) * 5) for seen in standin.requests[first:])
        return max(tenths[tenth] for tenth in range(30))

    # About 30 are due in each tenth; without jitter, all 300 would be due in one. A busy machine shifts some, so the
    # test has three attempts.
    assert any(most_at_once() <= 150 for _ in range(3))


def test_retry_after_stops_all_waits_of_the_connection_and_no_others(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_ids = script_batches(standin, 40, *["in_progress"] * 12, "completed")
    standin.script("batch_7", "in_progress", rate_limit(12), "completed")
    # 1.5 s instead of 12 s, so that the test is short.
    monkeypatch.setattr(retry, "MAX_RETRY_AFTER", 1.5)
    monkeypatch.setattr(retry, "MAX_INLINE_RETRY_AFTER", 1.0)
    with StandIn(api_key="pk-other") as other:
        other.script("batch_1", *["in_progress"] * 1000)
        extra = {"virtual_key": other.virtual_key}
        set_connection(monkeypatch, "other", host=other.url, password=other.api_key, extra=extra)

        async def wait_on_both() -> Counter[str]:
            bystander = asyncio.ensure_future(run_wait("batch_1", "other"))
            ends = Counter(await asyncio.gather(*(run_wait(batch_id) for batch_id in batch_ids)))
            other.script("batch_1", "completed")
            assert await bystander == "ended"
            return ends

        assert asyncio.run(wait_on_both()) == {"ended": 40}
        limited_at = [seen.at for seen in standin.requests if seen.raw_path.endswith("/batch_7")][1]
        # Requests that were sent before the response was read may still arrive.
        assert not [seen for seen in standin.requests if limited_at + 0.5 < seen.at < limited_at + 1.45]
        assert [seen for seen in standin.requests if seen.at > limited_at + 1.45]
        assert len([seen for seen in other.requests if limited_at + 0.5 < seen.at < limited_at + 1.45]) > 10


def test_a_rate_limit_does_not_stop_the_last_poll_before_a_deadline(standin: StandIn) -> None:
    standin.script("batch_limited", rate_limit(300))
    standin.script("batch_1", "completed")

    async def last_poll() -> tuple[float, Any]:
        limited = asyncio.ensure_future(run_wait("batch_limited"))
        await asyncio.to_thread(standin.wait_for, 1)
        await asyncio.wait_for(until_rate_limited(), 10)
        started_at = time.monotonic()
        event = await only_event(wait_until(0.5))
        limited.cancel()
        return started_at, event

    started_at, event = asyncio.run(last_poll())
    assert event["event"] == "ended"
    [poll] = [seen for seen in standin.requests if seen.raw_path.endswith("/batch_1")]
    assert poll.at >= started_at + 0.4


def test_a_rate_limit_does_not_stop_a_cancel(standin: StandIn) -> None:
    standin.script("batch_limited", rate_limit(300))
    standin.script("batch_1", "in_progress")

    async def cancel() -> None:
        async with PortkeyHook() as hook:
            with pytest.raises(PortkeyTransientError, match="HTTP 429"):
                await hook.aget_batch("batch_limited")
            with pytest.raises(PortkeyTransientError, match=r"Rate limited for another \d+ s .*: request not sent"):
                await hook.aget_batch("batch_1")
            await hook.acancel_batch("batch_1")

    asyncio.run(cancel())
    assert standin.cancelled == ["batch_1"]


def test_retry_after_with_http_500_stops_only_the_wait_of_that_batch(standin: StandIn) -> None:
    standin.script("batch_faulty", Answer(500, {"error": {"message": "Oops"}}, {"retry-after": "300"}))
    standin.script("batch_1", *["in_progress"] * 3, "completed")

    async def wait_on_both() -> str:
        faulty = asyncio.ensure_future(run_wait("batch_faulty"))
        await asyncio.to_thread(standin.wait_for, 1)
        end = await asyncio.wait_for(run_wait("batch_1"), 20)
        faulty.cancel()
        return end

    assert asyncio.run(wait_on_both()) == "ended"


def test_a_queue_for_slots_does_not_delay_a_wait_beyond_its_deadline(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"virtual_key": standin.virtual_key, "max_connections": 2, "timeout": 3}
    set_connection(monkeypatch, host=standin.url, password=standin.api_key, extra=extra)
    batch_ids = script_batches(standin, 20, Answer(body=batch_body("x"), delay=3))
    standin.script("batch_1", Answer(body=batch_body("batch_1", "completed"), delay=0.1))

    async def wait_among_others() -> float:
        others = [asyncio.ensure_future(run_wait(batch_id)) for batch_id in batch_ids if batch_id != "batch_1"]
        await asyncio.to_thread(standin.wait_for, 2)
        started_at = time.monotonic()
        await only_event(wait_until(0.5))
        for other in others:
            other.cancel()
        return time.monotonic() - started_at

    # With a plain queue it would take more than ten seconds: 19 others, two at a time, three seconds each.
    assert asyncio.run(wait_among_others()) < 8
