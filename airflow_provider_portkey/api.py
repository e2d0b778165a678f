"""
The call as data: where it goes, what it carries, what came back and whether asking again can help.

No HTTP library here: :mod:`airflow_provider_portkey.hooks.portkey` sends what this module describes and hands
back what it received, whichever library it uses.

.. seealso:: https://portkey.ai/docs/api-reference/inference-api/headers
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlsplit

from airflow_provider_portkey import __version__
from airflow_provider_portkey.batch import Batch, BatchStatus, encode_id, is_same_id, shorten
from airflow_provider_portkey.exceptions import (
    Origin,
    PortkeyApiError,
    PortkeyInputError,
    PortkeyOutcomeUnknownError,
    PortkeyRefusedError,
    PortkeyTransientError,
)

T = TypeVar("T")

DEFAULT_BASE_URL = "https://api.portkey.ai/v1"

#: Seconds for one request in all. Portkey's own retries can hold a call for 60.
DEFAULT_TIMEOUT = 90.0
DEFAULT_CONNECT_TIMEOUT = 10.0

#: How many requests of one connection are under way at once in a triggerer.
DEFAULT_MAX_CONNECTIONS = 100

#: A batch is some kilobytes. A larger answer is refused before it fills a triggerer's memory.
MAX_ANSWER_BYTES = 8 * 2**20

#: A file that is larger is no error in the place of one.
MAX_ERROR_BYTES = 2**16

#: How the gateway begins what it makes of a page of text or HTML.
WRAPPED_TEXT = b'{"html-message":'

#: How many batches are asked for at once.
PAGE_SIZE = 100

#: What a batch's metadata may hold: pairs, characters of a name, characters of a value.
MAX_METADATA = (16, 64, 512)

#: How often one call is sent before it counts as failed.
ATTEMPTS = 3
#: The longest pause between two of them in seconds, before chance adds up to a half. Where the service asks for a
#: longer one, the call ends and the wait goes on with its next poll.
MAX_PAUSE = 10.0
#: Whatever an answer asks for, no longer than this until the next poll, in seconds.
MAX_RETRY_AFTER = 600.0

_EXTRAS = frozenset(
    "auth config connect_timeout headers managed max_connections provider proxy timeout verify virtual_key".split()
)
_KEY_HEADERS = frozenset({"authorization", "x-portkey-api-key"})
_ROUTE_HEADERS = ("x-portkey-virtual-key", "x-portkey-provider", "x-portkey-config")


@dataclass(frozen=True)
class Settings:
    """
    What an Airflow connection of type ``portkey`` says.

    Two connections with equal settings may share an HTTP session. ``repr`` shows no header: each may be a secret.

    :param conn_id: the connection's id, for messages
    :param base_url: ends in ``/v1``, without a slash behind it
    :param headers: what each request carries
    :param timeout: seconds for one request in all
    :param connect_timeout: seconds of these for connecting
    :param verify: whether to check the server's certificate, or the path of a file of CA certificates to check
        it against
    :param proxy: URL of an HTTP proxy; ``None`` leaves it to the environment
    :param max_connections: how many requests may be under way at once in a triggerer
    :param trusted_since: when the CA certificates changed last, in Unix seconds: with new ones, a new session
    """

    conn_id: str
    base_url: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    timeout: float = DEFAULT_TIMEOUT
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT
    verify: bool | str = True
    proxy: str | None = field(default=None, repr=False)
    max_connections: int = DEFAULT_MAX_CONNECTIONS
    trusted_since: float = 0.0

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be shown: the headers' values as the connection gave them, and the proxy's URL."""
        # Names that Portkey and its messages use openly: hiding "openai" everywhere would hide too much.
        open_names = ("accept", "user-agent", "x-portkey-provider")
        values = [v for k, v in self.headers if k not in open_names and v.lower() not in ("true", "false")]
        for name, value in self.headers:
            if name.endswith("authorization"):
                values.append(value.rpartition(" ")[2])
            elif name == "x-portkey-config":
                values += _secrets_of(_decode(value.encode()))
        if self.proxy:
            values += [self.proxy, urlsplit(self.proxy).password or ""]
        return tuple(filter(None, values))

    @classmethod
    def from_connection(
        cls,
        conn_id: str,
        *,
        host: str | None = None,
        port: int | None = None,
        schema: str | None = None,
        password: str | None = None,
        extra: str | None = None,
    ) -> Settings:
        """
        Read the fields of an Airflow connection.

        :param conn_id: the connection's id, for messages
        :param host: base URL, with or without scheme (https unless given) and ``/v1``
        :param port: port of the base URL, as a connection's URI has it
        :param schema: path of the base URL, as a connection's URI has it; or ``http`` or ``https``
        :param password: Portkey API key
        :param extra: JSON object with the fields that README's table of the connection lists
        :raises PortkeyInputError: if anything is missing or can't be meant, all of it listed at once
        """
        wrong = _Wrongs()
        base_url = wrong.unless(_base_url, host, port, schema) or ""
        given = wrong.unless(_extra, extra)
        if given is None:  # what else is wrong can't be known
            raise wrong.of(conn_id)
        if unknown := sorted(map(str, given.keys() - _EXTRAS)):
            wrong.append(f"extra: no such field: {', '.join(unknown)} (there are {', '.join(sorted(_EXTRAS))})")
        headers = wrong.unless(_headers, password, given, urlsplit(base_url).hostname) or ()
        timeout = wrong.unless(_seconds, given, "timeout", DEFAULT_TIMEOUT) or 0
        connect = wrong.unless(_seconds, given, "connect_timeout", DEFAULT_CONNECT_TIMEOUT) or 0
        verify = wrong.unless(_verify, given)
        proxy = wrong.unless(_proxy, given)
        connections = wrong.unless(_count, given, "max_connections", DEFAULT_MAX_CONNECTIONS)
        if wrong:
            raise wrong.of(conn_id)
        return cls(conn_id, base_url, headers, timeout, min(connect, timeout), verify, proxy, connections)


