"""Bodies without end, and compressed ones: neither memory nor the wait may depend on what a server sends."""

from __future__ import annotations

import gzip
import json

from airflow_provider_portkey.http import MAX_RESPONSE_BYTES
from tests.server.standin import Answer
from tests.support.answers import completed_body
from tests.support.stacks import Stack
from tests.support.world import World
from tests.waits.builders import recovers_from
from tests.waits.case import Case, Given, Then, When, on_each_stack
from tests.waits.checks import peak_memory, trace_memory
from tests.waits.constants import SMALL_MAX_RESPONSE
from tests.waits.run import run_case

SMALL_LIMIT = Given(constants=SMALL_MAX_RESPONSE)
GZIP = {"content-encoding": "gzip"}
#: 64 MiB of zeros, compressed to 64 KiB.
BOMB = gzip.compress(bytes(1 << 26), 9)
TOO_LARGE = "Response larger than 1 MiB: check the host of connection 'portkey_default'"


def little_was_read(world: World) -> None:
    """Three attempts may each read up to the limit, and fill the buffers on the way."""
    assert world.standin.flooded <= 3 * (MAX_RESPONSE_BYTES + 2**24)
    assert peak_memory() < 4 * MAX_RESPONSE_BYTES


def memory_stayed_below_16_mib(world: World) -> None:
    assert peak_memory() < 2**24


CASES: list[Case] = [
    recovers_from(
        "body without end",
        Answer(body="{", how="flood", size=2**26),
        TOO_LARGE,
        "something else may answer at that address",
        given=SMALL_LIMIT,
    ),
    Case(
        "body of 1 GiB, with the real limit",
        given=Given(setup=trace_memory),
        when=When([Answer(body="{", how="flood", size=2**30), "completed"]),
        then=Then(requests=2, check=little_was_read),
    ),
    Case(
        "batch followed by blanks without end",
        given=SMALL_LIMIT,
        when=When([Answer(body=completed_body("batch_1"), how="flood", size=2**26), "completed"]),
        then=Then(requests=2),
    ),
    Case(
        "HTTP 503 with a body without end",
        given=SMALL_LIMIT,
        when=When([Answer(503, "<html>", how="flood", size=2**26)] * 4 + ["completed"]),
        then=Then(message_has=[TOO_LARGE], requests=5),
    ),
    Case(
        "redirect with a body without end",
        given=Given(constants=SMALL_MAX_RESPONSE, setup=trace_memory),
        when=When(
            [Answer(302, "<html>", {"Location": "http://elsewhere.invalid/"}, how="flood", size=2**26)] * 4
            + ["completed"]
        ),
        then=Then(requests=5, check=memory_stayed_below_16_mib),
    ),
    Case(
        "64 MiB of zeros, compressed to 64 KiB",
        given=Given(setup=trace_memory),
        when=When([Answer(body=BOMB, headers=GZIP), "completed"]),
        then=Then(requests=2, check=little_was_read),
    ),
    recovers_from(
        "body that is not compressed although Content-Encoding says gzip",
        Answer(body="plain", headers=GZIP),
        "No usable response from 127.0.0.1 (",
        "No response while retrieving batch 'batch_1'",
    ),
    Case(
        "batch that is compressed",
        when=When([Answer(body=gzip.compress(json.dumps(completed_body("batch_1")).encode()), headers=GZIP)]),
        then=Then(requests=1),
    ),
]


@on_each_stack(CASES)
def test_response_size(case: Case, stack: Stack, world: World) -> None:
    run_case(case, stack, world)
