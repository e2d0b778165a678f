"""
A row of any provider's output becomes one :class:`Answer`.

Behind Portkey each provider has its own rows: OpenAI's and Portkey's (``custom_id``, ``response``), Anthropic's
(``result``), Vertex's (``requestId``, ``response``), Bedrock's (``recordId``, ``modelOutput``). What is inside depends
on the model. A row is recognized by its own members, so that the reader needs to know neither provider nor model.

.. seealso:: https://portkey.ai/docs/product/ai-gateway/batches
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from airflow_provider_portkey import fast_json
from airflow_provider_portkey.exceptions import PortkeyInputError
from airflow_provider_portkey.files import storage_path
from airflow_provider_portkey.text import message, sanitize_text, shorten

if TYPE_CHECKING:
    from airflow_provider_portkey.files import AnyPath
    from airflow_provider_portkey.row_figures import Figures

    Source: TypeAlias = "AnyPath | Mapping[str, Any] | Iterable[AnyPath | Mapping[str, Any]]"

#: A longer row is not parsed. Its beginning, of this size, and its end are enough to find its id.
MAX_ROW_BYTES = 16 * 2**20
ROW_END_BYTES = 1024

#: The ``code`` of the error of a row that cannot be read, and of one that has neither an answer nor an error.
UNREADABLE, EMPTY = "unreadable_row", "empty_row"


@dataclass(frozen=True)
class Usage:
    """
    The tokens of one answer; ``None`` where the row does not report them.

    :param cached_tokens: how many of the input tokens came from a cache
    :param reasoning_tokens: how many of the output tokens were spent on reasoning
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True)
class AnswerError:
    """
    Why a request has no answer.

    :param code: the provider's code; without one the type of its error, or the HTTP status
    :param message: the provider's words
    """

    code: str
    message: str


@dataclass(frozen=True)
class Answer:
    """
    The answer to one request, or why there is none.

    :param custom_id: the request's id; ``None`` if the row does not name it
    :param text: the answer's text; ``None`` where there is none, as in embeddings and tool calls, which ``body`` has
    :param error: why the request failed; ``None`` for an answer, also for an incomplete one
    :param finish_reason: the provider's own word, such as ``stop``, ``end_turn`` or ``MAX_TOKENS``
    :param model: the model that answered, if the row names it
    :param usage: the tokens
    :param body: the provider's own answer, decoded; of an unreadable row its text
    """

    custom_id: str | None
    text: str | None = None
    error: AnswerError | None = None
    finish_reason: str | None = None
    model: str | None = None
    usage: Usage = Usage()
    body: Any = None


def read_answers(source: Source) -> Iterator[Answer]:
    """
    Read the answers of a batch of any provider, one at a time.

    A row that cannot be read is an answer with the error :data:`UNREADABLE`: no row is left out.

    :param source: the manifest of a download, or the path or URL of a JSONL file, or several of them
    :raises PortkeyInputError: if that names no file
    :raises OSError: if a file cannot be read
    """
    for path in _paths(source):
        with storage_path(path).open("rb") as file:  # type: ignore[no-untyped-call]
            for number, row in enumerate(rows(file), 1):
                if row.strip():
                    yield read_row(row, f"line {number} of {path}")


def rows(file: IO[bytes]) -> Iterator[bytes]:
    """
    Yield the rows of a JSONL file; empty ones are yielded too. Only a line feed ends a row.

    Of a row above :data:`MAX_ROW_BYTES` only the beginning, of this size, and the end are yielded.
    """
    for row in iter(partial(file.readline, MAX_ROW_BYTES), b""):
        piece, end = row, b""
        while len(piece) == MAX_ROW_BYTES and not piece.endswith(b"\n"):
            piece = file.readline(MAX_ROW_BYTES)
            end = (end + piece)[-ROW_END_BYTES:]
        yield row + end


