"""
A batch as Portkey answers it, made trustworthy.

Portkey hands on what the provider behind it says, and providers differ: other words for a status, times in
milliseconds, counts as strings or not at all. Here such an answer becomes one typed value. Plain data: no
network, no Airflow.

.. seealso:: https://portkey.ai/docs/api-reference/inference-api/batch/retrieve-batch
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any
from urllib.parse import quote, unquote


class BatchStatus(StrEnum):
    """The eight statuses that Portkey documents."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether a batch in this status has ended and will never change again."""
        return self in TERMINAL_STATUSES


TERMINAL_STATUSES = (BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLED)

#: Bedrock's word for a batch that ended although some of its requests failed; it gives no counts.
PARTIALLY_COMPLETED = "partially_completed"

# The documented words, and what providers behind Portkey say instead.
_MEANINGS = {status.value: status for status in BatchStatus} | {
    "submitted": BatchStatus.VALIDATING,
    "scheduled": BatchStatus.VALIDATING,
    "processing": BatchStatus.IN_PROGRESS,
    "processing_post_request_guardrails": BatchStatus.FINALIZING,
    "stopping": BatchStatus.CANCELLING,
    "canceling": BatchStatus.CANCELLING,
    "complete": BatchStatus.COMPLETED,
    "ended": BatchStatus.COMPLETED,
    PARTIALLY_COMPLETED: BatchStatus.COMPLETED,
    "file_upload_failed": BatchStatus.FAILED,
    "batch_start_failed": BatchStatus.FAILED,
    "stopped": BatchStatus.CANCELLED,
    "canceled": BatchStatus.CANCELLED,
}

# Above this a timestamp is in milliseconds: as seconds it would lie after the year 5138.
_MILLISECONDS_ABOVE = 10**11
# What to_dict keeps of a batch's errors, since XComs and trigger events are rows of Airflow's database.
_MAX_ERRORS, _MAX_MESSAGE = 20, 500


@dataclass(frozen=True)
class RequestCounts:
    """How many requests a batch holds, by outcome; ``None`` where the provider does not say."""

    total: int | None = None
    completed: int | None = None
    failed: int | None = None

    def __str__(self) -> str:
        if self == RequestCounts():
            return "request counts unknown"
        completed, failed, total = ("?" if n is None else n for n in (self.completed, self.failed, self.total))
        return f"{completed} completed, {failed} failed, {total} in all"


@dataclass(frozen=True)
class BatchError:
    """One entry of a batch's ``errors``, as the provider words it."""

    code: str | None = None
    message: str | None = None
    param: str | None = None
    line: int | None = None

    def map(self, change: Callable[[str], str]) -> BatchError:
        """Return it with each of its texts changed."""
        code, message, param = (t and change(t) for t in (self.code, self.message, self.param))
        return BatchError(code, message, param, self.line)

    def __str__(self) -> str:
        where = f" (line {self.line})" if self.line is not None else ""
        return f"{shorten(self.code or 'error')}: {shorten(self.message or 'no message')}{where}"


