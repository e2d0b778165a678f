"""
A batch's files: requests, checked before they are sent, and answers, counted while they stream.

.. seealso:: https://portkey.ai/docs/product/ai-gateway/batches
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.exceptions import PortkeyInputError
from airflow_provider_portkey.problems import Problems
from airflow_provider_portkey.text import message, sanitize_text, shorten

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_portkey.wait import Log

    AnyPath: TypeAlias = str | os.PathLike[str] | ObjectStoragePath

#: OpenAI's limits for one batch; other providers have similar ones.
MAX_REQUESTS = 50_000
MAX_BYTES = 200_000_000

#: How many problems of a file an error lists, and how many requests a manifest names.
_MAX_PROBLEMS, _MAX_NAMED = 10, 100
#: A longer line of answers is counted, but not parsed for its custom_id.
_MAX_LINE = 16 * 2**20
_MEBI = 2**20


@dataclass(frozen=True)
class Requests:
    """
    What a file of requests holds.

    :param sha256: of its content, in hexadecimal
    """

    count: int
    bytes: int
    sha256: str


def write_requests(
    source: Iterable[bytes | Mapping[str, Any]],
    target: IO[bytes],
    *,
    endpoint: str,
    max_requests: int = MAX_REQUESTS,
    max_bytes: int = MAX_BYTES,
    name: str | None = None,
) -> Requests:
    """
    Check requests and write them as JSONL, in one pass that holds no more than each ``custom_id``.

    :param source: lines of JSONL (empty ones are skipped), or dicts, for which ``method`` and ``url`` are filled in
        where they are missing
    :param target: the file to write
    :param endpoint: the batch's endpoint, which each request's ``url`` must be
    :param max_requests: how many requests it may hold
    :param max_bytes: how many bytes it may have
    :param name: the source's name, for messages
    :raises PortkeyInputError: lists the first ten problems, each with its line
    """
    first_lines: dict[str, int] = {}
    problems = Problems()
    found = count = size = 0
    digest = hashlib.sha256()
    for number, item in enumerate(source, 1):
        if isinstance(item, bytes):
            item = item.removeprefix(b"\xef\xbb\xbf") if number == 1 else item
            if not item.strip():
                continue
        count += 1
        if count > max_requests:
            problems.insert(0, f"more than {max_requests:,} requests: use several batches")
            break
        line, of_line = _check(item, number, endpoint, first_lines)
        found += len(of_line)
        problems += of_line[: _MAX_PROBLEMS - len(problems)]
        size += len(line)
        if size > max_bytes:
            problems.insert(0, f"more than {max_bytes:,} bytes, reached at line {number}: use several batches")
            break
        digest.update(line)
        target.write(line)
    if not count:
        problems.append("it contains no request")
    if problems:
        where = f"Input: {name}." if name else ""
        raise problems.as_error("Invalid batch input", where, unlisted=max(0, found - _MAX_PROBLEMS))
    return Requests(count, size, digest.hexdigest())


def _check(
    item: bytes | Mapping[str, Any], number: int, endpoint: str, first_lines: dict[str, int]
) -> tuple[bytes, list[str]]:
    """Return the line to write, and its problems."""
    request: Any = item
    try:
        if isinstance(item, bytes):
            line = item.strip()
            request = json.loads(line.decode(), parse_constant=_reject_constant)
        elif isinstance(item, Mapping):
            request = {"method": "POST", "url": endpoint, **item}
            line = json.dumps(request, allow_nan=False).encode()
        else:
            line = b""
    except UnicodeDecodeError as error:
        return b"", [f"line {number}: not valid UTF-8 at byte {error.start}"]
    except (TypeError, ValueError, RecursionError) as error:
        return b"", [f"line {number}: not valid JSON ({shorten(str(error))})"]
    if not isinstance(request, Mapping):
        return b"", [f"line {number}: must be a JSON object, got {type(request).__name__}"]
    problems = []
    custom_id = request.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        problems.append(f"custom_id must be a string, got {shorten(repr(custom_id), 50)}")
    elif (first := first_lines.setdefault(custom_id, number)) != number:
        problems.append(f"custom_id {shorten(repr(custom_id), 80)} is a duplicate of line {first}")
    if request.get("method") != "POST":
        problems.append(f"method must be POST, got {shorten(repr(request.get('method')), 50)}")
    if request.get("url") != endpoint:
        problems.append(f"url must be the batch's endpoint {endpoint}, got {shorten(repr(request.get('url')), 80)}")
    if not isinstance(request.get("body"), Mapping):
        problems.append(f"body must be a JSON object, got {type(request.get('body')).__name__}")
    return line + b"\n", [f"line {number}: {problem}" for problem in problems]


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON")


class FileStats:
    """
    What a JSONL file holds, counted while it streams.

    :ivar bytes: its size
    :ivar lines: how many lines of it are not empty
    :ivar custom_ids: those found in them
    :ivar duplicates: those found more than once
    """

    def __init__(self) -> None:
        self.bytes = self.lines = 0
        self.custom_ids: set[str] = set()
        self.duplicates: set[str] = set()
        self._digest = hashlib.sha256()
        self._line: list[bytes] = []
        self._length = 0

    @property
    def sha256(self) -> str:
        """Of the content so far, in hexadecimal."""
        return self._digest.hexdigest()

    def add(self, chunk: bytes) -> None:
        """Count a piece of the file."""
        self.bytes += len(chunk)
        self._digest.update(chunk)
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            self._extend(chunk[start:end])
            self.end_line()
            start = end + 1
        self._extend(chunk[start:])

    def end_line(self) -> None:
        """Count what came since the last line break, as at the end of the file."""
        line, self._line, length, self._length = b"".join(self._line), [], self._length, 0
        self.lines += bool(length > _MAX_LINE or line.strip())
        with suppress(ValueError, RecursionError, AttributeError):
            custom_id = json.loads(line).get("custom_id")
            if isinstance(custom_id, str):
                (self.duplicates if custom_id in self.custom_ids else self.custom_ids).add(custom_id)

    def _extend(self, piece: bytes) -> None:
        self._length += len(piece)
        if self._length <= _MAX_LINE:
            self._line.append(piece)
        else:
            self._line.clear()


@dataclass(frozen=True)
class Download:
    """A file of a batch that was downloaded."""

    file_id: str
    path: str
    stats: FileStats

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "file_id": self.file_id,
            "path": self.path,
            "bytes": self.stats.bytes,
            "lines": self.stats.lines,
            "sha256": self.stats.sha256,
        }


def is_complete(batch: Batch, output: Download | None, error: Download | None) -> bool:
    """Whether the files certainly hold an answer to each request of the batch, by the batch's own counts."""
    return _counts_match(batch, output, error) is True and not _duplicates(output, error)


