"""
The files of a batch: what it asks, checked before it is sent, and what it answered, counted as it comes.

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

from airflow_provider_portkey.api import storable
from airflow_provider_portkey.batch import Batch, shorten
from airflow_provider_portkey.exceptions import PortkeyInputError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_portkey.wait import Log

    AnyPath: TypeAlias = str | os.PathLike[str] | ObjectStoragePath

#: What OpenAI takes in one batch, and others about as much.
MAX_REQUESTS = 50_000
MAX_BYTES = 200_000_000

#: How many problems of a file are told, and how many requests are named in a manifest.
_MAX_TOLD, _MAX_NAMED = 10, 100
#: A longer line of an answer is counted, but not read for its custom_id.
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
) -> Requests:
    """
    Write requests as JSONL, each checked, in one pass that holds no more than their ``custom_id``.

    :param source: lines of JSONL, of which empty ones are left out; or dicts, for which ``method`` and ``url`` are
        filled in where they are missing
    :param target: where to
    :param endpoint: what the batch asks, which each request's ``url`` must be
    :param max_requests: how many requests may be in it
    :param max_bytes: how many bytes it may have
    :raises PortkeyInputError: if a line is no request, or there are too many or none: the first ten problems, each
        with its line
    """
    lines: dict[str, int] = {}
    problems: list[str] = []
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
        line, wrong = _check(item, number, endpoint, lines)
        found += len(wrong)
        problems += wrong[: _MAX_TOLD - len(problems)]
        size += len(line)
        if size > max_bytes:
            problems.insert(0, f"more than {max_bytes:,} bytes, reached at line {number}: use several batches")
            break
        digest.update(line)
        target.write(line)
    if not count:
        problems.append("there is no request in it")
    if problems:
        more = f"\n  - … and {found - _MAX_TOLD:,} more" if found > _MAX_TOLD else ""
        raise PortkeyInputError(
            "This can't be the input of a batch. Nothing was sent.\n" + "\n".join(f"  - {p}" for p in problems) + more
        )
    return Requests(count, size, digest.hexdigest())


def _check(
    item: bytes | Mapping[str, Any], number: int, endpoint: str, lines: dict[str, int]
) -> tuple[bytes, list[str]]:
    """Return the line to write, and what is wrong with it."""
    request: Any = item
    try:
        if isinstance(item, bytes):
            line = item.strip()
            request = json.loads(line.decode(), parse_constant=_refuse)
        elif isinstance(item, Mapping):
            request = {"method": "POST", "url": endpoint, **item}
            line = json.dumps(request, allow_nan=False).encode()
        else:
            line = b""
    except UnicodeDecodeError as error:
        return b"", [f"line {number}: not UTF-8, from byte {error.start} on"]
    except (TypeError, ValueError, RecursionError) as error:
        return b"", [f"line {number}: not JSON ({shorten(str(error))})"]
    if not isinstance(request, Mapping):
        return b"", [f"line {number}: a JSON object is needed, not {type(request).__name__}"]
    wrong = []
    custom_id = request.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        wrong.append(f"custom_id must be a string, got {shorten(repr(custom_id), 50)}")
    elif (first := lines.setdefault(custom_id, number)) != number:
        wrong.append(f"custom_id {shorten(repr(custom_id), 80)} is that of line {first} too")
    if request.get("method") != "POST":
        wrong.append(f"method must be POST, got {shorten(repr(request.get('method')), 50)}")
    if request.get("url") != endpoint:
        wrong.append(f"url must be the batch's endpoint {endpoint}, got {shorten(repr(request.get('url')), 80)}")
    if not isinstance(request.get("body"), Mapping):
        wrong.append(f"body must be a JSON object, got {type(request.get('body')).__name__}")
    return line + b"\n", [f"line {number}: {problem}" for problem in wrong]


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


class Tally:
    """
    What a JSONL file holds, counted as it streams by.

    :ivar bytes: its size
    :ivar lines: how many lines of it are not empty
    :ivar custom_ids: those found in them
    :ivar doubled: those found more than once
    """

    def __init__(self) -> None:
        self.bytes = self.lines = 0
        self.custom_ids: set[str] = set()
        self.doubled: set[str] = set()
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
        """Count what came since the last end of a line, as at the end of the file."""
        line, self._line, length, self._length = b"".join(self._line), [], self._length, 0
        self.lines += bool(length > _MAX_LINE or line.strip())
        with suppress(ValueError, RecursionError, AttributeError):
            custom_id = json.loads(line).get("custom_id")
            if isinstance(custom_id, str):
                (self.doubled if custom_id in self.custom_ids else self.custom_ids).add(custom_id)

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
    tally: Tally

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        tally = self.tally
        return {
            "file_id": self.file_id,
            "path": self.path,
            "bytes": tally.bytes,
            "lines": tally.lines,
            "sha256": tally.sha256,
        }


def is_certainly_whole(batch: Batch, output: Download | None, error: Download | None) -> bool:
    """Whether the files hold an answer to each request of the batch, as far as its own count tells."""
    return _counts_match(batch, output, error) is True and not _doubled(output, error)


def manifest(batch: Batch, output: Download | None, error: Download | None, asked: set[str] | None) -> dict[str, Any]:
    """
    Return, as JSON types, what was downloaded of a batch and whether it is all.

    :param asked: the ``custom_id`` of each of its requests, if that had to be found out
    """
    missing = asked
    if asked is not None:
        missing = asked.difference(*(file.tally.custom_ids for file in (output, error) if file))
    elif is_certainly_whole(batch, output, error):
        missing = set()
    doubled = _doubled(output, error)
    return {
        "batch_id": batch.id,
        "status": batch.status.value,
        "output": output and output.to_dict(),
        "error": error and error.to_dict(),
        "request_counts": vars(batch.request_counts).copy(),
        "counts_match": _counts_match(batch, output, error),
        "missing": None if missing is None else storable(sorted(missing)[:_MAX_NAMED]),
        "missing_count": None if missing is None else len(missing),
        "doubled": storable(sorted(doubled)[:_MAX_NAMED]),
        "doubled_count": len(doubled),
    }


def _counts_match(batch: Batch, output: Download | None, error: Download | None) -> bool | None:
    if batch.request_counts.total is None:
        return None
    return sum(file.tally.lines for file in (output, error) if file) == batch.request_counts.total


def _doubled(output: Download | None, error: Download | None) -> set[str]:
    tallies = [file.tally for file in (output, error) if file]
    doubled: set[str] = set().union(*(tally.doubled for tally in tallies))
    return doubled | (tallies[0].custom_ids & tallies[1].custom_ids if len(tallies) == 2 else set())


class Meter:
    """Logs, every few seconds, how far a transfer is and how fast."""

    def __init__(self, log: Log, what: str, total: int | None = None, every: float = 5.0) -> None:
        self._log = log
        self._what = what
        self._total = "" if total is None else f" of {total / _MEBI:,.1f}"
        self._every = every
        self._began = self._told = time.monotonic()
        self._bytes = 0

    def add(self, count: int) -> None:
        """Take note of bytes that went."""
        self._bytes += count
        now = time.monotonic()
        if now - self._told >= self._every:
            self._told = now
            self._tell(now)

    def _tell(self, now: float) -> None:
        rate = self._bytes / _MEBI / max(now - self._began, 1e-6)
        self._log.info("%s: %.1f%s MiB, %.1f MiB/s.", self._what, self._bytes / _MEBI, self._total, rate)


def storage_path(path: AnyPath) -> ObjectStoragePath:
    """Return a path or URL as Airflow's object storage has it."""
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    if isinstance(path, ObjectStoragePath):
        return path
    text = os.fspath(path).strip() if isinstance(path, (str, os.PathLike)) else ""
    if text in ("", "None"):
        raise PortkeyInputError(
            f"path is {shorten(repr(path))}: did the task that should have handed it over push one?"
        )
    # Airflow 2.11 and 3.1 take a relative path for one from the root.
    try:
        found = ObjectStoragePath(text if "://" in text else os.path.abspath(text))  # noqa: PTH100
        found.fs  # noqa: B018 - it is looked for here
    except ValueError as error:
        raise PortkeyInputError(
            f"{shorten(text)!r} can't be reached: {error}. Is the Airflow provider for that storage installed, such as "
            "apache-airflow-providers-amazon[s3fs] for s3?"
        ) from None
    return found


@contextmanager
def written_whole(path: ObjectStoragePath) -> Iterator[IO[bytes]]:
    """Give a file that is to be under ``path`` once all of it is written, and leaves no trace otherwise."""
    if path.protocol in ("", "file", "local") and path.is_dir():
        # To move a file there would put it into the folder, under the wrong name.
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    # A name of its own, so that an attempt that is believed dead does not write into this one's.
    part = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        try:
            file = part.open("wb")  # type: ignore[no-untyped-call]
        except FileNotFoundError:  # only where there are folders
            path.parent.mkdir(parents=True, exist_ok=True)
            file = part.open("wb")  # type: ignore[no-untyped-call]
        with file:
            yield file
        path.fs.mv(part.path, path.path)
    except BaseException:
        with suppress(Exception):
            part.unlink()
        raise
