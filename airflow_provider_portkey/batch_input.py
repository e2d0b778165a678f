"""
The input of a batch: requests, checked before anything is sent, as a JSONL file.

.. seealso:: https://portkey.ai/docs/product/ai-gateway/batches
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from airflow_provider_portkey import fast_json
from airflow_provider_portkey.problems import Problems
from airflow_provider_portkey.text import counted, shorten

#: OpenAI's limits for one batch; other providers have similar ones.
MAX_REQUESTS = 50_000
MAX_BYTES = 200_000_000
#: Anthropic's, for requests in the body of the call.
MAX_INLINE_REQUESTS = 100_000
MAX_INLINE_BYTES = 256_000_000

#: The endpoints that batches of some provider are known to have, without ``/v1``.
KNOWN_ENDPOINTS = (
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/images/edits",
    "/images/generations",
    "/messages",
    "/moderations",
    "/responses",
    "/videos",
)

_encode = json.JSONEncoder(allow_nan=False).encode
# Sent as \uXXXX escapes: the open-source gateway damages a character that two network packets share.
_NON_ASCII = re.compile(r"[^\x00-\x7f]+")
#: How many problems an error lists.
_MAX_PROBLEMS = 10


@dataclass(frozen=True)
class Requests:
    """
    What a file of requests holds.

    :param bytes: the size of what was written
    :param digest: of what the requests ask for, in hexadecimal: the same for equal requests, however they are written
    :param warning: what the provider may reject, although it is valid
    """

    count: int
    bytes: int
    digest: str
    warning: str | None = None


def check_requests(requests: Any) -> None:
    """
    Check requests that a DAG file gives.

    :raises ValueError: if they can be read only once: a DAG is parsed often, and stored with what it shows of them
    """
    if isinstance(requests, Iterator):
        raise ValueError(
            f"requests must not be a {type(requests).__name__}: give a list, a task's output, or input_path"
        )


def write_requests(
    source: Iterable[bytes | Mapping[str, Any]],
    target: IO[bytes],
    *,
    endpoint: str,
    max_requests: int = MAX_REQUESTS,
    max_bytes: int = MAX_BYTES,
    name: str | None = None,
    inline: bool = False,
) -> Requests:
    """
    Check requests and write them as JSONL, in one pass that holds no more than each ``custom_id``.

    :param source: lines of JSONL (empty ones are skipped), or dicts, for which ``method`` and ``url`` are filled in
        where they are missing
    :param target: the file to write
    :param endpoint: the batch's endpoint. If all requests have another ``url``, that is a warning, since Azure's own
        guide does it; ``/v1`` in front makes no difference
    :param max_requests: how many requests it may hold
    :param max_bytes: how many bytes it may have
    :param name: the source's name, for messages
    :param inline: write them as the elements of Anthropic's list of requests instead
    :raises PortkeyInputError: lists the first ten problems, each with its line
    """
    first_lines: dict[str, int] = {}
    urls: dict[str, tuple[str, int]] = {}
    problems = Problems()
    found = count = size = 0
    too_long = f"more than {counted(max_bytes, 'byte')}, reached at line {{}}: use several batches"
    digest = hashlib.sha256()
    for number, item in enumerate(source, 1):
        if isinstance(item, bytes):
            item = item.removeprefix(b"\xef\xbb\xbf") if number == 1 else item
            if not item.strip():
                continue
        count += 1
        if count > max_requests:
            problems.insert(0, f"more than {counted(max_requests, 'request')}: use several batches")
            break
        if isinstance(item, bytes) and len(item.strip()) >= max_bytes:  # or cut there: its end is not worth reading
            problems.insert(0, too_long.format(number))
            break
        line, request, of_line = _check(item, number, endpoint, first_lines, urls, inline)
        found += len(of_line)
        problems += of_line[: _MAX_PROBLEMS - len(problems)]
        if inline:
            params = {"custom_id": request.get("custom_id"), "params": request.get("body")}
            line = b",\n" * (count > 1) + json.dumps(params).encode()
        size += len(line)
        if size > max_bytes:
            problems.insert(0, too_long.format(number))
            break
        digest.update(_canonical(request))
        target.write(line)
    if not count:
        problems.append("it contains no request")
    if problems:
        where = f"Input: {name}." if name else ""
        raise problems.as_error("Invalid batch input", where, unlisted=max(0, found - _MAX_PROBLEMS))
    warning = None
    if without_version(endpoint) not in urls:
        [(url, _)] = urls.values()
        warning = f"Each request's url is {url}, but the batch's endpoint is {endpoint}: the provider may reject it."
    return Requests(count, size, digest.hexdigest(), warning)


def endpoint_warning(endpoint: str) -> str | None:
    """Return what to check about an endpoint that no provider is known to have; ``None`` if there is nothing."""
    if without_version(endpoint) in KNOWN_ENDPOINTS:
        return None
    known = ", ".join(f"/v1{path}" for path in KNOWN_ENDPOINTS)
    return f"Unknown endpoint {shorten(endpoint)}: the provider may reject it after the upload. Known are {known}."


def without_version(endpoint: str) -> str:
    """Return an endpoint without ``/v1`` in front, which providers write or leave out."""
    return endpoint.removeprefix("/v1")


def write_inline_body(
    source: Iterable[bytes | Mapping[str, Any]], target: IO[bytes], *, extra_body: Mapping[str, Any], **limits: Any
) -> Requests:
    """
    Write the body of a call that creates a batch of requests without a file, as Anthropic takes it.

    :param extra_body: further members of the body
    :param limits: the other parameters of :func:`write_requests`
    :raises PortkeyInputError: as that does
    """
    target.write(b'{"requests": [\n')
    requests = write_requests(source, target, inline=True, **limits)
    members = "".join(f", {json.dumps(name)}: {json.dumps(value)}" for name, value in extra_body.items())
    target.write(f"\n]{members}}}".encode())
    return requests


def _canonical(request: Mapping[str, Any]) -> bytes:
    """Return JSON that is the same for equal requests of JSON's types."""
    try:
        return fast_json.encode_canonical(request) + b"\n"
    except ValueError:  # a lone surrogate
        return json.dumps(request, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _decode(line: bytes) -> Any:
    try:
        return fast_json.decode(line)
    except ValueError:  # or json accepts it, or its error says more
        return json.loads(line.decode(), parse_constant=_reject_constant)


def _check(
    item: bytes | Mapping[str, Any],
    number: int,
    endpoint: str,
    first_lines: dict[str, int],
    urls: dict[str, tuple[str, int]],
    inline: bool,
) -> tuple[bytes, Mapping[str, Any], list[str]]:
    """
    Return the line to write, the request in it, and its problems.

    :param first_lines: of each ``custom_id`` so far
    :param urls: of the requests so far, without ``/v1``: as the first one has it, and the line of that
    """
    request: Any = item
    try:
        if isinstance(item, bytes):
            line = item.strip()
            request = _decode(line)
            if inline and isinstance(request, Mapping):  # neither is sent
                request = {"method": "POST", "url": endpoint, **request}
            if not line.isascii():
                line = _NON_ASCII.sub(lambda match: json.dumps(match[0])[1:-1], line.decode()).encode()
        elif isinstance(item, Mapping):
            line = _encode({"method": "POST", "url": endpoint, **item}).encode()
            request = _decode(line)
        else:
            line = b""
    except UnicodeDecodeError as error:
        return b"", {}, [f"line {number}: not valid UTF-8 at byte {error.start}"]
    except (TypeError, ValueError, RecursionError) as error:
        return b"", {}, [f"line {number}: not valid JSON ({shorten(str(error))})"]
    if not isinstance(request, Mapping):
        return b"", {}, [f"line {number}: must be a JSON object, got {type(request).__name__}"]
    problems = []
    custom_id = request.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        problems.append(f"custom_id must be a string, got {shorten(repr(custom_id), 50)}")
    elif (first := first_lines.setdefault(custom_id, number)) != number:
        problems.append(f"custom_id {shorten(repr(custom_id), 80)} is a duplicate of line {first}")
    if request.get("method") != "POST":
        problems.append(f"method must be POST, got {shorten(repr(request.get('method')), 50)}")
    url = request.get("url")
    if not isinstance(url, str) or not url.startswith("/"):
        problems.append(f"url must be a path such as {endpoint}, got {shorten(repr(url), 80)}")
    else:
        urls.setdefault(without_version(url), (url, number))
        first_url, first = next(iter(urls.values()))
        if without_version(url) != without_version(first_url):
            problems.append(f"url must be {shorten(first_url, 80)} as on line {first}, got {shorten(repr(url), 80)}")
    if not isinstance(request.get("body"), Mapping):
        problems.append(f"body must be a JSON object, got {type(request.get('body')).__name__}")
    return line + b"\n", request, [f"line {number}: {problem}" for problem in problems]


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON")
