"""Paths of Airflow's object storage, and files that are there whole or not at all."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_portkey.exceptions import PortkeyInputError
from airflow_provider_portkey.files import atomic_write, storage_path


def attach_memory_store() -> None:
    """Let Airflow reach fsspec's store in memory, which behaves as an object store does."""
    if importlib.util.find_spec("airflow.sdk") is None:  # Airflow 2
        store = importlib.import_module("airflow.io.store")
    else:
        store = importlib.import_module("airflow.sdk.io")
    store.attach("memory", fs=MemoryFileSystem())


WRITER = """
import sys
from airflow_provider_portkey.files import atomic_write, storage_path
with atomic_write(storage_path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("written", flush=True)
    sys.stdin.readline()
    file.write(b" and whole")
"""


@contextmanager
def writing_process(target: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that has written half of a file, and writes the rest when it reads a line."""
    command = [sys.executable, "-c", WRITER, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def killed_in_mid_write(target: Path) -> Iterator[None]:
    with writing_process(target) as process:
        process.kill()
        process.wait()
        yield


class TestAtomicWrite:
    @pytest.fixture(params=["local", "file://", "memory://"])
    def folder(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStoragePath]:
        if request.param == "memory://":
            attach_memory_store()
            yield storage_path("memory://bucket/results")
            MemoryFileSystem.store.clear()
            MemoryFileSystem.pseudo_dirs[:] = [""]
        else:
            yield storage_path(f"{'' if request.param == 'local' else 'file://'}{tmp_path}/results")

    def files_in(self, folder: ObjectStoragePath) -> dict[str, bytes]:
        return {path.name: bytes(path.read_bytes()) for path in folder.iterdir()} if folder.exists() else {}

    def test_a_file_appears_when_it_is_complete(self, folder: ObjectStoragePath) -> None:
        path = folder / "output.jsonl"
        with atomic_write(path) as file:  # Makes the folder, in a storage that has folders.
            file.write(b"one\n")
            assert not path.exists()
            file.write(b"two\n")
        assert self.files_in(folder) == {"output.jsonl": b"one\ntwo\n"}

    def test_a_file_replaces_an_older_longer_one(self, folder: ObjectStoragePath) -> None:
        for content in (b"a long one", b"new"):
            with atomic_write(folder / "output.jsonl") as file:
                file.write(content)
        assert self.files_in(folder) == {"output.jsonl": b"new"}

    @pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=repr)
    def test_an_error_during_the_write_leaves_what_was_there(
        self, folder: ObjectStoragePath, error: BaseException
    ) -> None:
        path = folder / "output.jsonl"

        def fail_during_write() -> None:
            with atomic_write(path) as file:
                file.write(b"half")
                file.flush()
                raise error

        with pytest.raises(type(error)):
            fail_during_write()
        assert self.files_in(folder) == {}
        with atomic_write(path) as file:
            file.write(b"old")
        with pytest.raises(type(error)):
            fail_during_write()
        assert self.files_in(folder) == {"output.jsonl": b"old"}

    def test_a_failed_rename_leaves_no_file(self, folder: ObjectStoragePath, monkeypatch: pytest.MonkeyPatch) -> None:
        path = folder / "output.jsonl"

        def fail(*_: object, **__: object) -> None:
            raise PermissionError("no")

        monkeypatch.setattr(Path, "replace", fail)
        monkeypatch.setattr(MemoryFileSystem, "cp_file", fail)
        with pytest.raises(PermissionError), atomic_write(path) as file:
            file.write(b"whole")
        assert self.files_in(folder) == {}

    def test_two_concurrent_writes_do_not_mix(self, folder: ObjectStoragePath) -> None:
        path = folder / "output.jsonl"
        with atomic_write(path) as one:
            one.write(b"one")
            with atomic_write(path) as two:
                two.write(b"two")
            assert self.files_in(folder)["output.jsonl"] == b"two"
            one.write(b" and more")
        assert self.files_in(folder) == {"output.jsonl": b"one and more"}

    def test_a_name_with_the_characters_of_a_pattern_is_a_name(self, folder: ObjectStoragePath) -> None:
        path = folder / "a?b" / "[c]*" / "output*.jsonl"
        with atomic_write(path) as file:
            file.write(b"new")
        assert self.files_in(path.parent) == {"output*.jsonl": b"new"}

    @pytest.mark.parametrize("name", ["o" * 255, "é" * 127], ids=["ASCII", "not ASCII"])
    def test_the_longest_name_can_be_written(self, name: str, folder: ObjectStoragePath) -> None:
        with atomic_write(folder / name) as file:
            file.write(b"new")
        assert self.files_in(folder) == {name: b"new"}

    def test_a_killed_process_leaves_no_half_file_and_the_next_run_removes_its_part(self, tmp_path: Path) -> None:
        target = tmp_path / "output.jsonl"
        target.write_bytes(b"old")
        with killed_in_mid_write(target):
            [part] = tmp_path.glob(".*.part")
            assert target.read_bytes() == b"old"
        with atomic_write(storage_path(target)) as file:
            assert not part.exists()
            file.write(b"new")
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"output.jsonl": b"new"}

    def test_the_part_of_another_target_and_of_a_live_process_stay(self, tmp_path: Path) -> None:
        other = tmp_path / ".error.jsonl.0123abcd.part"
        other.write_bytes(b"half")
        with writing_process(tmp_path / "output.jsonl") as process:
            [part] = tmp_path.glob(".output*.part")
            with atomic_write(storage_path(tmp_path / "output.jsonl")) as file:
                file.write(b"new")
            assert part.exists()
            process.communicate(b"\n", timeout=30)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
            "output.jsonl": b"half and whole",
            other.name: b"half",
        }

    @pytest.mark.parametrize("prefix", ["", "file://"], ids=["a path", "a URL"])
    def test_a_folder_is_not_replaced_by_a_file(self, prefix: str, tmp_path: Path) -> None:
        for path in (f"{prefix}{tmp_path}", f"{prefix}{tmp_path}/"):
            with pytest.raises(IsADirectoryError, match=str(tmp_path)), atomic_write(storage_path(path)) as file:
                file.write(b"x")
        assert list(tmp_path.iterdir()) == []


class TestStoragePath:
    @pytest.mark.parametrize(("path", "shown"), [("", "''"), ("  ", "' '"), ("None", "'None'"), (None, "None")])
    def test_a_path_that_was_not_pushed_to_xcom_raises_an_input_error(self, path: Any, shown: str) -> None:
        with pytest.raises(PortkeyInputError) as caught:
            storage_path(path)
        assert str(caught.value) == f"path is {shown}: the upstream task pushed no value to XCom"

    def test_a_folder_of_digits_that_native_rendering_made_a_number_is_its_digits(self) -> None:
        assert storage_path(20261125).name == "20261125"  # type: ignore[arg-type]

    @pytest.mark.parametrize("path", [5.5, b"x", ["x"]], ids=repr)
    def test_a_value_that_is_not_a_path_raises_an_input_error(self, path: Any) -> None:
        with pytest.raises(PortkeyInputError, match=f"path must be a string or a path, got {type(path).__name__}"):
            storage_path(path)

    def test_a_path_may_be_text_a_url_a_path_or_an_object_storage_path(self, tmp_path: Path) -> None:
        (tmp_path / "a b.jsonl").write_bytes(b"x")
        text = f"{tmp_path}/a b.jsonl"
        for path in (text, f" {text}\n", f"file://{text}", Path(text), ObjectStoragePath(text)):
            assert storage_path(path).read_bytes() == b"x"
        path = ObjectStoragePath(text)
        assert storage_path(path) is path

    @pytest.mark.parametrize("path", ["nowhere://bucket/x", "az://conn@container/x"])
    def test_a_storage_without_its_airflow_provider_raises_an_input_error(self, path: str) -> None:
        with pytest.raises(PortkeyInputError) as caught:
            storage_path(path)
        first_line, details = str(caught.value).split("\n", 1)
        scheme = path.partition(":")[0]
        assert first_line == f"No file system for '{scheme}' paths: install the Airflow provider that has it"
        assert details.startswith(f"'{path}': ")
        assert "apache-airflow-providers-amazon[s3fs]" in details

    def test_a_relative_path_begins_in_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with atomic_write(storage_path("results/output.jsonl")) as file:
            file.write(b"x")
        assert (tmp_path / "results" / "output.jsonl").read_bytes() == b"x"

    def test_a_tilde_is_the_home_of_the_worker(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        assert storage_path("~/results").path == f"{tmp_path}/results"
        assert storage_path(Path("~")).path == str(tmp_path)

    @pytest.mark.parametrize("path", ["/data/{}/x", "file:///data/{}", "{}"])
    def test_a_name_that_no_local_disk_accepts_raises_an_input_error(self, path: str) -> None:
        with pytest.raises(PortkeyInputError, match=r"^path has a name of 300 bytes: use at most 255\n"):
            storage_path(path.format("é" * 150))