def read_row(row: bytes, where: str = "the row") -> Answer:
    """
    Read one row of any provider.

    :param row: its JSON
    :param where: what it is, for the message of an unreadable one
    """
    custom_id = None
    if len(row) > MAX_ROW_BYTES:
        custom_id = _custom_id_of_large(row)
        problem = f"larger than {MAX_ROW_BYTES // 2**20} MiB"
    else:
        try:
            decoded = _decode(row)
            if (figures := figures_reader()(row)) is not None:
                text, reason = _text(body := decoded["response"]["body"])
                return Answer(figures.custom_id, text, None, reason, figures.model, Usage(*figures.tokens), body)
            if isinstance(decoded, dict):
                return _read(decoded)
            problem = f"not a JSON object but {type(decoded).__name__}"
        except (ValueError, RecursionError) as error:
            problem = f"not valid JSON ({shorten(str(error))})"
    start = row[:MAX_ROW_BYTES].decode("utf-8-sig", errors="replace").strip()[:1000]
    return Answer(custom_id, error=AnswerError(UNREADABLE, f"{where} is {problem}"), body=start)


def _decode(row: bytes) -> Any:
    """
    Decode JSON, also with characters that are not valid, which are replaced.

    :raises ValueError: if it is not JSON
    """
    try:
        decoded = fast_json.decode(row)
    except ValueError:
        return sanitize_text(json.loads(row.decode("utf-8-sig", errors="replace").strip()))
    # A lone surrogate is an error there, so that only NUL may have to be removed.
    return sanitize_text(decoded) if b"\\u0000" in row else decoded


@cache
def figures_reader() -> Callable[[bytes], Figures | None]:
    """Return :func:`~airflow_provider_portkey.row_figures.read_figures`, whose library is loaded at the first row."""
    from airflow_provider_portkey.row_figures import read_figures

    return read_figures


def _paths(source: Any) -> Iterator[AnyPath]:
    if not isinstance(source, Mapping):
        several = isinstance(source, Iterable) and not isinstance(source, (str, bytes)) and not hasattr(source, "open")
        for item in source if several else ():
            yield from _paths(item)
        if not several:
            yield source
        return
    paths = [file["path"] for file in (source.get("output"), source.get("error")) if isinstance(file, Mapping)]
    if not paths:
        raise PortkeyInputError(
            message(
                "No file of answers: pass the manifest of a PortkeyDownloadBatchOperator, or paths",
                f"Neither output nor error names a file in {shorten(repr(source))}.",
            )
        )
    yield from paths


def _read(row: dict[str, Any]) -> Answer:
    body, status, error = _envelope(row)
    usage = Usage()
    if isinstance(body, dict):
        usage = Usage(*[_tokens(body, paths) for paths in _USAGE])
        error = error or _error(body.get("error"))
    if error is None and status != 200 and str(status).isdecimal() and int(status) >= 400:
        error = AnswerError(str(status), "the provider gave no reason")
    if error is None and not body:
        error = AnswerError(EMPTY, "the row has neither an answer nor an error")
    text, reason = _text(body)
    return Answer(_custom_id(row), None if error else text, error, reason, _model(body), usage, body)


# A string, also one that is cut off, or its escaped quotes would begin further ones. With a number or string behind it
# it is a member; else what begins or ends an object or a list.
_TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)'
_TOKEN = re.compile(rb"(%b)(?:\s*:\s*(%b|\d+))?|[\[\]{}]" % (_TEXT, _TEXT), re.DOTALL)
_LAST_MEMBER = re.compile(rb"[{,]\s*(%b)\s*:\s*(%b|\d+)\s*}\s*\Z" % (_TEXT, _TEXT), re.DOTALL)
_ID_NAMES = ("custom_id", "recordId", "requestId")
#: Where the id of a request may stand: the last two are of Vertex's embeddings and of its older rows.
_ID_PATHS = (*((name,) for name in _ID_NAMES), ("instance", "requestId"), ("request", "labels", "custom_id"))


