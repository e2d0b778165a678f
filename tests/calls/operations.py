"""The calls of the hook that change something or transfer a file, as data."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from airflow_provider_portkey.hooks.portkey import read_file_stats
from airflow_provider_portkey.manifest import FileStats
from tests.calls.world import CallWorld


@dataclass(frozen=True)
class Call:
    """A call of the hook, the HTTP request that it sends, and how to see that it took effect."""

    name: str
    run: Callable[[CallWorld], Any]
    method: str
    path: str
    #: What error messages say that the call was doing.
    subject: str
    #: Whether it took effect, and returned what it should.
    took_effect: Callable[[CallWorld], bool]


def was_uploaded(world: CallWorld) -> bool:
    last = world.standin.uploads[-1]
    return (last.filename, last.purpose, last.sha256, last.file_id) == (
        "requests.jsonl",
        "batch",
        hashlib.sha256(world.content).hexdigest(),
        world.returned,
    )


def one_batch_was_created(world: CallWorld) -> bool:
    return [batch.id for batch in world.standin.batches] == [world.returned.id]


def all_batches_were_listed(world: CallWorld) -> bool:
    return [batch.id for batch in world.returned] == [batch.id for batch in reversed(world.standin.batches)]


def batch_was_cancelled(world: CallWorld) -> bool:
    return set(world.standin.cancelled) == {"batch_1"}


def was_downloaded(world: CallWorld) -> bool:
    return world.target_files == {"output.jsonl": world.content} and has_stats(world.returned.stats, world.content)


def file_was_counted(world: CallWorld) -> bool:
    return world.target_files == {} and has_stats(world.returned, world.content)


def has_stats(stats: FileStats, content: bytes) -> bool:
    lines = content.count(b"\n")
    figures = (stats.bytes, stats.lines, len(stats.custom_ids), len(stats.duplicates), stats.sha256)
    return figures == (len(content), lines, lines, 0, hashlib.sha256(content).hexdigest())


UPLOAD = Call(
    "upload",
    lambda world: world.hook.upload_file(world.source),
    "POST",
    "/v1/files",
    "uploading file 'requests.",
    was_uploaded,
)
CREATE = Call(
    "create",
    CallWorld.create_batch,
    "POST",
    "/v1/batches",
    "creating a batch from file 'file-in'",
    one_batch_was_created,
)
LIST = Call(
    "list",
    lambda world: list(world.hook.list_batches()),
    "GET",
    "/v1/batches",
    "listing batches",
    all_batches_were_listed,
)
CANCEL = Call(
    "cancel",
    lambda world: world.hook.cancel_batch("batch_1"),
    "POST",
    "/v1/batches/batch_1/cancel",
    "cancelling batch 'batch_1'",
    batch_was_cancelled,
)
#: The same over the other HTTP library, as a trigger cancels.
ASYNC_CANCEL = Call(
    "async cancel",
    lambda world: asyncio.run(world.hook.acancel_batch("batch_1")),
    "POST",
    "/v1/batches/batch_1/cancel",
    "cancelling batch 'batch_1'",
    batch_was_cancelled,
)
DOWNLOAD = Call(
    "download",
    lambda world: world.hook.download_file("file-1", world.target),
    "GET",
    "/v1/files/file-1/content",
    "downloading file 'file-1'",
    was_downloaded,
)
#: Reads a file without keeping it.
COUNT = Call(
    "count",
    lambda world: read_file_stats(world.hook, "file-1"),
    "GET",
    "/v1/files/file-1/content",
    "downloading file 'file-1'",
    file_was_counted,
)

#: Those that a client may repeat without harm.
REPEATABLE = [UPLOAD, LIST, CANCEL, ASYNC_CANCEL, DOWNLOAD, COUNT]
CALLS = [*REPEATABLE, CREATE]


def for_each_call(calls: list[Call]) -> pytest.MarkDecorator:
    """Parametrize a test with ``call``."""
    return pytest.mark.parametrize("call", [pytest.param(call, id=call.name) for call in calls])
