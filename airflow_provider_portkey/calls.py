"""
Each call of Portkey's API as data: the request beside the reader of its response.

No HTTP library here: :mod:`airflow_provider_portkey.transport` sends the requests and returns what it received.

.. seealso:: https://portkey.ai/docs/api-reference/inference-api/batch/retrieve-batch
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar
from urllib.parse import quote, unquote

from airflow_provider_portkey.batch import (
    Batch,
    BatchId,
    BatchStatus,
    as_id,
    as_text,
    encode_id,
    is_object_url,
    is_same_id,
)
from airflow_provider_portkey.exceptions import PortkeyInputError
from airflow_provider_portkey.failures import error_from_response, other_batch, unexpected_body
from airflow_provider_portkey.http import Request, Response
from airflow_provider_portkey.problems import NOTHING_SENT, Problems
from airflow_provider_portkey.provider_file import File
from airflow_provider_portkey.settings import Settings
from airflow_provider_portkey.text import decode_json, message, shorten

T = TypeVar("T")

#: How many batches one page of a list holds.
PAGE_SIZE = 100

#: What a batch's metadata may hold: pairs, characters of a name, characters of a value.
MAX_METADATA = (16, 64, 512)

#: The header that names an upload to Bedrock or Vertex, and the one that would override it.
FILE_NAME_HEADER = "x-portkey-provider-file-name"
OBJECT_KEY_HEADER = "x-portkey-aws-s3-object-key"

#: The header that names the host of a provider that is not at its usual address.
CUSTOM_HOST_HEADER = "x-portkey-custom-host"

#: A member of a batch's body that is its input, so that it has no file: Azure's.
OWN_INPUT = "input_blob"

#: Portkey may convert the whole output of a Vertex batch before its first byte: seconds that this may take.
SLOW_OUTPUT = 300.0

#: An error that is returned instead of a file is smaller than this.
MAX_ERROR_BYTES = 2**16

# The beginning of the JSON into which the gateway wraps a page of text or HTML, and that of a page as it is.
_WRAPPED_TEXT = b'{"html-message":'
_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|\?xml)[\s>]", re.IGNORECASE)


def read_response(response: Response, request: Request, settings: Settings, read: Callable[[Any], T]) -> T:
    """
    Read the response to any call.

    :param read: makes the result of the decoded JSON, or raises ``ValueError``
    :raises PortkeyApiError: if the call failed, or its response is not what the call returns
    """
    if not 200 <= response.status < 300:
        raise error_from_response(response, request, settings)
    try:
        return read(decode_json(response.body))
    except ValueError as error:
        problem = error
    raise unexpected_body(problem, response, request, settings)


def retrieve_batch(settings: Settings, batch_id: BatchId) -> Request:
    """
    Return the call that retrieves one batch.

    :raises PortkeyInputError: if ``batch_id`` is not valid
    """
    return Request(
        "GET",
        f"{settings.base_url}/batches/{_path_segment(batch_id, 'batch_id')}",
        f"retrieving batch {shorten(as_id(batch_id))!r}",
        "batch_id",
    )


def read_batch(response: Response, request: Request, settings: Settings, batch_id: BatchId) -> Batch:
    """Read the response to :func:`retrieve_batch`. For what it raises see :func:`read_response`."""
    batch = read_response(response, request, settings, _batch)
    if not is_same_id(batch.id, as_id(batch_id)):
        raise other_batch(batch.id, response, request, settings)
    return _redacted(batch, settings)


def create_batch(settings: Settings, **fields: Any) -> Request:
    """Return the call that creates a batch, with the body of :func:`batch_body`. Sent twice, it is paid twice."""
    body = batch_body(**fields)
    file_id = fields["input_file_id"]
    source = OWN_INPUT if file_id is None else f"file {shorten(str(file_id))!r}"
    return replace(create_inline_batch(settings), subject=f"creating a batch from {source}", body=body)


def create_inline_batch(settings: Settings) -> Request:
    """Return the call that creates a batch of the requests in its body, which the sender adds."""
    return Request("POST", f"{settings.base_url}/batches", "creating a batch of inline requests", repeatable=False)


def batch_body(
    *,
    input_file_id: str | None,
    endpoint: str,
    completion_window: str,
    metadata: Mapping[str, str] | None = None,
    extra_body: Mapping[str, Any] | None = None,
) -> bytes:
    """
    Return the JSON that describes a batch to be created.

    :param input_file_id: ``None`` if ``extra_body`` names an input of another kind (:data:`OWN_INPUT`)
    :raises PortkeyInputError: lists all that is invalid
    """
    problems = Problems()
    extra = {} if extra_body is None else extra_body
    has_own_input = isinstance(extra, Mapping) and OWN_INPUT in extra
    if has_own_input and input_file_id is not None:
        problems.append(f"extra_body has {OWN_INPUT!r}, which is an input as input_file_id is: keep one of them")
    elif not has_own_input:
        problems.collect(encode_id, input_file_id, "input_file_id")
    if not isinstance(endpoint, str) or not endpoint.startswith("/"):
        problems.append(f"endpoint must be a path such as /v1/chat/completions, got {shorten(repr(endpoint))}")
    if not isinstance(completion_window, str) or not completion_window.strip():
        problems.append(f"completion_window must be a string such as 24h, got {shorten(repr(completion_window))}")
    fields: dict[str, Any] = {
        "input_file_id": None if input_file_id is None else str(as_text(input_file_id)).strip(),
        "endpoint": endpoint,
        "completion_window": completion_window,
        "metadata": problems.collect(_read_metadata, metadata),
    }
    body = ""
    if not isinstance(extra, Mapping):
        problems.append(f"extra_body must be a dict, got {type(extra).__name__}")
    elif reserved := sorted(fields.keys() & extra.keys()):
        problems += [f"extra_body must not contain {name!r}: use the parameter of that name" for name in reserved]
    else:
        try:
            body = json.dumps({n: v for n, v in {**fields, **extra}.items() if v is not None}, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            problems.append(f"extra_body is not valid JSON: {error}")
    if problems:
        raise problems.as_error("Invalid batch")
    return body.encode()


def read_created_batch(response: Response, request: Request, settings: Settings) -> Batch:
    """Read the response to :func:`create_batch`; some providers return the id alone."""

    def read(answer: Any) -> Batch:
        if isinstance(answer, Mapping) and answer.get("status") is None:
            answer = {**answer, "status": BatchStatus.VALIDATING}
        return _batch(answer)

    return _redacted(read_response(response, request, settings, read), settings)


def cancel_batch(settings: Settings, batch_id: BatchId) -> Request:
    """
    Return the call that cancels one batch.

    :raises PortkeyInputError: if ``batch_id`` is not valid
    """
    return Request(
        "POST",
        f"{settings.base_url}/batches/{_path_segment(batch_id, 'batch_id')}/cancel",
        f"cancelling batch {shorten(as_id(batch_id))!r}",
        "batch_id",
    )


def read_accepted(response: Response, request: Request, settings: Settings) -> None:
    """Read the response to :func:`cancel_batch`: providers that accept it return different things, or nothing."""

    def read(answer: Any) -> None:
        if _is_error(answer):
            raise ValueError("an error, although the status is a success")

    read_response(response, request, settings, read)


def list_batches(settings: Settings, after: str | None = None, limit: int = PAGE_SIZE) -> Request:
    """Return the call that lists batches, newest first: those after the batch ``after``."""
    url = f"{settings.base_url}/batches?limit={limit}"
    return Request("GET", url if after is None else f"{url}&after={quote(after, safe='')}", "listing batches")


@dataclass(frozen=True)
class Page:
    """
    One page of a list.

    :param after: the id to request the next page with; ``None`` if there is none, or none can be requested
    :param is_last: whether it is certain that no further page exists: Bedrock and Cohere do not report that
    """

    batches: tuple[Batch, ...]
    after: str | None
    is_last: bool


class Listing:
    """
    The course of one list: which page is next, and which of its batches are new.

    :ivar after: the id to request the next page with
    :ivar is_over: whether there is no further page to request
    """

    def __init__(self) -> None:
        self.after: str | None = None
        self.is_over = False
        self._requested: set[str | None] = set()
        self._seen: set[str] = set()

    def add(self, page: Page) -> list[Page]:
        """Return the page with its new batches alone, or nothing if the provider ignored ``after``."""
        self._requested.add(self.after)
        self.after = page.after
        new = tuple(batch for batch in page.batches if batch.id not in self._seen)
        self._seen.update(batch.id for batch in new)
        is_repeated = bool(page.batches) and not new
        self.is_over = is_repeated or page.after is None or page.after in self._requested
        return [] if is_repeated else [replace(page, batches=new)]  # what else the provider has cannot be known


def read_page(response: Response, request: Request, settings: Settings) -> Page:
    """Read the response to :func:`list_batches`. An entry that is not a batch is left out."""

    def read(answer: Any) -> Page:
        entries = answer.get("data") if isinstance(answer, Mapping) else None
        if not isinstance(entries, list):
            raise ValueError("expected a JSON object with a list named 'data'")
        batches = []
        for entry in entries:
            with suppress(ValueError):
                batches.append(_redacted(_batch(entry), settings))
        after = answer.get("last_id") or (batches[-1].id if batches else None)
        more = answer.get("has_more") is True and isinstance(after, str)
        return Page(tuple(batches), after if more else None, is_last=answer.get("has_more") is False or not entries)

    return read_response(response, request, settings, read)


def retrieve_file(settings: Settings, file_id: str) -> Request:
    """
    Return the call that retrieves what a provider knows of a file.

    :raises PortkeyInputError: if ``file_id`` is not valid
    """
    path = f"{settings.base_url}/files/{_path_segment(file_id, 'file_id')}"
    return Request("GET", path, f"retrieving file {shorten(file_id)!r}", "file_id")


def read_file(response: Response, request: Request, settings: Settings) -> File:
    """Read the response to :func:`upload_file` or :func:`retrieve_file`."""

    def read(answer: Any) -> File:
        file_id = answer.get("id") if isinstance(answer, Mapping) else None
        if not isinstance(file_id, str) or not file_id.strip():
            raise ValueError("expected a JSON object with an 'id'")
        status, reason = answer.get("status"), answer.get("status_details")
        text = reason if isinstance(reason, str) else json.dumps(reason) if reason else ""
        status = status.strip().lower() or None if isinstance(status, str) else None
        return File(file_id.strip(), status, settings.redact(shorten(text)))

    return read_response(response, request, settings, read)


def upload_file(settings: Settings, filename: str) -> Request:
    """
    Return the call that uploads a file; the sender adds its content. A second upload costs nothing.

    :raises PortkeyInputError: if the connection gives all uploads one name
    """
    if OBJECT_KEY_HEADER in dict(settings.headers) or _config_members(settings) & {"awss3objectkey", "filename"}:
        raise PortkeyInputError(
            message(
                f"Remove {OBJECT_KEY_HEADER} from headers and config of {settings.name}",
                "It gives each upload the same name, so that a batch would answer the requests of the one after it. "
                f"Each upload gets a name of its own, in {FILE_NAME_HEADER}.",
                NOTHING_SENT,
            )
        )
    return Request("POST", f"{settings.base_url}/files", f"uploading file {shorten(filename)!r}")


def retrieve_file_content(settings: Settings, file_id: str) -> Request:
    """
    Return the call that downloads a file.

    :raises PortkeyInputError: if ``file_id`` is not valid
    """
    return Request(
        "GET",
        f"{settings.base_url}/files/{_path_segment(file_id, 'file_id')}/content",
        f"downloading file {shorten(as_text(file_id))!r}",
        "file_id",
    )


def check_file_content(response: Response, request: Request, settings: Settings) -> None:
    """Check that the response to :func:`retrieve_file_content`, or its beginning, is a file and not an error."""

    def check(answer: Any) -> None:
        if response.status in (204, 205, 206):
            raise ValueError("no content or a part of it, not a file")
        if response.body.startswith(_WRAPPED_TEXT):
            raise ValueError("a page of text that the gateway wrapped into JSON, not a file")
        if _PAGE.match(response.body):
            raise ValueError("a page of HTML or XML, not a file")
        # A row of a file may hold an error too; it has a custom_id.
        if _is_error(answer) and "custom_id" not in answer:
            raise ValueError("an error, not a file")

    read_response(response, request, settings, check)


def retrieve_batch_output(settings: Settings, batch_id: BatchId | Batch) -> Request:
    """
    Return the call that downloads a batch's output, as rows that Portkey makes of the provider's files.

    :raises PortkeyInputError: if ``batch_id`` is not valid, or the call would send a credential to another host
    """
    if CUSTOM_HOST_HEADER in dict(settings.headers) or "customhost" in _config_members(settings):
        raise PortkeyInputError(
            message(
                f"No output of a batch with {CUSTOM_HOST_HEADER}: download its files instead",
                "The gateway ignores it for this call, and would send the provider's key to another host. "
                f"It is in the headers or the config of {settings.name}. A config that is given by its id cannot be "
                "checked.",
                NOTHING_SENT,
            )
        )
    return Request(
        "GET",
        f"{settings.base_url}/batches/{_path_segment(batch_id, 'batch_id')}/output",
        f"downloading the output of batch {shorten(as_id(batch_id))!r}",
        "batch_id",
        slow=SLOW_OUTPUT,
    )


def is_folder(file_id: str) -> bool:
    """Whether a file's id is that of a folder: Bedrock and Vertex return URLs of files and of folders."""
    return is_object_url(file_id) and not unquote(file_id).endswith((".jsonl", ".jsonl.out"))