def _custom_id_of_large(row: bytes) -> str | None:
    """Return the id of a row that is too large to be parsed; ``None`` if it has none there, or the row is cut off."""
    if not row.rstrip().endswith(b"}"):
        return None
    last = _LAST_MEMBER.search(row, len(row) - ROW_END_BYTES)
    members = [last.groups()] if last else []
    depth = 0
    for token in _TOKEN.finditer(row, 0, MAX_ROW_BYTES):
        if token[1] is None:
            depth += 1 if token[0] in b"{[" else -1
        elif depth == 1 and token[2] is not None:
            members.append(token.groups())
    found = {}
    for name, value in members:
        if name[1:-1].decode(errors="replace") in _ID_NAMES:
            with suppress(ValueError):
                found[name[1:-1].decode()] = sanitize_text(json.loads(value))
    return _custom_id(found)


def _custom_id(row: dict[str, Any]) -> str | None:
    for path in _ID_PATHS:
        found = _get(row, *path)
        if isinstance(found, (str, int)) and found != "":
            return str(found)
    return None


def _envelope(row: dict[str, Any]) -> tuple[Any, Any, AnswerError | None]:
    """Return the provider's own answer, its HTTP status and its error, each ``None`` if there is none."""
    if isinstance(row.get("result"), Mapping):  # Anthropic
        result = row["result"]
        error = _error(result.get("error"))
        if error is None and result.get("type") not in ("succeeded", None):
            error = AnswerError(str(result["type"]), f"the request {result['type']}")
        return result.get("message"), None, error
    if "modelOutput" in row or "recordId" in row:  # Bedrock
        return row.get("modelOutput"), None, _error(row.get("error"))
    error = _error(row.get("error")) or (_error(row) if "errorCode" in row else None)
    if "predictions" in row:  # Vertex's embeddings
        return (
            ({"predictions": row["predictions"]} if row["predictions"] else None),
            None,
            error or _error(row.get("status")),
        )
    response = row.get("response")
    if isinstance(response, Mapping) and ("body" in response or "status_code" in response):  # OpenAI, Portkey
        return response.get("body") or None, response.get("status_code"), error
    return response or None, None, error or _error(row.get("status"))  # Vertex


def _error(value: Any) -> AnswerError | None:
    """Read an error of any shape; ``None`` if ``value`` is none."""
    if isinstance(value, str):
        decoded = None
        if value.lstrip().startswith("{"):  # Vertex's status
            try:
                decoded = json.loads(value)
            except (ValueError, RecursionError):
                decoded = None
        return _error(decoded) if isinstance(decoded, Mapping) else AnswerError("error", value) if value else None
    if not isinstance(value, Mapping) or not value:
        return None
    if isinstance(value.get("error"), Mapping):  # Anthropic's, nested once more
        return _error(value["error"])
    code = next((value[name] for name in ("code", "errorCode", "type", "status") if value.get(name)), "error")
    text = next((value[name] for name in ("message", "errorMessage") if isinstance(value.get(name), str)), None)
    return AnswerError(str(code), text or json.dumps(value))


def _text(body: Any) -> tuple[str | None, str | None]:
    """Return the text of a model's answer, and why it ended there."""
    for read in _TEXTS:
        if (found := read(body)) is not None:
            text, reason = found
            return text if isinstance(text, str) else None, reason if isinstance(reason, str) else None
    return None, None


def _model(body: Any) -> str | None:
    for name in ("model", "modelVersion"):
        if isinstance(found := _get(body, name), str):
            return found
    return None


def _openai_chat(body: Any) -> tuple[Any, Any] | None:
    if (choice := _get(body, "choices", 0)) is None:
        return None
    content = _get(choice, "message", "content")
    text = _joined(content) if isinstance(content, list) else _get(choice, "text") if content is None else content
    return text, _get(choice, "finish_reason") or _get(choice, "stop_reason")


def _openai_responses(body: Any) -> tuple[Any, Any] | None:
    items = _get(body, "output")
    if not isinstance(items, list):
        return None
    parts = [part for item in items for part in _list(item, "content") if _get(part, "type") == "output_text"]
    return _joined(parts), _get(body, "incomplete_details", "reason") or _get(body, "status")


