"""Responses that say "not now": server errors and rate limits without a usable Retry-After."""

from __future__ import annotations

from tests.server.standin import Answer
from tests.support.answers import html_page, portkey_error, provider_error
from tests.support.stacks import Stack
from tests.support.world import World
from tests.waits.builders import PORTKEY_500, recovers_from
from tests.waits.case import Case, on_each_stack
from tests.waits.run import run_case

TEMPORARY = "usually temporary, retry later"

CASES: list[Case] = [
    recovers_from(
        "HTTP 408",
        Answer(408, {"error": {"type": "timeout_error", "message": "too slow"}}),
        "The gateway timed out (HTTP 408): usually temporary, retry later",
        "HTTP 408 from the gateway",
        "too slow",
    ),
    recovers_from(
        "HTTP 429 without Retry-After",
        portkey_error(429, "slow down"),
        "Rate limited by Portkey (HTTP 429): temporary, retry later",
        "HTTP 429 from Portkey",
        "slow down",
    ),
    recovers_from(
        "HTTP 500 from Portkey",
        PORTKEY_500,
        f"Portkey failed (HTTP 500): {TEMPORARY}",
        "HTTP 500 from Portkey",
        "Something went wrong",
    ),
    recovers_from(
        "HTTP 500 from the provider",
        provider_error(500, "broken"),
        f"Provider 'openai' failed (HTTP 500): {TEMPORARY}",
        "HTTP 500 from provider 'openai'",
        "broken",
    ),
    recovers_from(
        "HTTP 502 with an HTML page",
        html_page(502, "Bad Gateway"),
        f"The gateway failed (HTTP 502): {TEMPORARY}",
        "HTTP 502 from the gateway",
        ": Bad Gateway.",
    ),
    recovers_from(
        "HTTP 502 with the open-source gateway's html-message",
        Answer(502, {"html-message": "<h1>no</h1>"}),
        "HTTP 502 from the gateway",
        ": no.",
    ),
    recovers_from(
        "HTTP 503 with plain text",
        Answer(503, "upstream connect error"),
        "HTTP 503 from the gateway",
        "upstream connect error",
    ),
    recovers_from("HTTP 503 with bytes that are not UTF-8", Answer(503, b"\xff\xfe\x00"), "HTTP 503 from the gateway"),
    recovers_from(
        "HTTP 504 with an HTML page",
        html_page(504, "Gateway Time-out"),
        "HTTP 504 from the gateway",
        ": Gateway Time-out.",
    ),
    recovers_from(
        "HTTP 529 from the provider",
        provider_error(529, "overloaded"),
        "HTTP 529 from provider 'openai'",
        "overloaded",
    ),
]


@on_each_stack(CASES)
def test_a_transient_http_error_does_not_end_the_wait(case: Case, stack: Stack, world: World) -> None:
    run_case(case, stack, world)
