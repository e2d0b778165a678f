"""Files on local disk and in any object storage that Airflow supports: paths, whole writes, a transfer's progress."""

from __future__ import annotations

import errno
import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from airflow_provider_portkey.batch import as_text
from airflow_provider_portkey.exceptions import PortkeyInputError
from airflow_provider_portkey.problems import NOTHING_SENT
from airflow_provider_portkey.text import message, shorten

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_portkey.wait import Log

    AnyPath: TypeAlias = str | os.PathLike[str] | ObjectStoragePath

_MEBI = 2**20

# The protocols of local disk, and of other file systems that show a file while it is written, but rename it at once.
_LOCAL = ("", "file", "local")
_RENAMED = ("memory", "sftp", "ssh", "smb", "hdfs", "webhdfs")
_PART = ".part"
# How many bytes a name may have on local disk.
_MAX_NAME = 255


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
    local = os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111
    try:
        found = ObjectStoragePath(text if "://" in text else local)
        found.fs  # noqa: B018 - raises if there is no such file system
    except ValueError as error:
        scheme = text.partition("://")[0]
        raise PortkeyInputError(
            message(
                f"No file system for {shorten(scheme, 20)!r} paths: install the Airflow provider that has it",
                f"{shorten(text)!r}: {error}. For s3 that is apache-airflow-providers-amazon[s3fs].",
            )
        ) from None
    longest = max(len(name.encode(errors="replace")) for name in found.path.split("/"))
    if found.protocol in _LOCAL and longest > _MAX_NAME:
        raise PortkeyInputError(
            message(f"path has a name of {longest} bytes: use at most {_MAX_NAME}", shorten(text), NOTHING_SENT)
        )
    return found


def as_template(path: Any) -> Any:
    """Return a path as text, and anything else as it is: Airflow renders the templates in text alone."""
    return str(path) if isinstance(path, os.PathLike) or hasattr(path, "fs") else path


@contextmanager
def atomic_write(path: ObjectStoragePath) -> Iterator[IO[bytes]]:
    """
    Yield a file that appears under ``path`` once all of it is written, and leaves no trace otherwise.

    On local disk, the parts of ``path`` that killed processes left behind are removed.
    """
    write = _replace if path.protocol in _LOCAL else _rename if path.protocol in _RENAMED else _put
    with write(path) as file:
        yield file


@contextmanager
def _put(path: ObjectStoragePath) -> Iterator[IO[bytes]]:
    # An object store keeps an object when its file is closed, and then all of it. Moving an object there would list,
    # copy and delete, which needs more permissions, stores another version, and takes some names for patterns.
    file = path.fs.open(path.path, "wb")
    try:
        yield file
        file.close()
    except BaseException:
        with suppress(Exception):
            file.discard()
        # Python closes a file when it collects it, which would put what there is.
        with suppress(Exception):
            file.closed = True
        raise


@contextmanager
def _rename(path: ObjectStoragePath) -> Iterator[IO[bytes]]:
    part = path.parent / _part_name(path)
    try:
        try:
            file = path.fs.open(part.path, "wb")
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.fs.open(part.path, "wb")
        with file:
            yield file
        if path.protocol == "memory":  # its move takes some names for patterns
            path.fs.cp_file(part.path, path.path)
            path.fs.rm_file(part.path)
        else:
            path.fs.mv(part.path, path.path)
    except BaseException:
        with suppress(Exception):
            path.fs.rm_file(part.path)
        raise


@contextmanager
def _replace(path: ObjectStoragePath) -> Iterator[IO[bytes]]:
    target = Path(path.path)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned_parts(path)
    part, file = _open_locked(path)
    with file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())  # NFS reports a full disk here
            part.replace(target)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise


def _open_locked(path: ObjectStoragePath) -> tuple[Path, IO[bytes]]:
    """Open a part on local disk. While it is open, it is locked, so that nobody removes it."""
    while True:
        part = Path(path.parent.path) / _part_name(path)
        file = part.open("wb")
        with suppress(OSError):  # a file system without locks: nobody removes anything there
            fcntl.flock(file, fcntl.LOCK_EX)
        if part.exists():
            return part, file
        file.close()  # another process removed it before it was locked


def _remove_abandoned_parts(path: ObjectStoragePath) -> None:
    """
    Remove the parts whose writers were killed.

    The operating system releases a process's locks when it ends, however it does. NFS passes locks to other hosts.
    """
    with suppress(OSError):
        for part in Path(path.parent.path).iterdir():
            if part.name.startswith(_part_prefix(path)) and part.suffix == _PART:
                with suppress(OSError), part.open("r+b") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    part.unlink()


def _part_name(path: ObjectStoragePath) -> str:
    # Unique, so that an attempt that Airflow believes dead does not write into the part of the next one.
    return f"{_part_prefix(path)}{uuid.uuid4().hex[:8]}{_PART}"


def _part_prefix(path: ObjectStoragePath) -> str:
    return f".{path.name[:50]}."  # a whole name could make the part's too long


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
