"""Downloads to Amazon S3, as s3fs writes them: a role that may only put, names with special characters, versions."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import logging
import sys
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
import requests

from airflow_provider_portkey.files import atomic_write, storage_path
from airflow_provider_portkey.operators.batch import PortkeyDownloadBatchOperator
from tests.providers.storage import S3, SIGNED, TIMEOUT, Storage, install_s3fs
from tests.server.batches import input_line, output_line
from tests.server.standin import Answer, StandIn, batch_body
from tests.support.recorder import Recorder

#: Enough for an upload in several parts.
LARGE = 60 * 2**20

_buckets = count(1)


@pytest.fixture(scope="module")
def s3_storage() -> Iterator[tuple[Storage, Any]]:
    """Run S3 in a process of its own, and return it with s3fs's access to it as a user who may only put."""
    sys.path.append(str(install_s3fs()))
    s3fs = importlib.import_module("s3fs")
    with Storage() as storage:
        fs = s3fs.S3FileSystem(**storage.put_only_options())
        yield storage, fs
    sys.path.remove(str(install_s3fs()))


@pytest.fixture
def s3(s3_storage: tuple[Storage, Any]) -> Iterator[S3]:
    storage, fs = s3_storage
    store = "airflow.sdk.io" if importlib.util.find_spec("airflow.sdk") else "airflow.io.store"
    importlib.import_module(store).attach("s3", conn_id="put_only", fs=fs)
    s3 = S3(storage.bucket("s3", f"results-{next(_buckets)}"))
    s3.enforce(permissions=True)
    yield s3
    s3.enforce(permissions=False)


def test_the_role_may_neither_read_nor_list_nor_delete(s3: S3) -> None:
    with atomic_write(storage_path(s3.path("x"))) as file:
        file.write(b"x")
    path = storage_path(s3.path("x"))
    for call in (path.read_bytes, lambda: list(path.parent.iterdir()), path.unlink):
        with pytest.raises(PermissionError):
            call()


@pytest.mark.parametrize("size", [0, 5, LARGE], ids=["empty", "small", "large"])
def test_a_role_that_may_only_put_writes_a_file(size: int, s3: S3) -> None:
    with atomic_write(storage_path(s3.path("results/output.jsonl"))) as file:
        for _ in range(0, size, 2**20):
            file.write(b"x" * min(size, 2**20))
    assert len(s3.read("results/output.jsonl") or b"") == size
    assert s3.listed("list-type=2") == ["results/output.jsonl"]


@pytest.mark.parametrize("key", ["a?b/[c]*/output.jsonl", "*/x?y", "[!a]/x#y/é z"])
def test_a_name_with_the_characters_of_a_pattern_is_a_name(key: str, s3: S3) -> None:
    with atomic_write(storage_path(s3.path(key))) as file:
        file.write(b"new")
    assert s3.read(key) == b"new"


def test_keys_below_the_target_do_not_move_it(s3: S3) -> None:
    s3.enforce(permissions=False)
    s3.bucket.write("output.jsonl/below", b"other")
    with atomic_write(storage_path(s3.path("output.jsonl"))) as file:
        file.write(b"new")
    assert (s3.read("output.jsonl"), s3.read("output.jsonl/below")) == (b"new", b"other")


@pytest.mark.parametrize("size", [5, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("error", [OSError("connection lost"), KeyboardInterrupt()], ids=repr)
def test_an_error_during_the_write_leaves_what_was_there(size: int, error: BaseException, s3: S3) -> None:
    def fail_during_write() -> None:
        with atomic_write(storage_path(s3.path("output.jsonl"))) as file:
            for _ in range(0, size, 2**20):
                file.write(b"x" * min(size, 2**20))
            raise error

    s3.enforce(permissions=False)
    s3.bucket.write("output.jsonl", b"old")
    with pytest.raises(type(error)):
        fail_during_write()
    error.__traceback__ = None
    gc.collect()  # Python closes a file that it collects.
    assert s3.read("output.jsonl") == b"old"
    assert s3.listed("uploads") == []


def test_a_versioned_bucket_stores_a_file_once(s3: S3) -> None:
    s3.enforce(permissions=False)
    enabled = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    url = f"{s3.bucket.url}/{s3.bucket.name}?versioning"
    requests.put(url, enabled, headers=SIGNED, timeout=TIMEOUT).raise_for_status()
    with atomic_write(storage_path(s3.path("output.jsonl"))) as file:
        file.write(b"new")
    assert s3.listed("versions") == ["output.jsonl"]


def test_a_put_that_is_refused_is_an_error(s3: S3) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(storage_path("s3://put_only@no-such-bucket/x")) as file:
        file.write(b"x")


@pytest.mark.usefixtures("connection")
def test_a_role_that_may_only_put_downloads_a_batch(standin: StandIn, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {"input_file_id": "in", "output_file_id": "out", "error_file_id": None}
    counts = {"request_counts": {"total": 1, "completed": 1, "failed": 0}}
    standin.script("batch_1", Answer(body=batch_body("batch_1", "completed", **members, **counts)))
    standin.files |= {"in": input_line("a"), "out": output_line("a")}
    log = Recorder()
    logger = logging.Logger("recorded")
    logger.addHandler(log)
    monkeypatch.setattr(PortkeyDownloadBatchOperator, "log", logger)
    context: Any = {}

    operator = PortkeyDownloadBatchOperator(task_id="x", batch_id="batch_1", path=s3.path("results"))
    manifest = operator.execute(context)

    assert manifest["counts_match"] is True
    assert manifest["output"]["path"] == s3.path("results/output.jsonl")
    assert s3.read("results/output.jsonl") == output_line("a")
    assert json.loads(s3.read("results/manifest.json") or b"") == manifest | {"task": None}
    unseen = [text.partition(": ")[0] for text in log.messages(logging.WARNING)]
    assert unseen[0] == f"Cannot read {s3.path('results/manifest.json')}"
    assert unseen[1].startswith(f"Cannot remove {s3.path('results/error.jsonl')}, which a previous run may have left.")
    assert len(unseen) == 2
