"""Listing batches: page by page, until there is no more, and never in a circle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from airflow_provider_portkey.exceptions import PortkeyTransientError
from airflow_provider_portkey.hooks.portkey import list_pages
from tests.calls.case import Case, Then, When, each
from tests.calls.operations import LIST
from tests.calls.run import run_case
from tests.calls.world import CallWorld
from tests.server.standin import Answer, batch_body
from tests.support.answers import html_page

FIRST_PAGE = "/v1/batches?limit=100"


def page(*ids: str, **members: object) -> Answer:
    """Return a response with the batches of these ids."""
    return Answer(200, {"object": "list", "data": [batch_body(batch_id) for batch_id in ids]} | members)


def listed(*ids: str) -> Callable[[CallWorld], bool]:
    return lambda world: [batch.id for batch in world.returned] == list(ids)


def lists(name: str, responses: Sequence[Answer], ids: Sequence[str], requests: int = 1) -> Case:
    """Build a case of responses from which batches with these ids are listed."""
    return Case(name, when=When(LIST, responses), then=Then(took_effect=listed(*ids), requests=requests))


def continues_after_the_last_batch(world: CallWorld) -> None:
    assert world.standin.requests[-1].raw_path == f"{FIRST_PAGE}&after=a%2Fb%20c"


#: A last page, by its members beside the batches.
LAST_PAGES: dict[str, dict[str, object]] = {
    "no members": {},
    "has_more false": {"has_more": False, "last_id": "batch_2"},
    "has_more null": {"has_more": None, "last_id": "batch_2"},
    "has_more as text": {"has_more": "true", "last_id": "batch_2"},
    "has_more, but a list as last_id": {"has_more": True, "last_id": ["batch_2"]},
}
#: A page that another one follows, by its members beside the batches.
NO_LAST_ID: dict[str, dict[str, object]] = {
    "no last_id": {},
    "last_id null": {"last_id": None},
    "an empty last_id": {"last_id": ""},
}
INVALID_RESPONSES = {
    "text": Answer(200, "OK"),
    "an empty body": Answer(200, ""),
    "null": Answer(200, b"null"),
    "a list": Answer(200, b"[]"),
    "a list that the gateway made an object": Answer(200, {"0": batch_body("batch_1")}),
    "no data": Answer(200, {"object": "list"}),
    "data null": Answer(200, {"object": "list", "data": None}),
    "an object as data": Answer(200, {"object": "list", "data": {}}),
    "a body without end": Answer(200, "{", how="flood"),
}
NOT_BATCHES: list[Any] = [
    None,
    5,
    "batch_2",
    [],
    {},
    {"id": None, "status": "failed"},
    {"id": "batch_3"},
    {"error": {"message": ""}},
]

ONE_PAGE = [
    *(
        lists(name, [page("batch_1", "batch_2", **members), page("batch_3")], ["batch_1", "batch_2"])
        for name, members in LAST_PAGES.items()
    ),
    lists("an empty list with HTTP 246", [Answer(246, {"data": []})], []),
    lists("an empty list as text", [Answer(200, '{"data": []}')], []),
    lists("has_more, but no batch and no last_id", [page(has_more=True), page("batch_1")], []),
    lists(
        "entries that are not batches",
        [Answer(200, {"data": [*NOT_BATCHES, batch_body("batch_1"), *NOT_BATCHES], "has_more": False})],
        ["batch_1"],
    ),
]
SEVERAL_PAGES = [
    *(
        Case(
            f"{name}: the id of the last batch is used",
            when=When(LIST, [page("batch_1", "a/b c", has_more=True, **members), page("batch_3")]),
            then=Then(
                took_effect=listed("batch_1", "a/b c", "batch_3"), requests=2, check=continues_after_the_last_batch
            ),
        )
        for name, members in NO_LAST_ID.items()
    ),
    # Its batches may all be hidden from this API key.
    lists("an empty page with last_id", [page(has_more=True, last_id="x"), page("batch_1")], ["batch_1"], requests=2),
    lists(
        "the same page again and again",
        [page("batch_1", has_more=True, last_id="batch_1")] * 99,
        ["batch_1"],
        requests=2,
    ),
    lists(
        "a provider that ignores after",
        [page("a", "b", has_more=True, last_id="b"), page("a", "b", has_more=True, last_id="x")],
        ["a", "b"],
        requests=2,
    ),
    lists(
        "a batch that was created meanwhile moved the others",
        [page("b", "a", has_more=True), page("a", "0", has_more=False)],
        ["b", "a", "0"],
        requests=2,
    ),
    lists(
        "two pages that name each other",
        [page("a", has_more=True, last_id="a"), page("b", has_more=True, last_id="b")] * 50,
        ["a", "b"],
        requests=3,
    ),
]
FAILURES = [
    *(
        lists(f"{name}, twice, then a page", [response, response, page("batch_1")], ["batch_1"], requests=3)
        for name, response in INVALID_RESPONSES.items()
    ),
    *(
        Case(
            f"{name}, three times",
            when=When(LIST, [response] * 3),
            then=Then(
                error=PortkeyTransientError,
                message_has=["larger than any Portkey response" if response.how == "flood" else "a list named 'data'"],
                requests=3,
            ),
        )
        for name, response in INVALID_RESPONSES.items()
    ),
]


@each(ONE_PAGE)
def test_a_list_ends_with_its_first_page(case: Case, world: CallWorld) -> None:
    run_case(case, world)


@each(SEVERAL_PAGES)
def test_a_list_continues_and_ends(case: Case, world: CallWorld) -> None:
    run_case(case, world)


@each(FAILURES)
def test_an_invalid_page_is_requested_again(case: Case, world: CallWorld) -> None:
    run_case(case, world)


@pytest.mark.parametrize("has_pages", [True, False], ids=["in pages", "at once"])
def test_more_batches_than_a_page_holds_are_all_listed(has_pages: bool, world: CallWorld) -> None:
    world.standin.pages = has_pages
    world.create_batches(250)
    assert [batch.id for batch in world.hook.list_batches()] == [batch.id for batch in reversed(world.standin.batches)]
    pages = [FIRST_PAGE, f"{FIRST_PAGE}&after=batch_1151", f"{FIRST_PAGE}&after=batch_1051"]
    assert [seen.raw_path for seen in world.standin.requests] == (pages if has_pages else [FIRST_PAGE])


def test_a_page_is_requested_only_when_it_is_needed_and_with_the_key_of_that_time(world: CallWorld) -> None:
    world.create_batches(101)
    batches = world.hook.list_batches()
    assert not world.standin.requests
    for _ in range(100):
        next(batches)
    assert len(world.standin.requests) == 1
    world.rotate_api_key()
    world.set_connection()
    assert len(list(batches)) == 1


def test_a_later_page_that_fails_twice_is_requested_again(world: CallWorld) -> None:
    world.create_batches(150)
    batches = world.hook.list_batches()
    first = next(batches)
    world.standin.fail("GET", "/v1/batches", html_page(503, "down"), Answer(how="reset"))
    assert [first.id, *(batch.id for batch in batches)] == [batch.id for batch in reversed(world.standin.batches)]


def test_a_list_whose_next_page_is_the_first_one_again_may_have_more_batches(world: CallWorld) -> None:
    world.standin.fail("GET", "/v1/batches", *[page("a", "b", has_more=True, last_id="b")] * 2)
    assert [found.is_last for found in list_pages(world.hook)] == [False]