@dataclass(frozen=True)
class Batch:
    """
    One batch, as far as its provider describes it.

    Only ``id`` and ``status`` are sure to be there. Fields carry the names of Portkey's documentation.

    :param id: the batch's id, as the provider writes it (Bedrock's are percent-encoded)
    :param status: where the batch stands, in one of the eight documented words
    :param provider_status: the word that came back, in lower snake case; differs from ``status`` where a
        provider has a vocabulary of its own, and is ``None`` where it said none
    :param output_file_id: file with the answers to the requests that succeeded. Some providers name it from
        the start: only a terminal status says that the file is there
    :param error_file_id: file with the answers to the requests that failed. Some providers always name one
    :param created_at: and the other times: Unix seconds
    :param errors: why the batch as a whole failed
    :param metadata: the pairs that were given at creation
    """

    id: str
    status: BatchStatus
    provider_status: str | None = None
    endpoint: str | None = None
    completion_window: str | None = None
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int | None = None
    in_progress_at: int | None = None
    expires_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = RequestCounts()
    errors: tuple[BatchError, ...] = ()
    metadata: Mapping[str, Any] | None = None

    @property
    def status_is_known(self) -> bool:
        """Whether the provider's word for the status is one that this package knows."""
        return self.provider_status in _MEANINGS

    @classmethod
    def from_dict(cls, answer: Any) -> Batch:
        """
        Read what Portkey answered, or what :meth:`to_dict` gave.

        An unknown status counts as in flight. Anything but ``id`` and ``status`` may be absent or odd and
        is then ``None``.

        :param answer: the decoded JSON
        :raises ValueError: if that is not a batch; the message says what it is instead
        """
        if not isinstance(answer, Mapping):
            raise ValueError(f"expected a JSON object, got {type(answer).__name__}")
        batch_id = _text(answer.get("id"))
        if batch_id is None:
            raise ValueError("the object has no 'id'")
        if "status" not in answer:
            raise ValueError("the object has no 'status'")
        word = _text(answer["provider_status" if "provider_status" in answer else "status"])
        word = word and _snake_case(word)
        # Where the provider's own word is unknown or not given, the documented one beside it counts.
        said = _text(answer["status"])
        status = _MEANINGS.get(word or "") or _MEANINGS.get(_snake_case(said or ""), BatchStatus.IN_PROGRESS)
        times = {f.name: _time(answer.get(f.name)) for f in fields(cls) if f.name.endswith("_at")}
        counts = answer.get("request_counts")
        metadata = answer.get("metadata")
        return cls(
            id=batch_id,
            status=status,
            provider_status=word,
            endpoint=_text(answer.get("endpoint")),
            completion_window=_text(answer.get("completion_window")),
            input_file_id=_text(answer.get("input_file_id")),
            output_file_id=_text(answer.get("output_file_id")),
            error_file_id=_text(answer.get("error_file_id")),
            request_counts=RequestCounts(
                **{f.name: _int(counts.get(f.name)) for f in fields(RequestCounts)}
                if isinstance(counts, Mapping)
                else {}
            ),
            errors=tuple(_errors(answer.get("errors"))),
            metadata=dict(metadata) if isinstance(metadata, Mapping) else None,
            **times,
        )

    def to_dict(self) -> dict[str, Any]:
        """
        Return the batch as JSON types under the documented names, for XCom and trigger events.

        Every key is always there. ``provider_status`` is the one name that Portkey's documentation does not
        have. Of many ``errors`` the first 20 are kept, each text in them cut to 500 characters.
        """
        answer: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        answer["object"] = "batch"
        answer["status"] = self.status.value
        answer["request_counts"] = vars(self.request_counts).copy()
        answer["errors"] = (
            {
                "object": "list",
                "data": [
                    vars(error.map(lambda text: shorten(text, _MAX_MESSAGE))) for error in self.errors[:_MAX_ERRORS]
                ],
            }
            if self.errors
            else None
        )
        answer["metadata"] = None if self.metadata is None else dict(self.metadata)
        return answer

    def to_xcoms(self) -> dict[str, Any]:
        """Return what a task that ends with this batch has in XCom, by key."""
        return {
            "return_value": self.to_dict(),
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
        }

    def __str__(self) -> str:
        word = self.provider_status
        beside = "" if word == self.status else f" (the provider says {word!r})"
        return f"Batch {self.id} is {self.status}{beside}: {self.request_counts}"


def encode_id(given: Any, name: str = "batch_id") -> str:
    """
    Return the id of a batch or file as one path segment of a URL, percent-encoded exactly once.

    Bedrock's ids come back encoded already, others plain; both forms address the same thing.

    :param given: the id, plain or percent-encoded; white space around it is ignored
    :param name: what it is, for messages
    :raises ValueError: if it can't be an id; the message names it and says what to check
    """
    if not isinstance(given, str):
        raise ValueError(f"{name} must be a string, got {type(given).__name__}")
    shown = shorten(repr(given))
    try:
        plain = unquote(given.strip(), errors="strict")
        segment = quote(plain, safe="")
    except UnicodeError:
        raise ValueError(f"{name} {shown} is not text in UTF-8") from None
    if plain in ("", "None"):
        raise ValueError(f"{name} is {shown}: did the task that should have handed it over push one?")
    if plain in (".", ".."):
        raise ValueError(f"{name} {shown} would address another URL")
    if not plain.isprintable():
        raise ValueError(f"{name} {shown} holds control characters or line breaks")
    if len(segment) > _MAX_ID:
        raise ValueError(f"{name} {shown} has {len(given)} characters: that is no id")
    return segment


# Bedrock's ARNs, the longest ids there are, have at most 1,011 characters.
_MAX_ID = 2048


def is_same_id(one: str, other: str) -> bool:
    """Whether two ids address the same batch, be they percent-encoded or plain, whole or Vertex's last part."""
    short, long = sorted((unquote(one.strip()), unquote(other.strip())), key=len)
    return short == long or (bool(short) and long.endswith(f"/{short}"))


def shorten(text: str, limit: int = 200) -> str:
    """Return ``text`` in one line of at most ``limit`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _snake_case(word: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", word).lower()).strip("_") or word


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _int(value: Any) -> int | None:
    """Read a count that may be a string (Vertex), or nonsense."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if math.isfinite(number) and number >= 0 else None


def _time(value: Any) -> int | None:
    number = _int(value)
    while number and number > _MILLISECONDS_ABOVE:
        number //= 1000  # more than once for microseconds
    return number or None


def _errors(value: Any) -> Iterator[BatchError]:
    entries = value.get("data") if isinstance(value, Mapping) else value
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, Mapping):
            code = entry.get("code")
            yield BatchError(
                code=None if code is None else str(code),  # Vertex's are ints
                message=_text(entry.get("message")),
                param=_text(entry.get("param")),
                line=_int(entry.get("line")),
            )
        elif _text(entry):
            yield BatchError(message=_text(entry))