def _anthropic(body: Any) -> tuple[Any, Any] | None:
    content = _get(body, "content")
    return (_joined(content), _get(body, "stop_reason")) if isinstance(content, list) else None


def _nova(body: Any) -> tuple[Any, Any] | None:
    content = _get(body, "output", "message", "content")
    return (_joined(content), _get(body, "stopReason")) if isinstance(content, list) else None


def _vertex(body: Any) -> tuple[Any, Any] | None:
    candidate = _get(body, "candidates", 0)
    blocked = _get(body, "promptFeedback", "blockReason")
    if candidate is None:
        return None if blocked is None else (None, blocked)
    parts = [part for part in _list(candidate, "content", "parts") if not _get(part, "thought")]
    return _joined(parts), _get(candidate, "finishReason")


def _flat(*paths: tuple[Any, ...], reason: tuple[Any, ...]) -> Any:
    """Return a reader of a text that stands at one of ``paths``."""

    def read(body: Any) -> tuple[Any, Any] | None:
        text = next((found for path in paths if isinstance(found := _get(body, *path), str)), None)
        return None if text is None else (text, _get(body, *reason))

    return read


_TEXTS = (
    _openai_chat,
    _openai_responses,
    _anthropic,
    _nova,
    _vertex,
    _flat(("generation",), reason=("stop_reason",)),  # Llama
    _flat(("results", 0, "outputText"), reason=("results", 0, "completionReason")),  # Titan
    _flat(("outputs", 0, "text"), reason=("outputs", 0, "stop_reason")),  # Mistral
    _flat(("generations", 0, "text"), reason=("generations", 0, "finish_reason")),  # Cohere
    _flat(("text",), reason=("finish_reason",)),  # Cohere
)

#: For each field of :class:`Usage`, where it may stand in an answer.
_USAGE: tuple[tuple[tuple[Any, ...], ...], ...] = (
    (
        ("usage", "prompt_tokens"),
        ("usage", "input_tokens"),
        ("usage", "inputTokens"),
        ("usageMetadata", "promptTokenCount"),
        ("prompt_token_count",),
        ("inputTextTokenCount",),
    ),
    (
        ("usage", "completion_tokens"),
        ("usage", "output_tokens"),
        ("usage", "outputTokens"),
        ("usageMetadata", "candidatesTokenCount"),
        ("generation_token_count",),
        ("results", 0, "tokenCount"),
    ),
    (
        ("usage", "prompt_tokens_details", "cached_tokens"),
        ("usage", "input_tokens_details", "cached_tokens"),
        ("usage", "cache_read_input_tokens"),
        ("usage", "cacheReadInputTokenCount"),
        ("usageMetadata", "cachedContentTokenCount"),
    ),
    (
        ("usage", "completion_tokens_details", "reasoning_tokens"),
        ("usage", "output_tokens_details", "reasoning_tokens"),
        ("usageMetadata", "thoughtsTokenCount"),
    ),
)


def _tokens(body: Any, paths: tuple[tuple[Any, ...], ...]) -> int | None:
    for path in paths:
        if type(found := _get(body, *path)) is int:
            return found
    return None


def _joined(parts: Any) -> str | None:
    """Return the text of all parts of an answer; ``None`` if none has any."""
    texts = [text for part in parts if isinstance(text := part if isinstance(part, str) else _get(part, "text"), str)]
    return "".join(texts) if texts else None


def _list(value: Any, *path: Any) -> list[Any]:
    """Return the list that stands at ``path``; an empty one if none does."""
    found = _get(value, *path)
    return found if isinstance(found, list) else []


def _get(value: Any, *path: Any) -> Any:
    """Return what stands at ``path`` of members and positions; ``None`` if nothing does."""
    for step in path:
        if type(value) is dict:  # which no position is in
            value = value.get(step)
        elif type(value) is list and isinstance(step, int) and len(value) > step:
            value = value[step]
        else:
            return None
    return value