def output_file(batch: Batch) -> str | None:
    """
    Return the id of the file with a batch's answers; ``None`` if it has none, or none that is known.

    Bedrock returns the folder instead. The file's place in it follows from the batch: its rows are whole, while in the
    batch's output the rows of failed requests do not name them.
    """
    file_id, input_file_id = batch.output_file_id, batch.input_file_id
    if file_id is None or not is_folder(file_id):
        return file_id
    folder = unquote(file_id)
    if not folder.startswith("s3://") or not input_file_id:
        return None
    job, name = (unquote(text).rpartition("/")[2] for text in (batch.id, input_file_id))
    return f"{folder.rstrip('/')}/{job}/{name}.out"


def _path_segment(given: Any, name: Literal["batch_id", "file_id"]) -> str:
    try:
        return encode_id(given, name)
    except ValueError as error:
        problem = str(error)
    raise PortkeyInputError(message(problem, NOTHING_SENT))


def _is_error(answer: Any) -> bool:
    """Whether a body is an error, whatever the status."""
    return isinstance(answer, Mapping) and bool(answer.get("error") or answer.get("status") == "failure")


def _config_members(settings: Settings) -> set[str]:
    """Return the names of all members of a config that the connection has as JSON, in lower case and one word."""
    names: set[str] = set()
    left = [decode_json(dict(settings.headers).get("x-portkey-config", "").encode())]
    while left:
        value = left.pop()
        if isinstance(value, Mapping):
            names |= {name.lower().replace("_", "") for name in value}
            left += value.values()
        elif isinstance(value, list):
            left += value
    return names


