"""
A batch as Portkey returns it, made trustworthy.

Portkey passes on what the provider behind it returns, and providers differ: other words for a status, times in
milliseconds, counts as strings or not at all. Here each response becomes one typed value. Plain data: no network,
no Airflow.

.. seealso:: https://portkey.ai/docs/api-reference/inference-api/batch/retrieve-batch
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, TypeAlias
from urllib.parse import quote, unquote

from airflow_provider_portkey.text import shorten


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
        """Whether a batch in this status has ended and will never change."""
        return self in TERMINAL_STATUSES


TERMINAL_STATUSES = (BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLED)

# Each provider's word for a status -> the documented status.
_STATUSES = {status.value: status for status in BatchStatus} | {
    "submitted": BatchStatus.VALIDATING,
    "scheduled": BatchStatus.VALIDATING,
    "scheduling": BatchStatus.VALIDATING,
    "pending": BatchStatus.VALIDATING,
    "queued": BatchStatus.VALIDATING,
    "created": BatchStatus.VALIDATING,
    "running": BatchStatus.IN_PROGRESS,
    "processing": BatchStatus.IN_PROGRESS,
    "processing_post_request_guardrails": BatchStatus.FINALIZING,
    "stopping": BatchStatus.CANCELLING,
    "canceling": BatchStatus.CANCELLING,
    "complete": BatchStatus.COMPLETED,
    "ended": BatchStatus.COMPLETED,
    "partially_completed": BatchStatus.EXPIRED,  # Bedrock: not all requests could be processed in time
    "file_upload_failed": BatchStatus.FAILED,
    "batch_start_failed": BatchStatus.FAILED,
    "stopped": BatchStatus.CANCELLED,
    "canceled": BatchStatus.CANCELLED,
}

# Above this a timestamp is in milliseconds: as seconds it would lie after the year 5138.
_MILLISECONDS_ABOVE = 10**11
# How much of a batch's errors to_dict keeps, since XComs and trigger events are rows of Airflow's database.
_MAX_ERRORS, _MAX_MESSAGE = 20, 500


@dataclass(frozen=True)
class RequestCounts:
    """How many requests a batch holds, by outcome; ``None`` where the provider does not report it."""

    total: int | None = None
    completed: int | None = None
    failed: int | None = None

    def __str__(self) -> str:
        if self == RequestCounts():
            return "request counts unknown"
        completed, failed, total = ("?" if n is None else n for n in (self.completed, self.failed, self.total))
        return f"{completed} succeeded, {failed} failed, {total} in all"


@dataclass(frozen=True)
class BatchError:
    """One entry of a batch's ``errors``, in the provider's words."""

    code: str | None = None
    message: str | None = None
    param: str | None = None
    line: int | None = None

    def map(self, change: Callable[[str], str]) -> BatchError:
        """Return a copy with ``change`` applied to each text."""
        code, message, param = (t and change(t) for t in (self.code, self.message, self.param))
        return BatchError(code, message, param, self.line)

    def __str__(self) -> str:
        where = f" (line {self.line})" if self.line is not None else ""
        return f"{shorten(self.code or 'error')}: {shorten(self.message or 'no message')}{where}"


@dataclass(frozen=True)
class Batch:
    """
    One batch, as far as its provider describes it.

    Only ``id`` and ``status`` are always set. Fields have the names of Portkey's documentation.

    :param id: the batch's id, as the provider writes it (Bedrock's are percent-encoded)
    :param status: one of the eight documented statuses
    :param provider_status: the provider's own word for it, in lower snake case; ``None`` if it returned none
    :param output_file_id: file with the answers to the requests that succeeded. Some providers set it from the
        start: only a terminal status means that the file exists
    :param error_file_id: file with the answers to the requests that failed. Some providers always set it
    :param created_at: and the other times: Unix seconds
    :param errors: why the batch as a whole failed
    :param metadata: the pairs that were given when the batch was created
    :param model: the model that processes it
    :param usage: how many tokens its answers used, under the provider's names: ``input_tokens``, ``output_tokens``, ...
    :param may_name_output: whether the provider's answer has the key ``output_file_id``, with or without a value
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
    model: str | None = None
    usage: Mapping[str, Any] | None = None
    may_name_output: bool = field(default=False, compare=False, repr=False)

    @property
    def lacks_output(self) -> bool:
        """
        Whether answers are counted, but the file that should hold them is not named.

        OpenAI and LiteLLM may report a batch as completed a moment before they name its output file.
        """
        answered = self.status is BatchStatus.COMPLETED and (self.request_counts.completed or 0) > 0
        return answered and self.may_name_output and self.output_file_id is None

    @property
    def status_is_known(self) -> bool:
        """Whether this package knows the provider's word for the status."""
        return self.provider_status in _STATUSES

    @classmethod
    def from_dict(cls, answer: Any) -> Batch:
        """
        Read what Portkey returned, or what :meth:`to_dict` did.

        An unknown status counts as in flight. Any field but ``id`` and ``status`` may be absent or invalid, and is
        then ``None``.

        :param answer: the decoded JSON
        :raises ValueError: if that is not a batch; the message says what it is instead
        """
        if not isinstance(answer, Mapping):
            got = "null or a body that is not valid JSON" if answer is None else type(answer).__name__
            raise ValueError(f"expected a JSON object, got {got}")
        batch_id = _text(answer.get("id"))
        if batch_id is None:
            raise ValueError("the object has no 'id'")
        if "status" not in answer:
            raise ValueError("the object has no 'status'")
        word = _text(answer["provider_status" if "provider_status" in answer else "status"])
        word = word and _snake_case(word)
        # Where the provider's own word is unknown or missing, the documented one beside it counts.
        documented = _text(answer["status"])
        status = _STATUSES.get(word or "") or _STATUSES.get(_snake_case(documented or ""), BatchStatus.IN_PROGRESS)
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
            model=_text(answer.get("model")),
            usage=_usage(answer.get("usage")),
            may_name_output="output_file_id" in answer,
            **times,
        )

    def to_dict(self) -> dict[str, Any]:
        """
        Return the batch as JSON types under the documented names, for XCom and trigger events.

        Every key is always set. ``provider_status`` is the one that Portkey's documentation does not have. Of many
        ``errors`` the first 20 are kept, each text in them cut to 500 characters.
        """
        answer: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.compare}
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
        answer["usage"] = _usage(self.usage)
        return answer

    def to_xcoms(self) -> dict[str, Any]:
        """Return the XComs of a task that ends with this batch, by key."""
        return {
            "return_value": self.to_dict(),
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
        }

    def __str__(self) -> str:
        word = self.provider_status
        own_word = "" if word == self.status else f" (the provider's status is {word!r})"
        # A batch that has not been counted yet has counts of 0.
        is_counted = self.status.is_terminal or self.request_counts.total != 0
        return f"Batch {self.id} is {self.status}{own_word}: {self.request_counts if is_counted else RequestCounts()}"