def manifest(batch: Batch, output: Download | None, error: Download | None, asked: set[str] | None) -> dict[str, Any]:
    """
    Return, as JSON types, what was downloaded of a batch and whether it is complete.

    :param asked: the ``custom_id`` of each request of the batch, ``None`` if the input was not read
    """
    missing = asked
    if asked is not None:
        missing = asked.difference(*(file.stats.custom_ids for file in (output, error) if file))
    elif is_complete(batch, output, error):
        missing = set()
    duplicates = _duplicates(output, error)
    return {
        "batch_id": batch.id,
        "status": batch.status.value,
        "output": output and output.to_dict(),
        "error": error and error.to_dict(),
        "request_counts": vars(batch.request_counts).copy(),
        "counts_match": _counts_match(batch, output, error),
        "missing": None if missing is None else sanitize_text(sorted(missing)[:_MAX_NAMED]),
        "missing_count": None if missing is None else len(missing),
        "duplicates": sanitize_text(sorted(duplicates)[:_MAX_NAMED]),
        "duplicate_count": len(duplicates),
    }


def _counts_match(batch: Batch, output: Download | None, error: Download | None) -> bool | None:
    if batch.request_counts.total is None:
        return None
    return sum(file.stats.lines for file in (output, error) if file) == batch.request_counts.total


def _duplicates(output: Download | None, error: Download | None) -> set[str]:
    stats = [file.stats for file in (output, error) if file]
    duplicates: set[str] = set().union(*(of_file.duplicates for of_file in stats))
    return duplicates | (stats[0].custom_ids & stats[1].custom_ids if len(stats) == 2 else set())


class ProgressLogger:
    """Logs, every few seconds, how much of a transfer is done and how fast it is."""

    def __init__(self, log: Log, what: str, total: int | None = None, every: float = 5.0) -> None:
        self._log = log
        self._what = what
        self._total = "" if total is None else f" of {total / _MEBI:,.1f}"
        self._every = every
        self._began = self._logged = time.monotonic()
        self._bytes = 0

    def add(self, count: int) -> None:
        """Count bytes that were transferred."""
        self._bytes += count
        now = time.monotonic()
        if now - self._logged >= self._every:
            self._logged = now
            rate = self._bytes / _MEBI / max(now - self._began, 1e-6)
            self._log.info("%s: %.1f%s MiB, %.1f MiB/s.", self._what, self._bytes / _MEBI, self._total, rate)


def storage_path(path: AnyPath) -> ObjectStoragePath:
    """
    Return a path or URL as a path of Airflow's object storage.

    :raises PortkeyInputError: if it is none, or its file system is not installed
    """
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    if isinstance(path, ObjectStoragePath):
        return path
    if path is not None and not isinstance(path, (str, os.PathLike)):
        raise PortkeyInputError(f"path must be a string or a path, got {type(path).__name__}")
    text = "" if path is None else os.fspath(path).strip()
    if text in ("", "None"):
        raise PortkeyInputError(f"path is {shorten(repr(path))}: the upstream task pushed no value to XCom")
    # Airflow 2.11 and 3.1 resolve a relative path against the root.
    try:
        found = ObjectStoragePath(text if "://" in text else os.path.abspath(text))  # noqa: PTH100
        found.fs  # noqa: B018 - raises if there is no such file system
    except ValueError as error:
        scheme = text.partition("://")[0]
        raise PortkeyInputError(
            message(
                f"No file system for {shorten(scheme, 20)!r} paths: install the Airflow provider that has it",
                f"{shorten(text)!r}: {error}. For s3 that is apache-airflow-providers-amazon[s3fs].",
            )
        ) from None
    return found


@contextmanager
def atomic_write(path: ObjectStoragePath) -> Iterator[IO[bytes]]:
    """Yield a file that appears under ``path`` once all of it is written, and leaves no trace otherwise."""
    if path.protocol in ("", "file", "local") and path.is_dir():
        # Moving a file there would put it into the folder, under the wrong name.
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    # A unique name, so that an attempt that Airflow believes dead does not write into this one's file.
    part = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        try:
            file = part.open("wb")  # type: ignore[no-untyped-call]
        except FileNotFoundError:  # only where folders exist
            path.parent.mkdir(parents=True, exist_ok=True)
            file = part.open("wb")  # type: ignore[no-untyped-call]
        with file:
            yield file
        path.fs.mv(part.path, path.path)
    except BaseException:
        with suppress(Exception):
            part.unlink()
        raise
