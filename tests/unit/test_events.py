"""The result of a wait becomes a trigger event of JSON types, and the event the same result on the worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_portkey.batch import Batch, BatchStatus
from airflow_provider_portkey.events import DeadlineReached, WaitResult, from_event, to_event
from airflow_provider_portkey.exceptions import PortkeyApiError, PortkeyError, PortkeyEventError, PortkeyRefusedError


class UnlistedError(PortkeyRefusedError):
    """A class that no module of the package knows."""


def subclasses(kind: type[PortkeyError]) -> Iterator[type[PortkeyError]]:
    yield kind
    for subclass in kind.__subclasses__():
        yield from subclasses(subclass)


ERRORS = sorted(set(subclasses(PortkeyError)), key=lambda kind: kind.__name__)
ENDED = to_event("batch_1", Batch("batch_1", BatchStatus.COMPLETED, "ended"))
TIMEOUT = to_event("batch_1", DeadlineReached("Batch batch_1 is in_progress"))
ERROR = to_event("batch_1", PortkeyRefusedError("Rejected", status_code=401, origin="portkey"))


def through_json(result: WaitResult, batch_id: str = "batch_1") -> WaitResult:
    """Return what reaches the worker of a result in the triggerer."""
    return from_event(json.loads(json.dumps(to_event(batch_id, result))), batch_id)


def test_the_walk_finds_every_error_class() -> None:
    assert {PortkeyError, PortkeyApiError, PortkeyEventError, UnlistedError} <= set(ERRORS)


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_of_any_class_reaches_the_worker_as_that_class(kind: type[PortkeyError]) -> None:
    details: dict[str, Any] = {}
    if issubclass(kind, PortkeyApiError):
        details = {"status_code": 429, "origin": "provider"}
    found = through_json(kind("Cause: remedy\nDetails.", **details))
    assert (type(found), str(found)) == (kind, "Cause: remedy\nDetails.")
    assert {name: getattr(found, name) for name in details} == details


def test_an_error_without_a_response_reaches_the_worker_without_a_status_code() -> None:
    found = through_json(PortkeyRefusedError("Rejected", origin="network"))
    assert isinstance(found, PortkeyRefusedError)
    assert (found.status_code, found.origin) == (None, "network")


def test_an_error_of_a_class_that_the_worker_does_not_know_becomes_its_next_base_class() -> None:
    event = to_event("batch_1", PortkeyRefusedError("Rejected", status_code=401, origin="portkey"))
    found = from_event(event | {"error": "NewError", "bases": ["NewerError", *event["bases"]]}, "batch_1")
    assert (type(found), str(found)) == (PortkeyApiError, "Rejected")
    with pytest.raises(PortkeyEventError):
        from_event(event | {"error": "NewError", "bases": []}, "batch_1")


@pytest.mark.parametrize("status", [status for status in BatchStatus if status.is_terminal])
def test_a_terminal_batch_reaches_the_worker_unchanged(status: BatchStatus) -> None:
    batch = Batch("batch_1", status, status.value, output_file_id="file-1", metadata={"a": "b"})
    assert through_json(batch) == batch


def test_an_end_may_name_the_batch_by_its_encoded_id() -> None:
    batch = Batch("arn%3Aaws", BatchStatus.COMPLETED, "completed")
    assert through_json(batch, "arn:aws") == batch


def test_the_last_known_status_reaches_the_worker_after_the_deadline() -> None:
    assert through_json(DeadlineReached("none received")) == DeadlineReached("none received")


# One malformed event per branch; words of the error.
MALFORMED: dict[str, tuple[Any, str]] = {
    "no event": (None, "not an event about this batch"),
    "not an object": (["ended"], "not an event about this batch"),
    "about another batch": (ENDED | {"batch_id": "batch_2"}, "not an event about this batch"),
    "without a kind": ({"batch_id": "batch_1"}, "missing or invalid member (KeyError: 'event')"),
    "of an unknown kind": (ENDED | {"event": "refused"}, "missing or invalid member (KeyError: 'refused')"),
    "of a kind that is not text": (ENDED | {"event": ["ended"]}, "missing or invalid member (TypeError: "),
    "ended without a batch": (ENDED | {"batch": None}, "missing or invalid member (ValueError: expected a JSON object"),
    "ended with another batch": (
        ENDED | {"batch": Batch("batch_2", BatchStatus.COMPLETED).to_dict()},
        "Batch batch_2 is completed",
    ),
    "ended with a batch in flight": (
        ENDED | {"batch": Batch("batch_1", BatchStatus.IN_PROGRESS).to_dict()},
        "which is not the end of this batch",
    ),
    "timeout without a last status": (TIMEOUT | {"last_status": 7}, "(TypeError: expected a text, got int)"),
    "error without a message": (ERROR | {"message": None}, "(TypeError: expected a text, got NoneType)"),
    "API error without an origin": (
        {name: value for name, value in ERROR.items() if name != "origin"},
        "missing or invalid member (KeyError: 'origin')",
    ),
}


@pytest.mark.parametrize(("event", "words"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_event_raises_an_event_error(event: Any, words: str) -> None:
    with pytest.raises(PortkeyEventError) as caught:
        from_event(event, "batch_1")
    first, problem, quoted = str(caught.value).splitlines()
    assert first == "Invalid trigger event: run the same version of this provider on workers and triggerers"
    assert problem.startswith("Batch 'batch_1': ") and words in problem
    assert quoted.startswith("Event: ")