@dataclass(frozen=True)
class Request:
    """One call, ready to be sent as it is: ``url`` is encoded already."""

    method: Literal["GET", "POST"]
    url: str
    #: What is asked for, in the words of an error message.
    subject: str
    #: The argument whose id it is about, if it is about one.
    argument: str | None = None
    #: JSON to send, or nothing.
    body: bytes | None = None
    #: Whether to send it once more does no harm, whatever became of it the first time.
    repeatable: bool = True


@dataclass(frozen=True)
class Response:
    """What came back. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def retrieve_batch(settings: Settings, batch_id: str) -> Request:
    """
    Return the call that retrieves one batch.

    :raises PortkeyInputError: if ``batch_id`` can't be one
    """
    return Request(
        "GET",
        f"{settings.base_url}/batches/{_segment(batch_id, 'batch_id')}",
        f"retrieving batch {shorten(batch_id)!r} (connection {settings.conn_id!r})",
        "batch_id",
    )


def cancel_batch(settings: Settings, batch_id: str) -> Request:
    """
    Return the call that cancels one batch.

    :raises PortkeyInputError: if ``batch_id`` can't be one
    """
    return Request(
        "POST",
        f"{settings.base_url}/batches/{_segment(batch_id, 'batch_id')}/cancel",
        f"cancelling batch {shorten(batch_id)!r} (connection {settings.conn_id!r})",
        "batch_id",
    )


def create_batch(settings: Settings, **fields: Any) -> Request:
    """Return the call that creates a batch, with the body of :func:`batch_body`. Sent twice it would be paid twice."""
    return Request(
        "POST",
        f"{settings.base_url}/batches",
        f"creating a batch of file {shorten(str(fields['input_file_id']))!r} (connection {settings.conn_id!r})",
        body=batch_body(**fields),
        repeatable=False,
    )


def batch_body(
    *,
    input_file_id: str,
    endpoint: str,
    completion_window: str,
    metadata: Mapping[str, str] | None = None,
    extra_body: Mapping[str, Any] | None = None,
) -> bytes:
    """
    Return the JSON that describes a batch to be created.

    :raises PortkeyInputError: if anything can't be meant, all of it listed at once
    """
    wrong = _Wrongs()
    if not isinstance(input_file_id, str) or input_file_id.strip() in ("", "None"):
        wrong.append(f"input_file_id is {shorten(repr(input_file_id))}: did the task that uploads it push one?")
    if not isinstance(endpoint, str) or not endpoint.startswith("/"):
        wrong.append(f"endpoint must be a path such as /v1/chat/completions, got {shorten(repr(endpoint))}")
    if not isinstance(completion_window, str) or not completion_window.strip():
        wrong.append(f"completion_window must be a string such as 24h, got {shorten(repr(completion_window))}")
    wrong.unless(_check_metadata, metadata)
    fields: dict[str, Any] = {
        "input_file_id": str(input_file_id).strip(),
        "endpoint": endpoint,
        "completion_window": completion_window,
        "metadata": metadata,
    }
    extra = {} if extra_body is None else extra_body
    body = ""
    if not isinstance(extra, Mapping):
        wrong.append(f"extra_body must be a dict, got {type(extra).__name__}")
    elif taken := sorted(fields.keys() & extra.keys()):
        wrong.append(f"extra_body has {', '.join(taken)}: such have parameters of their own")
    else:
        try:
            body = json.dumps({n: v for n, v in {**fields, **extra}.items() if v is not None}, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            wrong.append(f"extra_body can't be sent as JSON: {error}")
    if wrong:
        raise PortkeyInputError(f"No batch can be created like this, and nothing was sent:\n{wrong.lines}")
    return body.encode()


def list_batches(settings: Settings, after: str | None = None, limit: int = PAGE_SIZE) -> Request:
    """Return the call that lists batches, newest first: those behind the one whose id is ``after``."""
    url = f"{settings.base_url}/batches?limit={limit}"
    return Request(
        "GET",
        url if after is None else f"{url}&after={quote(after, safe='')}",
        f"listing batches (connection {settings.conn_id!r})",
    )


def upload_file(settings: Settings, filename: str) -> Request:
    """Return the call that uploads a file, which whoever sends it adds. A second copy costs nothing."""
    return Request(
        "POST",
        f"{settings.base_url}/files",
        f"uploading file {shorten(filename)!r} (connection {settings.conn_id!r})",
    )


def retrieve_file_content(settings: Settings, file_id: str) -> Request:
    """
    Return the call that downloads a file.

    :raises PortkeyInputError: if ``file_id`` can't be one
    """
    return Request(
        "GET",
        f"{settings.base_url}/files/{_segment(file_id, 'file_id')}/content",
        f"downloading file {shorten(file_id)!r} (connection {settings.conn_id!r})",
        "file_id",
    )


def _segment(given: str, name: str) -> str:
    try:
        return encode_id(given, name)
    except ValueError as error:
        raise PortkeyInputError(f"{error}. Nothing was sent.") from None


def _check_metadata(metadata: Any) -> None:
    pairs, name_length, value_length = MAX_METADATA
    if metadata is None:
        return
    if not isinstance(metadata, Mapping) or len(metadata) > pairs:
        raise ValueError(f"metadata must be a dict of at most {pairs} pairs, got {shorten(repr(metadata))}")
    wrong = [
        f"metadata: {shorten(repr(name))} and its value must be strings of at most {name_length} and {value_length} "
        "characters"
        for name, value in metadata.items()
        if not (isinstance(name, str) and isinstance(value, str))
        or not 0 < len(name) <= name_length
        or len(value) > value_length
    ]
    if wrong:
        raise ValueError(*wrong)


def read_answer(response: Response, request: Request, settings: Settings, read: Callable[[Any], T]) -> T:
    """
    Read the answer to any call.

    :param read: makes the result of the decoded JSON, or raises ``ValueError``
    :raises PortkeyRefusedError: if the call was refused and will be again
    :raises PortkeyTransientError: if the same call may succeed later
    """
    if not 200 <= response.status < 300:
        raise failure(response, request, settings)
    answer = _decode(response.body)
    try:
        return read(answer)
    except ValueError as error:
        origin, who = _origin(response, answer, settings)
        raise PortkeyTransientError(
            f"{who} answered HTTP {response.status} to {request.subject} at {request.url}, but not with what was "
            f"asked for: {error}. It says: {_words(response, answer, settings) or 'nothing'}",
            status_code=response.status,
            origin=origin,
        ) from None


def read_batch(response: Response, request: Request, settings: Settings, batch_id: str) -> Batch:
    """Read the answer to :func:`retrieve_batch`. For what it raises see :func:`read_answer`."""
    batch = read_answer(response, request, settings, _batch)
    if not is_same_id(batch.id, batch_id):
        raise PortkeyTransientError(
            f"The answer to {request.subject} at {request.url} is about another batch: "
            f"{shorten(hide(batch.id, settings))!r}",
            status_code=response.status,
        )
    return _hidden(batch, settings)


def read_created(response: Response, request: Request, settings: Settings) -> Batch:
    """Read the answer to :func:`create_batch`, of which some providers give the id alone."""

    def read(answer: Any) -> Batch:
        if isinstance(answer, Mapping) and answer.get("status") is None:
            answer = {**answer, "status": BatchStatus.VALIDATING}
        return _batch(answer)

    return _hidden(read_answer(response, request, settings, read), settings)


@dataclass(frozen=True)
class Page:
    """Some batches of a list, and the id behind which the next ones are, if there are any."""

    batches: tuple[Batch, ...]
    after: str | None


def read_page(response: Response, request: Request, settings: Settings) -> Page:
    """Read the answer to :func:`list_batches`. An entry that is no batch is left out."""

    def read(answer: Any) -> Page:
        entries = answer.get("data") if isinstance(answer, Mapping) else None
        if not isinstance(entries, list):
            raise ValueError("expected a JSON object with a list named 'data'")
        batches = []
        for entry in entries:
            with suppress(ValueError):
                batches.append(_hidden(_batch(entry), settings))
        after = answer.get("last_id") or (batches[-1].id if batches else None)
        more = answer.get("has_more") is True and isinstance(after, str)
        return Page(tuple(batches), after if more else None)

    return read_answer(response, request, settings, read)


def read_file_id(response: Response, request: Request, settings: Settings) -> str:
    """Read the answer to :func:`upload_file`."""

    def read(answer: Any) -> str:
        file_id = answer.get("id") if isinstance(answer, Mapping) else None
        if not isinstance(file_id, str) or not file_id.strip():
            raise ValueError("expected a JSON object with an 'id'")
        return file_id.strip()

    return read_answer(response, request, settings, read)


def read_nothing(response: Response, request: Request, settings: Settings) -> None:
    """Read the answer to :func:`cancel_batch`: providers say different things, or nothing, if they accept it."""
    read_answer(response, request, settings, lambda answer: None)


def read_content(response: Response, request: Request, settings: Settings) -> None:
    """See that the answer to :func:`retrieve_file_content`, or its beginning, is a file and not an error."""

    def read(answer: Any) -> None:
        if response.body.startswith(WRAPPED_TEXT):
            raise ValueError("the gateway takes it for a page of text, which it wraps")
        # A batch's answer to a request may have an error too, and says which request it is about.
        is_line = not isinstance(answer, Mapping) or "custom_id" in answer
        if not is_line and (answer.get("error") or answer.get("status") == "failure"):
            raise ValueError("it is an error")

    read_answer(response, request, settings, read)


def _hidden(batch: Batch, settings: Settings) -> Batch:
    # Not in the rest of it: an id may look like a virtual key, and must stay as it is.
    errors = tuple(error.map(lambda text: hide(text, settings)) for error in batch.errors)
    return replace(batch, errors=errors) if errors else batch


def too_large(request: Request) -> PortkeyTransientError:
    """Return the error for an answer of more than :data:`MAX_ANSWER_BYTES`."""
    return PortkeyTransientError(
        f"The answer to {request.subject} at {request.url} has more than {MAX_ANSWER_BYTES // 2**20} MiB: that is "
        "no answer of Portkey's. Is something else answering at that address?"
    )


def held_back(by: PortkeyTransientError, request: Request, left: float) -> PortkeyTransientError:
    """
    Return the error for a call that was not sent, since an answer to another one asked to wait.

    :param by: what that answer was
    :param left: for how many more seconds
    """
    return PortkeyTransientError(
        f"No request was sent for {request.subject}: another one of this connection was told to wait, for {left:.0f} "
        f"more seconds. {by}",
        status_code=by.status_code,
        origin=by.origin,
        retry_after=left,
    )


def no_answer(
    error: BaseException, request: Request, settings: Settings, *, was_sent: bool = True
) -> PortkeyTransientError:
    """
    Return the error for a call that brought no answer, from whatever the HTTP library raised.

    :param was_sent: whether any of it may have arrived
    """
    root = _root(error)
    return PortkeyTransientError(
        f"No answer to {request.subject} at {request.url}: "
        f"{type(root).__name__}: {shorten(hide(str(root) or 'no details', settings), 300).rstrip('.')}. "
        f"{_network_advice(root, settings)}",
        origin="network",
        was_sent=was_sent,
    )


def judge_failure(error: PortkeyTransientError, request: Request) -> PortkeyApiError:
    """Return the error that ``error`` is for ``request``: of one that must not be repeated, more has to be known."""
    # Who limits the rate has not begun.
    if request.repeatable or not error.was_sent or error.status_code == 429:
        return error
    return PortkeyOutcomeUnknownError(
        f"{error} Whether it took effect all the same is not known.",
        status_code=error.status_code,
        origin=error.origin,
        retry_after=error.retry_after,
    )


def is_worth_another_attempt(error: BaseException) -> bool:
    """
    Whether the same call should be sent once more at once, as one of :data:`ATTEMPTS`.

    A batch that is not found is: just after it was created, the replica that is asked may not know it yet.
    """
    if isinstance(error, PortkeyTransientError):
        return (error.retry_after or 0) <= MAX_PAUSE
    return isinstance(error, PortkeyRefusedError) and error.status_code == 404 and error.origin != "gateway"


def pause(attempt: int, error: BaseException | None, chance: float) -> float:
    """
    Return how many seconds to wait before the next attempt.

    :param attempt: how many were made
    :param error: what the last one brought
    :param chance: a random number from 0 to 1, so that many tasks do not come back together
    """
    asked = error.retry_after if isinstance(error, PortkeyApiError) else None
    return min(MAX_PAUSE, asked or 2 ** (attempt - 1)) * (1 + chance / 2)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """
    Return how many seconds an answer asks to wait, at most :data:`MAX_RETRY_AFTER`; ``None`` if it does not say.

    :param headers: with names in lower case
    :param now: the time, in Unix seconds
    """
    for name, unit in (("retry-after-ms", 1e-3), ("x-ms-retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                date = parsedate_to_datetime(value)  # asctime's has no zone; all are GMT
                seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
            except (ValueError, OverflowError):
                continue
        if math.isfinite(seconds):
            return min(max(seconds, 0.0), MAX_RETRY_AFTER)
    return None


def hide(text: str, settings: Settings) -> str:
    """Return ``text`` without the secrets of the connection: an answer may quote what was sent."""
    for secret in sorted(settings.secrets, key=len, reverse=True):
        if len(secret) >= 5:
            text = text.replace(secret, "***")
    return text


def _secrets_of(config: Any, name: str = "") -> Iterator[str]:
    """Find what a config given as JSON holds in members such as ``api_key``."""
    if isinstance(config, Mapping):
        for member, value in config.items():
            yield from _secrets_of(value, member)
    elif isinstance(config, list):
        for value in config:
            yield from _secrets_of(value, name)
    elif isinstance(config, str) and re.search("key|secret|token|password|credential|auth", name, re.IGNORECASE):
        yield config


class _Wrongs(list[str]):
    """Collects what is wrong with a connection, so that its author learns all of it at once."""

    def unless(self, read: Any, *args: Any) -> Any:
        try:
            return read(*args)
        except ValueError as error:
            self.extend(error.args)
            return None

    @property
    def lines(self) -> str:
        return "\n".join(f"  - {wrong}" for wrong in self)

    def of(self, conn_id: str) -> PortkeyInputError:
        """Return the error that lists them."""
        return PortkeyInputError(f"Connection {conn_id!r} can't be used for Portkey:\n{self.lines}")


def _extra(text: str | None) -> dict[str, Any]:
    try:
        extra = json.loads(text or "{}")
    except (ValueError, RecursionError):
        extra = None
    if not isinstance(extra, dict):
        raise ValueError('extra: must be a JSON object such as {"virtual_key": "openai-prod"}')
    # Forms send null or "" for a field that was left empty.
    return {
        name: value
        for name, value in extra.items()
        if value not in (None, {}) and not (isinstance(value, str) and not value.strip())
    }


def _base_url(host: str | None, port: int | None, schema: str | None) -> str:
    text = (host or "").strip() or DEFAULT_BASE_URL
    if "://" not in text:
        if re.fullmatch(r"[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*", text):
            text = f"[{text}]"  # Airflow takes the brackets off a URI's IPv6 address
        text = f"{schema if schema in ('http', 'https') else 'https'}://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port or port
    except ValueError:
        # Not its words: they quote the text, which may hold a password.
        raise ValueError("host: not a base URL: its port or IPv6 address can't be read") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"host: must be a base URL such as {DEFAULT_BASE_URL}")
    if "@" in parts.netloc:
        raise ValueError("host: must not hold a user or password; the Portkey API key is the password field")
    if parts.query or parts.fragment:
        raise ValueError("host: a base URL has no '?' and no '#'")
    if re.search(r"[\s\\]", text):
        raise ValueError("host: a base URL has no white space and no backslash")
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = [p for p in parts.path.split("/") if p]
    if schema and schema not in ("http", "https"):
        path += [p for p in schema.split("/") if p]
    if not path or path[-1] != "v1":
        path.append("v1")
    return "/".join([f"{parts.scheme}://{name}" + (f":{port}" if port else ""), *path])


def _headers(password: str | None, extra: Mapping[str, Any], host: str | None) -> tuple[tuple[str, str], ...]:
    wrong = _Wrongs()
    key = (password or "").strip()
    auth = extra.get("auth", "portkey")
    headers = {"accept": "application/json", "user-agent": f"airflow-provider-portkey/{__version__}"}
    own = wrong.unless(_own_headers, extra.get("headers", {})) or {}
    if auth not in ("portkey", "bearer"):
        wrong.append(f"extra: auth must be 'portkey' or 'bearer', got {shorten(repr(auth))}")
    given: dict[str, tuple[str, str | None]] = {}
    if key and auth == "bearer":
        given["authorization"] = ("password, with auth 'bearer'", f"Bearer {key}")
    elif key:
        given["x-portkey-api-key"] = ("password", key)
    for header in _ROUTE_HEADERS:
        name = header.removeprefix("x-portkey-").replace("-", "_")
        if name in extra:
            text = wrong.unless(_config if name == "config" else _header_text, name, extra[name])
            given[header] = (f"extra: {name}", text)
    for header, (where, value) in given.items():
        if header in own:
            wrong.append(f"extra: headers has {header!r}, which {where} gives too: keep one of them")
        if value is not None and not _is_header_value(value):
            wrong.append(f"{where}: holds line breaks or characters that a header can't carry")
        headers[header] = value or ""
    headers |= own
    # A gateway of one's own may ask for none.
    if not key and not headers.keys() & _KEY_HEADERS and f".{host}".endswith(".portkey.ai"):
        wrong.append("password: the Portkey API key is missing")
    routes = [h for h in _ROUTE_HEADERS if h in headers]
    managed = wrong.unless(_flag, "managed", extra.get("managed", False))
    if not routes and not managed:
        wrong.append(
            "extra: one of virtual_key, provider and config is missing. It names the provider credential that the "
            "batch was created with; without it Portkey would look among its own managed batches. If that is "
            "what you want, set managed to true"
        )
    if routes and managed:
        wrong.append(f"extra: managed is true, but {', '.join(routes)} names a provider: keep one of them")
    if wrong:
        raise ValueError(*wrong)
    return tuple(headers.items())


def _own_headers(value: Any) -> dict[str, str]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, Mapping):
        raise ValueError('extra: headers must be a JSON object such as {"x-portkey-trace-id": "nightly"}')
    wrong = _Wrongs()
    headers = {}
    for name, content in value.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", str(name)):
            wrong.append(f"extra: headers has {shorten(repr(name))}, which can't name a header")
        elif not isinstance(content, (str, int, float)) or not _is_header_value(str(content).strip()):
            wrong.append(f"extra: the value of {name!r} in headers can't be sent in a header")
        else:
            headers[str(name).lower()] = str(content).strip()
    if wrong:
        raise ValueError(*wrong)
    return headers


def _config(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps(value, separators=(",", ":"))
    text = _header_text(name, value)
    if not text.startswith("{"):
        return text
    try:
        return json.dumps(json.loads(text), separators=(",", ":"))
    except (ValueError, RecursionError):
        raise ValueError("extra: config looks like JSON, but is not; it may also be an id (pc-...)") from None


def _header_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"extra: {name} must be a string, got {type(value).__name__}")
    return value.strip()


def _is_header_value(value: str) -> bool:
    return bool(value) and value.isprintable() and value.isascii()


def _seconds(extra: Mapping[str, Any], name: str, default: float) -> float:
    try:
        seconds = float(extra.get(name, default))
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 < seconds < math.inf or extra.get(name) is True:
        raise ValueError(f"extra: {name} must be a number of seconds above 0, got {shorten(repr(extra[name]))}")
    return seconds


def _count(extra: Mapping[str, Any], name: str, default: int) -> int:
    text = str(extra.get(name, default)).strip()
    if not re.fullmatch(r"0*[1-9][0-9]{0,5}", text):
        raise ValueError(f"extra: {name} must be a whole number from 1 to 999999, got {shorten(repr(extra[name]))}")
    return int(text)


def _flag(name: str, value: Any) -> bool:
    flag = {"true": True, "false": False}.get(str(value).strip().lower())
    if flag is None:
        raise ValueError(f"extra: {name} must be true or false, got {shorten(repr(value))}")
    return flag


def _verify(extra: Mapping[str, Any]) -> bool | str:
    try:
        return _flag("verify", extra.get("verify", True))
    except ValueError:
        if isinstance(extra["verify"], str):
            return extra["verify"].strip()
        raise ValueError("extra: verify must be true, false or the path of a file of CA certificates") from None


def _proxy(extra: Mapping[str, Any]) -> str | None:
    proxy = extra.get("proxy")
    if proxy is None:
        return None
    try:
        parts = urlsplit(str(proxy).strip())
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("extra: proxy must be a URL such as http://proxy.example.com:3128")
    return str(proxy).strip()


def _decode(body: bytes) -> Any:
    # By what it is, not by its content-type: Portkey sends JSON as text/plain too. NaN and the like, NUL and halves
    # of characters come through Python's parser, but not into Airflow's database.
    text = body.decode("utf-8-sig", errors="replace")
    try:
        answer = json.loads(text, parse_constant=lambda name: None, parse_float=_finite)
        if re.search(r"\\u(0000|[dD][89a-fA-F])", text):
            answer = storable(answer)
    except (ValueError, RecursionError):
        return None
    return answer


def storable(value: Any) -> Any:
    """Return JSON types without what a database does not take in a text: NUL and halves of characters."""
    if isinstance(value, str):
        return value.replace("\0", "").encode(errors="replace").decode()
    if isinstance(value, list):
        return [storable(item) for item in value]
    if isinstance(value, dict):
        return {storable(name): storable(item) for name, item in value.items()}
    return value


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _batch(answer: Any) -> Batch:
    # `provider_status` is our name for a word of the provider's: its own answer can't have it.
    if isinstance(answer, Mapping):
        answer = {name: value for name, value in answer.items() if name != "provider_status"}
    return Batch.from_dict(answer)


def failure(response: Response, request: Request, settings: Settings) -> PortkeyApiError:
    """Return the error that an answer to any call is whose status is no success."""
    answer = _decode(response.body)
    status = response.status
    origin, who = _origin(response, answer, settings)
    said = _words(response, answer, settings).rstrip(".") or "without a word"
    if 300 <= status < 400:
        target = re.sub(r"//[^/?#]*@", "//", response.headers.get("location", "nowhere")).split("?")[0]
        target = shorten(hide(target, settings))
        said = f"a redirect to {target}, which is not followed, since it would carry the key there"
    text = f"{who} answered HTTP {status} to {request.subject} at {request.url}: {said}."
    text = f"{text} {_advice(status, origin, request, settings)}".rstrip()
    kind = PortkeyTransientError if status in (408, 429) or status >= 500 else PortkeyRefusedError
    return kind(
        text,
        status_code=status,
        origin=origin,
        retry_after=retry_after(response.headers, time.time()),
    )


def _origin(response: Response, answer: Any, settings: Settings) -> tuple[Origin, str]:
    if isinstance(answer, Mapping) and answer.get("status") == "failure":
        return "portkey", "Portkey"
    provider = answer.get("provider") if isinstance(answer, Mapping) else None
    if not provider and response.status < 500:
        # Portkey sends this header with its own faults too, such as a provider it could not reach.
        provider = response.headers.get("x-portkey-provider")
    if isinstance(provider, str) and provider:
        return "provider", f"The provider {shorten(hide(provider, settings), 40)!r} behind Portkey"
    return "gateway", "The gateway"


def _words(response: Response, answer: Any, settings: Settings) -> str:
    """Return what an answer says, in one line, without HTML's tags and without the secrets that it may quote."""
    text = _message(answer) or response.body[:100_000].decode(errors="replace")
    return shorten(hide(re.sub(r"</?[a-zA-Z!][^<>]{0,1000}>", " ", text), settings), 300)