def _read_metadata(metadata: Any) -> dict[str, str] | None:
    pairs, name_length, value_length = MAX_METADATA
    if metadata is None:
        return None
    if not isinstance(metadata, Mapping) or len(metadata) > pairs:
        raise ValueError(f"metadata must be a dict of at most {pairs} pairs, got {shorten(repr(metadata))}")
    problems = Problems()
    texts = {name: as_text(value) for name, value in metadata.items()}
    for name, value in texts.items():
        valid = isinstance(name, str) and isinstance(value, str)
        if not valid or not 0 < len(name) <= name_length or len(value) > value_length:
            problems.append(
                f"metadata: {shorten(repr(name))} and its value must be strings of at most {name_length} and "
                f"{value_length} characters"
            )
    problems.raise_any()
    return texts


def _batch(answer: Any) -> Batch:
    # `provider_status` is our own name for the provider's word: a response cannot set it.
    if isinstance(answer, Mapping):
        answer = {name: value for name, value in answer.items() if name != "provider_status"}
    return Batch.from_dict(answer)


def _redacted(batch: Batch, settings: Settings) -> Batch:
    # Errors alone: an id may look like a virtual key, and must stay as it is.
    errors = tuple(error.map(settings.redact) for error in batch.errors)
    return replace(batch, errors=errors) if errors else batch
