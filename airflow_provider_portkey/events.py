"""
What a trigger hands its task: the result of a wait becomes an event of JSON types, and the event the same result again.

One table has each kind of event, both ways. An error of any class of this package is raised on the worker as that
class: its name travels in the event, so a new class needs no entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from airflow_provider_portkey.batch import Batch, is_same_id
from airflow_provider_portkey.exceptions import PortkeyApiError, PortkeyError, PortkeyEventError
from airflow_provider_portkey.text import message, shorten


@dataclass(frozen=True)
class DeadlineReached:
    """
    The deadline passed before the batch ended.

    :param last_status: what was known of it
    :param silent_for: seconds without any response of Portkey, if there was none at all
    """

    last_status: str
    silent_for: float | None = None


WaitResult: TypeAlias = Batch | DeadlineReached | PortkeyError


def to_event(batch_id: str, result: WaitResult) -> dict[str, Any]:
    """Return the event, as JSON types, that carries ``result`` to the worker."""
    kind, members = next((kind, write(result)) for kind, (cls, write, _) in _KINDS.items() if isinstance(result, cls))
    return {"batch_id": batch_id, "event": kind, **members}


def from_event(event: Any, batch_id: str) -> WaitResult:
    """
    Return the result that an event carries.

    :param event: what Airflow handed over, unchecked
    :param batch_id: the batch that the task waits for
    :raises PortkeyEventError: if it is not an event of :func:`to_event`, or about another batch
    """
    problem = "not an event about this batch"
    if isinstance(event, Mapping) and event.get("batch_id") == batch_id:
        try:
            _, _, read = _KINDS[event["event"]]
            result = read(event)
            if not isinstance(result, Batch) or (result.status.is_terminal and is_same_id(result.id, batch_id)):
                return result
            problem = f"{result}, which is not the end of this batch"
        except (KeyError, TypeError, ValueError) as error:
            problem = f"missing or invalid member ({type(error).__name__}: {shorten(str(error))})"
    raise PortkeyEventError(
        message(
            "Invalid trigger event: run the same version of this provider on workers and triggerers",
            f"Batch {batch_id!r}: {problem}.",
            f"Event: {shorten(repr(event))}",
        )
    )


def _batch_to_event(batch: Batch) -> dict[str, Any]:
    return {"batch": batch.to_dict()}


def _batch_from_event(event: Mapping[str, Any]) -> Batch:
    return Batch.from_dict(event["batch"])


def _deadline_to_event(reached: DeadlineReached) -> dict[str, Any]:
    silent_for = {} if reached.silent_for is None else {"silent_for": reached.silent_for}
    return {"last_status": reached.last_status, **silent_for}


def _deadline_from_event(event: Mapping[str, Any]) -> DeadlineReached:
    silent_for = event.get("silent_for")
    return DeadlineReached(_text(event["last_status"]), None if silent_for is None else float(silent_for))


def _error_to_event(error: PortkeyError) -> dict[str, Any]:
    # Behind its class, its bases: a worker with an older version of this package may not know the class.
    classes = [cls.__name__ for cls in type(error).__mro__ if issubclass(cls, PortkeyError)]
    event: dict[str, Any] = {"error": classes[0], "bases": classes[1:], "message": str(error)}
    if isinstance(error, PortkeyApiError):
        event |= {"status_code": error.status_code, "origin": error.origin}
    return event


def _error_from_event(event: Mapping[str, Any]) -> PortkeyError:
    known = {cls.__name__: cls for cls in _subclasses(PortkeyError)}
    names = [event["error"], *event.get("bases", ())]
    cls = known[next((name for name in names if name in known), names[0])]
    text = _text(event["message"])
    if issubclass(cls, PortkeyApiError):
        return cls(text, status_code=event["status_code"], origin=event["origin"])
    return cls(text)


def _subclasses(cls: type[PortkeyError]) -> Iterator[type[PortkeyError]]:
    yield cls
    for subclass in cls.__subclasses__():
        yield from _subclasses(subclass)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {type(value).__name__}")
    return value


#: Kind of event -> class of the result, how to write it into the event, and how to read it from there.
_KINDS: dict[str, tuple[type, Callable[[Any], dict[str, Any]], Callable[[Mapping[str, Any]], WaitResult]]] = {
    "ended": (Batch, _batch_to_event, _batch_from_event),
    "timeout": (DeadlineReached, _deadline_to_event, _deadline_from_event),
    "error": (PortkeyError, _error_to_event, _error_from_event),
}