def _message(answer: Any) -> str:
    """Find the words in an error's body; Portkey and its providers keep them in different places."""
    if not isinstance(answer, Mapping):
        return ""
    error, message, data = answer.get("error"), answer.get("message"), answer.get("data")
    candidates = (
        error.get("message") if isinstance(error, Mapping) else None,
        error,
        message,
        message.get("error") if isinstance(message, Mapping) else None,
        data.get("message") if isinstance(data, Mapping) else None,
        answer.get("html-message"),
    )
    return next((c for c in candidates if isinstance(c, str) and c.strip()), "")


def _advice(status: int, origin: Origin, request: Request, settings: Settings) -> str:
    if 300 <= status < 400:
        return "Set the connection's host to the address that answers itself."
    if origin == "provider" and status in (401, 403):
        return (
            "Portkey let the call pass: the provider's own credential, stored in Portkey under the virtual key or "
            "provider slug (or in the connection's headers), is wrong or lacks a permission."
        )
    sent = dict(settings.headers).keys()
    return {
        400: (
            (
                f"The provider does not accept the request: check that {request.argument} is an id of its own."
                if request.argument
                else "The provider does not accept what was sent."
            )
            if origin == "provider" or not sent & set(_ROUTE_HEADERS)
            else "Check virtual_key, provider or config in the connection's extra: Portkey does not know such a name."
        ),
        401: (
            "Check the Portkey API key, the connection's password: it is wrong or expired."
            if "x-portkey-api-key" in sent or origin == "portkey"
            else "Check Authorization in headers in the connection's extra, or the connection's password."
        ),
        403: (
            "The Portkey API key lacks a scope (batches need completions.write), or the organisation has a gateway "
            "of its own that the connection's host should name."
        ),
        404: (
            f"Check {request.argument or 'the ids in it'}, and that the connection names the provider and workspace "
            f"that the {'file' if request.argument == 'file_id' else 'batch'} was created in."
            if origin in ("portkey", "provider")
            else "Nothing answers to that path: check the connection's host, which must be the API's base URL."
        ),
        412: "A budget or limit set in Portkey is exhausted: raise it there.",
        446: "A guardrail set in Portkey denied the call.",
        429: "A rate limit.",
    }.get(status, "")


def _root(error: BaseException) -> BaseException:
    """Find what HTTP libraries wrap, often more than once and with the whole URL."""
    inner = getattr(error, "reason", None) or getattr(error, "os_error", None)
    inner = inner or next((arg for arg in error.args if isinstance(arg, BaseException)), None)
    return _root(inner) if isinstance(inner, BaseException) else error


def _network_advice(error: BaseException, settings: Settings) -> str:
    kind = f"{type(error).__name__} {error}"
    if re.search(r"SSL|certificate|Certificate", kind):
        return (
            "The TLS handshake failed: if the gateway's certificate is signed by a private CA, name its file in "
            "verify in the connection's extra, or in REQUESTS_CA_BUNDLE or SSL_CERT_FILE."
        )
    if re.search(r"timed?.?out", kind, re.IGNORECASE):
        return (
            f"The limits are timeout={settings.timeout:g} s for a request and "
            f"connect_timeout={settings.connect_timeout:g} s, in the connection's extra."
        )
    return "Check the connection's host, and DNS, firewall and proxy between this machine and it."
