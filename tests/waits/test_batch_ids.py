"""Batch ids, each sent as one path segment. The unit tests of ``encode_id`` have the ids that are rejected."""

from __future__ import annotations

from urllib.parse import quote

from airflow_provider_portkey.exceptions import PortkeyInputError
from tests.support.stacks import Stack
from tests.support.world import World
from tests.waits.case import Case, Given, Then, on_each_stack
from tests.waits.run import run_case

ARN = "arn:aws:bedrock:us-east-1:123456789012:model-invocation-job/abc"
ENCODED_ARN = quote(ARN, safe="")


def sends(name: str, batch_id: str, segment: str) -> Case:
    """Build a case of an id that is sent as ``segment``."""

    def check(world: World) -> None:
        assert {seen.raw_path for seen in world.standin.requests} == {f"/v1/batches/{segment}"}

    return Case(name, given=Given(batch_id=batch_id), then=Then(requests=1, warnings=0, check=check))


def rejects(name: str, batch_id: str, *message_has: str) -> Case:
    """Build a case of an id for which no request is sent."""
    return Case(
        name,
        given=Given(batch_id=batch_id),
        then=Then(error=PortkeyInputError, message_has=["batch_id", *message_has], requests=0),
    )


CASES: list[Case] = [
    sends("plain id", "batch_68a1b2c3", "batch_68a1b2c3"),
    sends("percent-encoded ARN", ENCODED_ARN, ENCODED_ARN),
    sends("percent-encoded ARN in lower case", ENCODED_ARN.replace("%3A", "%3a"), ENCODED_ARN),
    sends("ARN that is not encoded", ARN, ENCODED_ARN),
    sends("space inside", "batch 1", "batch%201"),
    sends("white space around it", " batch_1 \t", "batch_1"),
    sends("line break at the end", "batch_1\n", "batch_1"),
    sends("slashes", "projects/1/batches/2", "projects%2F1%2Fbatches%2F2"),
    sends("../ at the start", "../files/x", "..%2Ffiles%2Fx"),
    sends("/../ inside", "a/../b", "a%2F..%2Fb"),
    sends("question mark", "batch_1?limit=1", "batch_1%3Flimit%3D1"),
    sends("number sign", "batch_1#2", "batch_1%232"),
    sends("&, +, = and ;", "a&b+c=d;e", "a%26b%2Bc%3Dd%3Be"),
    sends("@ and :", "user:pw@host", "user%3Apw%40host"),
    sends("backslash", "a\\b", "a%5Cb"),
    sends("quotes", "a\"b'c", "a%22b%27c"),
    sends("percent sign that encodes nothing", "50%", "50%25"),
    sends("two dots inside", "a..b", "a..b"),
    sends("three dots", "...", "..."),
    sends("not ASCII", "lot-ä-世界-😀", quote("lot-ä-世界-😀", safe="")),
    sends("not ASCII, percent-encoded", quote("lot-ä-世界", safe=""), quote("lot-ä-世界", safe="")),
    rejects(
        "two dots, percent-encoded: nothing is sent",
        "%2e%2e",
        "'%2e%2e'",
        "would change the URL's path",
        "Nothing was sent",
    ),
    rejects(
        "line break and a header, percent-encoded: nothing is sent",
        "batch_1%0d%0aX-Evil:%201",
        "control characters or line breaks",
        "Nothing was sent",
    ),
]


@on_each_stack(CASES)
def test_a_batch_id_is_sent_as_one_path_segment(case: Case, stack: Stack, world: World) -> None:
    run_case(case, stack, world)
