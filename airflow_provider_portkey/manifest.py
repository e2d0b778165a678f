"""
What was downloaded of a batch, and whether it is complete: rows, counted while they stream, and the manifest of them.

Nothing is reported as fine that was not seen: what cannot be determined is ``None``.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

from airflow_provider_portkey.answers import (
    EMPTY,
    MAX_ROW_BYTES,
    ROW_END_BYTES,
    UNREADABLE,
    AnswerError,
    Usage,
    figures_reader,
    read_row,
)
from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.text import sanitize_text, shorten

Source = Literal["files", "output"]

# How many requests and kinds of errors a manifest names, and how many kinds of errors and models are told apart, so
# that memory stays flat whatever a file holds.
_MAX_NAMED, _MAX_LISTED, _MAX_KINDS = 100, 10, 1000
_UNKNOWN_MODEL = "unknown"
#: What is counted for each model.
_NUMBERS = ("requests", *(field.name for field in fields(Usage)))
_OTHER = AnswerError("other", "further kinds of errors")
# How much of an error is compared.
_MAX_ERROR = 1000


class FileStats:
    """
    What a JSONL file holds, counted while it streams.

    :ivar bytes: its size
    :ivar lines: how many rows it has: lines that are not empty
    :ivar answered: how many of them are answers
    :ivar failed: how many are errors, or cannot be read
    :ivar unreadable: how many are neither an answer nor an error of a provider
    :ivar anonymous: how many do not name their request
    :ivar custom_ids: the requests that the others name
    :ivar duplicates: those that more than one row names
    :ivar usage: for each model that answered, how many answers it gave, and their tokens: ``None`` if an answer does
        not report them
    :ivar errors: how many rows have each kind of error
    :param redact: removes secrets, which a provider's error may quote
    """

    def __init__(self, redact: Callable[[str], str] = str) -> None:
        self.bytes = self.lines = self.answered = self.failed = self.unreadable = self.anonymous = 0
        self.custom_ids: set[str] = set()
        self.duplicates: set[str] = set()
        self.usage: dict[str, dict[str, int | None]] = {}
        self.errors: Counter[AnswerError] = Counter()
        self._redact = redact
        self._digest = hashlib.sha256()
        self._row: list[bytes] = []
        self._length = 0
        self._end = b""

    @property
    def sha256(self) -> str:
        """Of the content so far, in hexadecimal."""
        return self._digest.hexdigest()

    @property
    def has_readable_rows(self) -> bool:
        """Whether any row is an answer or an error of a provider, or at least names its request."""
        return bool(self.custom_ids) or self.lines > self.unreadable

    def add(self, chunk: bytes) -> None:
        """Count a piece of the file."""
        self.bytes += len(chunk)
        self._digest.update(chunk)
        first, *others = chunk.split(b"\n")
        self._extend(first)
        if others:
            self.end_line()
            last = others.pop()
            for row in others:
                self._count(row)
            self._extend(last)

    def end_line(self) -> None:
        """Count what came since the last line feed, as at the end of the file."""
        row = b"".join(self._row) + self._end
        self._row, self._length, self._end = [], 0, b""
        self._count(row)

    def _count(self, row: bytes) -> None:
        if len(row) <= MAX_ROW_BYTES and (figures := figures_reader()(row)) is not None:
            self.lines += 1
            self.answered += 1
            _add_usage(self.usage, figures.model, (1, *figures.tokens))
            self._add_id(figures.custom_id)
        elif row.strip():
            self._count_whole(row)

    def _count_whole(self, row: bytes) -> None:
        self.lines += 1
        answer = read_row(row)
        if answer.error is None:
            self.answered += 1
            _add_usage(self.usage, answer.model or _UNKNOWN_MODEL, (1, *vars(answer.usage).values()))
        else:
            self.failed += 1
            kind = error_kind(answer.error, self._redact)
            self.errors[kind if kind in self.errors or len(self.errors) < _MAX_KINDS else _OTHER] += 1
            self.unreadable += answer.error.code in (UNREADABLE, EMPTY)
        if answer.custom_id is None:
            self.anonymous += 1
        else:
            self._add_id(answer.custom_id)

    def _add_id(self, custom_id: str) -> None:
        (self.duplicates if custom_id in self.custom_ids else self.custom_ids).add(custom_id)

    def _extend(self, piece: bytes) -> None:
        # Of a row that is too large to be parsed, the beginning and the end are kept.
        left = max(0, MAX_ROW_BYTES - self._length)
        self._row.append(piece[:left])
        self._end = (self._end + piece[left:])[-ROW_END_BYTES:]
        self._length += len(piece)


def error_kind(error: AnswerError, redact: Callable[[str], str] = str) -> AnswerError:
    """Return an error without what differs between requests that failed for one reason: ids and numbers."""
    text = re.sub(r"[\w-]*\d(?:[\w.,:/-]*\w)?", "…", redact(error.message[:_MAX_ERROR])[:_MAX_ERROR])
    return AnswerError(shorten(redact(error.code[:_MAX_ERROR]), 100), shorten(text))


def commonest(errors: Counter[AnswerError]) -> list[dict[str, Any]]:
    """Return the kinds of errors that most requests have, as JSON types: ``code``, ``message`` and ``count``."""
    return [{**vars(kind), "count": count} for kind, count in errors.most_common(_MAX_LISTED)]


def commonest_text(errors: Counter[AnswerError]) -> str:
    """Return the same as text, a line each."""
    return "\n".join(f"  {count:,} x {kind.code}: {kind.message}" for kind, count in errors.most_common(_MAX_LISTED))


def _add_usage(usage: dict[str, dict[str, int | None]], model: str, numbers: Iterable[int | None]) -> None:
    """Add ``numbers``, in the order of :data:`_NUMBERS`, to those of a model."""
    known = usage.get(model)
    if known is None:
        model = shorten(model, 100)
        model = model if model in usage or len(usage) < _MAX_KINDS else _OTHER.code
        known = usage.setdefault(model, dict.fromkeys(_NUMBERS, 0))
    for name, number in zip(_NUMBERS, numbers, strict=True):
        before = known[name]
        known[name] = None if before is None or number is None else before + number


@dataclass(frozen=True)
class Download:
    """
    A file that was downloaded.

    :param file_id: the provider's file; ``None`` for the output that Portkey makes of a batch
    :param path: where it is
    :param stats: what it holds
    """

    file_id: str | None
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


def manifest(
    batch: Batch, source: Source, downloads: dict[str, Download | None], asked: set[str] | None
) -> dict[str, Any]:
    """
    Return, as JSON types, what was downloaded of a batch and whether it is complete.

    :param source: where it came from
    :param downloads: what is in ``output`` and ``error``
    :param asked: the ``custom_id`` of each request of the batch, ``None`` if they are not known
    """
    stats = [download.stats for download in downloads.values() if download]
    found: set[str] = set().union(*(of_file.custom_ids for of_file in stats))
    duplicates = _duplicates(stats)
    anonymous = sum(of_file.anonymous for of_file in stats)
    missing = None if asked is None else asked - found
    unknown = anonymous + (0 if asked is None else len(found - asked))
    total = batch.request_counts.total
    counts_match: bool | None = None
    if total is not None:
        complete = not missing and not unknown and not duplicates
        counts_match = complete and sum(of_file.lines for of_file in stats) == total
    if asked is None and counts_match:
        counts_match = None  # the rows may answer the requests of another batch
    usage: dict[str, dict[str, int | None]] = {}
    errors: Counter[AnswerError] = Counter()
    for of_file in stats:
        errors += of_file.errors
        for model, numbers in of_file.usage.items():
            _add_usage(usage, model, numbers.values())
    return {
        "batch_id": batch.id,
        "status": batch.status.value,
        "source": source,
        **{name: download and download.to_dict() for name, download in downloads.items()},
        "request_counts": vars(batch.request_counts).copy(),
        "counts_match": counts_match,
        "answered": sum(of_file.answered for of_file in stats),
        "failed": sum(of_file.failed for of_file in stats),
        "unknown": unknown,
        "missing": _named(missing),
        "missing_count": None if missing is None else len(missing),
        "duplicates": _named(duplicates),
        "duplicate_count": len(duplicates),
        "usage": usage,
        "errors": commonest(errors),
    }


def _duplicates(stats: Iterable[FileStats]) -> set[str]:
    seen: set[str] = set()
    duplicates: set[str] = set()
    for of_file in stats:
        duplicates |= of_file.duplicates | (seen & of_file.custom_ids)
        seen |= of_file.custom_ids
    return duplicates


def _named(ids: set[str] | None) -> Any:
    return None if ids is None else sanitize_text(sorted(ids)[:_MAX_NAMED])
