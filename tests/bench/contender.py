"""Runs one contender's waits on one event loop, as a triggerer does, and prints the figures as JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

CONN_ID = "bench"
GOOD = ("ended", "success", "completed")
Wait = Callable[[str], Awaitable[object]]

#: The connection of each contender. No contender's connection has settings for how it polls.
CONNECTIONS: dict[str, dict[str, Any]] = {
    "this": {"conn_type": "portkey", "host": "{url}", "password": "pk-bench", "extra": {"virtual_key": "openai-bench"}},
    "openai": {"conn_type": "openai", "host": "{url}/v1", "password": "sk-bench"},
    "anthropic": {
        "conn_type": "anthropic",
        "password": "sk-bench",
        "extra": {"anthropic_client_kwargs": {"base_url": "{url}"}},
    },
    "common-ai": {"conn_type": "pydanticai", "host": "{url}/v1", "password": "sk-bench"},
    "bare aiohttp": {"conn_type": "http", "host": "{url}/v1"},
}


async def _first(trigger: Any) -> object:
    async for event in trigger.run():
        return event.payload
    raise RuntimeError("the trigger ended without an event")


def _this(interval: float) -> Wait:
    from airflow_provider_portkey.triggers.batch import PortkeyBatchTrigger

    return lambda batch_id: _first(PortkeyBatchTrigger(batch_id, CONN_ID, poke_interval=interval))


def _openai(interval: float) -> Wait:
    from airflow.providers.openai.triggers.openai import OpenAIBatchTrigger

    return lambda batch_id: _first(OpenAIBatchTrigger(CONN_ID, batch_id, interval, timeout=3600))


def _anthropic(interval: float) -> Wait:
    from airflow.providers.anthropic.triggers.batch import AnthropicBatchTrigger

    return lambda batch_id: _first(AnthropicBatchTrigger(CONN_ID, batch_id, interval, time.time() + 3600))


def _common_ai(interval: float) -> Wait:
    from airflow.providers.common.ai.triggers.llm_batch import LLMBatchTrigger

    return lambda batch_id: _first(
        LLMBatchTrigger(
            llm_conn_id=CONN_ID,
            adapter="openai",
            batch_id=batch_id,
            poll_interval=int(interval),
            end_time=time.time() + 3600,
            cancel_on_kill=False,
            cancel_on_timeout=False,
        )
    )


def _bare_aiohttp(interval: float) -> Wait:
    import aiohttp
    from airflow.providers.common.compat.sdk import BaseHook

    host = BaseHook.get_connection(CONN_ID).host
    session: aiohttp.ClientSession | None = None

    async def wait(batch_id: str) -> object:
        nonlocal session
        session = session or aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=100), trust_env=True)
        while True:
            async with session.get(f"{host}/batches/{batch_id}") as response:
                batch = await response.json()
            if batch["status"] == "completed":
                return batch
            await asyncio.sleep(interval)

    return wait


CONTENDERS: dict[str, Callable[[float], Wait]] = {
    "this": _this,
    "openai": _openai,
    "anthropic": _anthropic,
    "common-ai": _common_ai,
    "bare aiohttp": _bare_aiohttp,
}


async def _lags(into: list[float]) -> None:
    """Record by how much the loop exceeds a sleep of 5 ms."""
    while True:
        started = time.perf_counter()
        await asyncio.sleep(0.005)
        into.append(time.perf_counter() - started - 0.005)


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


async def _run(wait: Wait, count: int, limit: float) -> dict[str, Any]:
    lags: list[float] = []
    recorder = asyncio.ensure_future(_lags(lags))
    await asyncio.sleep(0.1)
    lags.clear()
    memory, cpu, started = _memory(), time.process_time(), time.perf_counter()
    tasks = [asyncio.ensure_future(wait(f"batch_{n}")) for n in range(count)]
    done, _ = await asyncio.wait(tasks, timeout=limit)
    took, cpu = time.perf_counter() - started, time.process_time() - cpu
    recorder.cancel()
    lags = sorted(lags) or [took]
    # This provider's payload has an "event", those of the others a "status". Bare aiohttp returns the batch.
    ends = [task.exception() or task.result() for task in done]
    good = [end for end in ends if isinstance(end, dict) and end.get("event", end.get("status")) in GOOD]
    return {
        "ended": len(done),
        "bad": [str(end) for end in ends if end not in good][:1],
        "wall": took,
        "cpu": cpu,
        "lag": {"p50": lags[len(lags) // 2], "p99": lags[int(len(lags) * 0.99)], "max": lags[-1]},
        "memory": (_memory() - memory) / count,
    }


def main() -> None:
    """Run ``python -m tests.bench.contender NAME COUNT INTERVAL LIMIT``."""
    import structlog

    # Nothing is logged, because the cost of a triggerer's log is not what is compared.
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    # A triggerer has imported these before its first trigger.
    import airflow.sdk.execution_time.supervisor
    import airflow.triggers.base  # noqa: F401

    name, count, interval, limit = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    wait = CONTENDERS[name](interval)
    figures = asyncio.new_event_loop().run_until_complete(_run(wait, count, limit))
    print(json.dumps(figures), flush=True)
    os._exit(0)  # Blocked threads and pending tasks of a contender that was stopped would keep the process alive.


if __name__ == "__main__":
    main()
