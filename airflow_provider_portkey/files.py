"""Files on local disk and in any object storage that Airflow supports: paths, whole writes, a transfer's progress."""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, TypeAlias

from airflow_provider_portkey.batch import as_text
from airflow_provider_portkey.exceptions import PortkeyInputError
from airflow_provider_portkey.text import message, shorten

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_portkey.wait import Log

    AnyPath: TypeAlias = str | os.PathLike[str] | ObjectStoragePath

_MEBI = 2**20


def storage_path(path: AnyPath) -> ObjectStoragePath:
    """
    Return a path or URL as a path of Airflow's object storage.

    :raises PortkeyInputError: if it is none, or its file system is not installed
    """
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    if isinstance(path, ObjectStoragePath):
        return path
    path = as_text(path)
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