#: A batch's id, or the dict of a batch, as the operators return it.
BatchId: TypeAlias = str | Mapping[str, Any]


def as_id(given: Any) -> Any:
    """Return the id that a batch or its dict has; of anything else, what :func:`as_text` does."""
    if isinstance(given, Batch):
        return given.id
    return as_text(given["id"] if isinstance(given, Mapping) and "id" in given else given)


def as_text(given: Any) -> Any:
    """
    Return the digits of a whole number, and anything else unchanged.

    A DAG with ``render_template_as_native_obj`` makes a number of each text that looks like one.
    """
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    return str(int(given)) if isinstance(given, float) and given.is_integer() else given


def encode_id(given: Any, name: str = "batch_id") -> str:
    """
    Return the id of a batch or file as one path segment of a URL, percent-encoded exactly once.

    Bedrock returns encoded ids, others plain ones; both forms address the same thing.

    :param given: the id, plain or percent-encoded, with or without white space around it; or what :func:`as_id` reads
    :param name: the argument's name, for messages
    :raises ValueError: if it is not a valid id; the message names it and what to check
    """
    given = as_id(given) if name == "batch_id" else as_text(given)
    shown = shorten(repr(given))
    if given is None or given in ([], (), {}):
        raise ValueError(f"{name} is {shown}: the upstream task pushed no value to XCom")
    if not isinstance(given, str):
        remedy = "pass the id itself" if isinstance(given, Mapping) else "use .expand() for several"
        raise ValueError(f"{name} must be one id, got {type(given).__name__}: {remedy}")
    try:
        plain = unquote(given.strip(), errors="strict")
        segment = quote(plain, safe="")
    except UnicodeError:
        raise ValueError(f"{name} is not valid UTF-8: {shown}") from None
    if plain in ("", "None"):
        raise ValueError(f"{name} is {shown}: the upstream task pushed no value to XCom")
    if plain[0] in "[{(":
        raise ValueError(f"{name} is the text of a dict or list, not an id: pass the task's output itself: {shown}")
    if plain in (".", ".."):
        raise ValueError(f"{name} is not an id, since it would change the URL's path: {shown}")
    if not plain.isprintable():
        raise ValueError(f"{name} contains control characters or line breaks: {shown}")
    if len(segment) > _MAX_ID:
        raise ValueError(f"{name} has {len(given)} characters, too many for an id: {shown}")
    return segment


# Bedrock's ARNs, the longest known ids, have at most 1,011 characters.
_MAX_ID = 2048


def is_same_id(one: str, other: str) -> bool:
    """Whether two ids address the same batch or file, whether percent-encoded or plain, whole or only the last part."""
    short, long = sorted((unquote(one.strip()), unquote(other.strip())), key=len)
    return short == long or (bool(short) and long.endswith(f"/{short}"))


def is_object_url(file_id: str) -> bool:
    """Whether a file's id is the URL of an object: Bedrock's and Vertex's are."""
    return unquote(file_id).startswith(("s3://", "gs://"))


def _snake_case(word: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", word).lower()).strip("_") or word


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _int(value: Any) -> int | None:
    """Read a count that may be a string (Vertex) or invalid."""
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


def _usage(value: Any) -> dict[str, Any] | None:
    """Keep counts of tokens, and groups of them such as ``input_tokens_details``."""
    if not isinstance(value, Mapping):
        return None
    counts = {
        str(name): {str(part): _int(of_part) for part, of_part in count.items()}
        if isinstance(count, Mapping)
        else _int(count)
        for name, count in value.items()
    }
    return counts or None


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
