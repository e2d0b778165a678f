from __future__ import annotations

import hashlib
import importlib.util
import io
import itertools
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_portkey import files
from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.exceptions import PortkeyInputError
from airflow_provider_portkey.files import Download, Meter, Tally, manifest, storage_path, write_requests, written_whole
from tests.test_hostile import Recorder

URL = "/v1/chat/completions"


def request(custom_id: object = "a", **members: object) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": URL, "body": {"model": "m"}} | members


def line(*args: Any, **members: object) -> bytes:
    return json.dumps(request(*args, **members)).encode()


def written(source: Iterable[Any], **limits: Any) -> bytes:
    target = io.BytesIO()
    told = write_requests(source, target, endpoint=URL, **limits)
    content = target.getvalue()
    assert (told.bytes, told.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert told.count == content.count(b"\n")
    return content


def refused(source: Iterable[Any], **limits: Any) -> list[str]:
    with pytest.raises(PortkeyInputError) as caught:
        written(source, **limits)
    first, *problems = str(caught.value).split("\n")
    assert first == "This can't be the input of a batch. Nothing was sent."
    assert all(problem.startswith("  - ") for problem in problems)
    return [problem.removeprefix("  - ") for problem in problems]


class TestWriteRequests:
    def test_lines_are_written_as_they_are(self) -> None:
        # Its own spacing, escapes and order of members stay.
        odd = (
            b'{ "body":{"x":"\\u00e9\xc3\xa9"},"url":"/v1/chat/completions","method":"POST" ,"n":1.50,"custom_id":"b"}'
        )
        assert written([line(), odd]) == line() + b"\n" + odd + b"\n"

    def test_what_is_no_part_of_a_line_is_left_out(self) -> None:
        source = [b"\xef\xbb\xbf" + line("a") + b"\r\n", b"\n", b" \t\r\n", b"  " + line("b") + b"  \n", b"", line("c")]
        assert written(source) == b"".join(line(name) + b"\n" for name in "abc")

    def test_a_byte_order_mark_alone_in_its_line(self) -> None:
        assert written([b"\xef\xbb\xbf\n", line() + b"\n"]) == line() + b"\n"

    def test_a_byte_order_mark_elsewhere_is_no_json(self) -> None:
        [problem] = refused([line(), b"\xef\xbb\xbf" + line("b")])
        assert problem.startswith("line 2: not JSON")

    def test_dicts_are_filled_in(self) -> None:
        content = written([{"custom_id": "a", "body": {"n": "é"}}, request("b", url=URL), line("c")])
        assert [json.loads(text) for text in content.splitlines()] == [
            request("a", body={"n": "é"}),
            request("b"),
            request("c"),
        ]

    @pytest.mark.parametrize(
        ("item", "problem"),
        [
            (b"{", "line 1: not JSON (Expecting property name"),
            (b"[" * 100_000, "line 1: not JSON ("),
            (b"1" * 5_000, "line 1: not JSON ("),
            (b'{"a": NaN}', "line 1: not JSON (NaN is no JSON)"),
            (b'{"a": -Infinity}', "line 1: not JSON (-Infinity is no JSON)"),
            (b'{"custom_id": "\xff"}', "line 1: not UTF-8, from byte 15 on"),
            (line().decode().encode("utf-16"), "line 1: not UTF-8, from byte 0 on"),
            (b"[1]", "line 1: a JSON object is needed, not list"),
            (b"null", "line 1: a JSON object is needed, not NoneType"),
            ("{}", "line 1: a JSON object is needed, not str"),
            (None, "line 1: a JSON object is needed, not NoneType"),
            (7, "line 1: a JSON object is needed, not int"),
            (request(body={"n": float("nan")}), "line 1: not JSON (Out of range float values"),
            (request(body={"n": {1}}), "line 1: not JSON (Object of type set"),
            (line(None), "line 1: custom_id must be a string, got None"),
            (line(5), "line 1: custom_id must be a string, got 5"),
            (line(""), "line 1: custom_id must be a string, got ''"),
            ({"body": {}}, "line 1: custom_id must be a string, got None"),
            (line(method="GET"), "line 1: method must be POST, got 'GET'"),
            (line(method=None), "line 1: method must be POST, got None"),
            (line(url="/v1/embeddings"), f"line 1: url must be the batch's endpoint {URL}, got '/v1/embeddings'"),
            (request(url=None), f"line 1: url must be the batch's endpoint {URL}, got None"),
            (line(body="{}"), "line 1: body must be a JSON object, got str"),
            (line(body=None), "line 1: body must be a JSON object, got NoneType"),
            ({"custom_id": "a"}, "line 1: body must be a JSON object, got NoneType"),
        ],
    )
    def test_each_rule(self, item: Any, problem: str) -> None:
        [told] = refused([item])
        assert told.startswith(problem)
        assert len(told) < 300

    def test_a_custom_id_that_is_doubled_names_both_lines(self) -> None:
        assert refused([line("a"), b"", line("b"), request("a")]) == ["line 4: custom_id 'a' is that of line 1 too"]

    def test_all_that_is_wrong_with_a_line_is_told(self) -> None:
        assert len(refused([b"{}"])) == 4

    def test_the_first_ten_of_many(self) -> None:
        problems = refused([b"nonsense"] * 1_500)
        assert [problem.split(":")[0] for problem in problems[:10]] == [f"line {n}" for n in range(1, 11)]
        assert problems[10:] == ["… and 1,490 more"]
        assert refused([b"nonsense"] * 10)[10:] == []
        # The tenth may be in the midst of a line's.
        assert len(refused([b"{}"] * 3)) == 11

    @pytest.mark.parametrize("source", [[], [b"", b"\n", b" \n"], [b"\xef\xbb\xbf"]])
    def test_none_at_all(self, source: list[bytes]) -> None:
        assert refused(source) == ["there is no request in it"]

    def test_too_many(self) -> None:
        requests = [line(str(n)) for n in range(3)]
        assert written([*requests, b"\n"], max_requests=3).count(b"\n") == 3
        assert refused(requests, max_requests=2) == ["more than 2 requests: use several batches"]

    def test_too_many_of_an_endless_source_ends(self) -> None:
        def endless() -> Iterator[bytes]:
            n = 0
            while n := n + 1:
                yield line(str(n))

        assert refused(endless()) == ["more than 50,000 requests: use several batches"]

    def test_too_large(self) -> None:
        size = len(line()) + 1
        assert len(written([line("a"), line("b")], max_bytes=2 * size)) == 2 * size
        problem = f"more than {2 * size - 1} bytes, reached at line 3: use several batches"
        assert refused([line("a"), b"", line("b")], max_bytes=2 * size - 1) == [problem]

    def test_too_many_is_told_first(self) -> None:
        first, *others = refused([b"nonsense"] * 20, max_requests=15)
        assert first == "more than 15 requests: use several batches"
        assert len(others) == 11

    @given(source=st.lists(st.binary(max_size=40) | st.sampled_from([line("a"), line("b"), request("c"), None, "x"])))
    def test_it_is_written_or_refused(self, source: list[Any]) -> None:
        try:
            content = written(source)
        except PortkeyInputError:
            return
        found = [json.loads(text)["custom_id"] for text in content.splitlines()]
        assert found
        assert len(found) == len(set(found))


def tally(*chunks: bytes) -> Tally:
    tally = Tally()
    for chunk in chunks:
        tally.add(chunk)
    tally.end_line()
    return tally


def told(tally: Tally) -> tuple[Any, ...]:
    return tally.bytes, tally.lines, tally.custom_ids, tally.doubled, tally.sha256


LINES = st.sampled_from(
    [line("a"), line("a") + b"\r", line("é"), b'{"custom_id": 1}', b'["custom_id"]', b"5", b"", b"  ", b"\xff{", b"{"]
) | st.binary(max_size=20)


class TestTally:
    @given(lines=st.lists(LINES), end=st.booleans(), cuts=st.lists(st.integers(0, 400)))
    def test_cuts_change_nothing(self, lines: list[bytes], end: bool, cuts: list[int]) -> None:
        content = b"\n".join(lines) + b"\n" * end
        places = [0, *sorted(cuts), len(content)]
        found: list[object] = []
        for text in content.split(b"\n"):
            with suppress(ValueError, AttributeError):
                found.append(json.loads(text).get("custom_id"))
        names = [name for name in found if isinstance(name, str)]
        assert told(tally(*(content[a:b] for a, b in itertools.pairwise(places)))) == (
            len(content),
            sum(bool(text.strip()) for text in content.split(b"\n")),
            set(names),
            {name for name in names if names.count(name) > 1},
            hashlib.sha256(content).hexdigest(),
        )

    def test_no_newline_at_the_end(self) -> None:
        whole = tally(line("a") + b"\n" + line("b"))
        assert (whole.lines, whole.custom_ids) == (2, {"a", "b"})

    def test_nothing(self) -> None:
        assert told(tally()) == (0, 0, set(), set(), hashlib.sha256().hexdigest())

    def test_a_line_too_long_to_read_is_counted(self) -> None:
        long = line("long", body={"x": "x" * 17 * 2**20}) + b"\n"
        content = line("a") + b"\n" + long + line("b")
        for step in (2**16, len(content)):
            counted = tally(*(content[n : n + step] for n in range(0, len(content), step)))
            assert told(counted) == (len(content), 3, {"a", "b"}, set(), hashlib.sha256(content).hexdigest())

    def test_a_line_too_long_to_read_is_not_held(self) -> None:
        counted = Tally()
        for _ in range(20):
            counted.add(b"x" * 2**20)
        assert sum(map(len, counted._line)) <= 16 * 2**20
        counted.add(b"\n" + line("a"))
        counted.end_line()
        assert (counted.lines, counted.custom_ids) == (2, {"a"})

    @pytest.mark.parametrize("content", [b"[" * 100_000, b"1" * 5_000, b"\x00", b'{"custom_id": null}', b"null"])
    def test_what_is_no_answer_is_a_line_all_the_same(self, content: bytes) -> None:
        assert told(tally(content))[1:4] == (1, set(), set())


def batch(total: int | None = None, **members: Any) -> Batch:
    counts = None if total is None else {"total": total, "completed": total, "failed": 0}
    return Batch.from_dict({"id": "batch_1", "status": "completed", "request_counts": counts} | members)


def download(*custom_ids: str, file_id: str = "file-1") -> Download:
    return Download(file_id, f"/x/{file_id}", tally(*(line(name) + b"\n" for name in custom_ids)))


class TestManifest:
    def test_the_files(self) -> None:
        output, error = download("a", "b"), download("c", file_id="file-2")
        told = manifest(batch(3), output, error, None)
        assert told == {
            "batch_id": "batch_1",
            "status": "completed",
            "output": {
                "file_id": "file-1",
                "path": "/x/file-1",
                "bytes": output.tally.bytes,
                "lines": 2,
                "sha256": output.tally.sha256,
            },
            "error": error.to_dict(),
            "request_counts": {"total": 3, "completed": 3, "failed": 0},
            "counts_match": True,
            "missing": [],
            "missing_count": 0,
            "doubled": [],
            "doubled_count": 0,
        }
        assert json.loads(json.dumps(told)) == told

    # The batch's total, what is in each of its files, what was asked if that was found out; whether the counts match,
    # what is missing, what is doubled.
    CASES: dict[str, tuple[Any, ...]] = {
        "all": (2, "ab", None, None, True, "", ""),
        "all, in both files": (3, "ab", "c", None, True, "", ""),
        "all, in the file of errors": (1, None, "a", None, True, "", ""),
        "one is missing, unknown which": (3, "ab", None, None, False, None, ""),
        "one is missing": (3, "ab", None, "abc", False, "c", ""),
        "too many": (1, "ab", None, "ab", False, "", ""),
        "one doubled in a file, so that the counts match": (3, "aab", None, "abc", True, "c", "a"),
        "one doubled in a file, unknown what was asked": (3, "aab", None, None, True, None, "a"),
        "one doubled across files": (3, "ab", "b", "abc", True, "c", "b"),
        "one thrice": (3, "aaa", None, None, True, None, "a"),
        "no counts": (None, "ab", None, None, None, None, ""),
        "no counts, all": (None, "ab", "c", "abc", None, "", ""),
        "no counts, one is missing": (None, "ab", None, "abc", None, "c", ""),
        "nothing": (0, None, None, None, True, "", ""),
    }

    @pytest.mark.parametrize("name", CASES)
    def test_what_is_there(self, name: str) -> None:
        total, output, error, asked, match, missing, doubled = self.CASES[name]
        output, error = (None if ids is None else download(*ids) for ids in (output, error))
        asked = None if asked is None else set(asked)
        told = manifest(batch(total), output, error, asked)
        assert told["counts_match"] is match
        assert told["missing"] == (None if missing is None else list(missing))
        assert told["missing_count"] == (None if missing is None else len(missing))
        assert (told["doubled"], told["doubled_count"]) == (list(doubled), len(doubled))
        assert files.is_certainly_whole(batch(total), output, error) == (match is True and not doubled)

    def test_the_first_hundred_of_many(self) -> None:
        names = {f"{n:04}" for n in range(1_000)}
        told = manifest(batch(1_000), download(*sorted(names)[:300] * 2), None, names)
        assert (told["missing_count"], told["doubled_count"]) == (700, 300)
        assert told["missing"] == [f"{n:04}" for n in range(300, 400)]
        assert told["doubled"] == [f"{n:04}" for n in range(100)]

    def test_names_that_no_database_takes(self) -> None:
        told = manifest(batch(2), download("\ud800", "\ud800"), None, {"a\0"})
        assert json.dumps(told, ensure_ascii=False).encode()
        assert "\\u0000" not in json.dumps(told)
        assert (told["missing_count"], told["doubled_count"]) == (1, 1)


class Kept:
    """A folder somewhere, and what is in it."""

    def __init__(self, folder: ObjectStoragePath) -> None:
        self.folder = folder

    @property
    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()} if self.folder.exists() else set()

    def content(self, name: str) -> bytes:
        return bytes((self.folder / name).read_bytes())


@pytest.fixture(params=["local", "file://", "memory://"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    if request.param == "memory://":
        attach_memory()
        path = storage_path("memory://bucket/results")
        yield Kept(path)
        MemoryFileSystem.store.clear()
        MemoryFileSystem.pseudo_dirs[:] = [""]
    else:
        yield Kept(storage_path(f"{'' if request.param == 'local' else 'file://'}{tmp_path}/results"))


def attach_memory() -> None:
    """Have Airflow reach fsspec's store in memory, which acts like an object store."""
    if importlib.util.find_spec("airflow.sdk") is None:  # Airflow 2
        store = importlib.import_module("airflow.io.store")
    else:
        store = importlib.import_module("airflow.sdk.io")
    store.attach("memory", fs=MemoryFileSystem())


class TestWrittenWhole:
    def test_it_is_there_once_it_is_whole(self, kept: Kept) -> None:
        path = kept.folder / "output.jsonl"
        with written_whole(path) as file:  # makes the folder where there are such
            file.write(b"one\n")
            assert not path.exists()
            file.write(b"two\n")
        assert kept.names == {"output.jsonl"}
        assert kept.content("output.jsonl") == b"one\ntwo\n"

    def test_it_replaces_what_was_there(self, kept: Kept) -> None:
        for content in (b"a long one", b"new"):
            with written_whole(kept.folder / "output.jsonl") as file:
                file.write(content)
        assert kept.names == {"output.jsonl"}
        assert kept.content("output.jsonl") == b"new"

    @pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=repr)
    def test_a_failure_in_mid_write_leaves_what_was_there(self, kept: Kept, error: BaseException) -> None:
        path = kept.folder / "output.jsonl"

        def break_off() -> None:
            with written_whole(path) as file:
                file.write(b"half")
                file.flush()
                raise error

        with pytest.raises(type(error)):
            break_off()
        assert kept.names == set()
        with written_whole(path) as file:
            file.write(b"old")
        with pytest.raises(type(error)):
            break_off()
        assert kept.names == {"output.jsonl"}
        assert kept.content("output.jsonl") == b"old"

    def test_a_move_that_fails_leaves_nothing_new(self, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
        path = kept.folder / "output.jsonl"

        def fail(*_: object, **__: object) -> None:
            raise PermissionError("no")

        monkeypatch.setattr(type(path.fs), "mv", fail)
        with pytest.raises(PermissionError), written_whole(path) as file:
            file.write(b"whole")
        assert kept.names == set()

    def test_two_at_once_do_not_mix(self, kept: Kept) -> None:
        path = kept.folder / "output.jsonl"
        with written_whole(path) as one:
            one.write(b"one")
            with written_whole(path) as two:
                two.write(b"two")
            assert kept.content("output.jsonl") == b"two"
            one.write(b" and more")
        assert kept.names == {"output.jsonl"}
        assert kept.content("output.jsonl") == b"one and more"

    @pytest.mark.parametrize("prefix", ["", "file://"])
    def test_a_folder_is_no_file(self, prefix: str, tmp_path: Path) -> None:
        for path in (f"{prefix}{tmp_path}", f"{prefix}{tmp_path}/"):
            with pytest.raises(IsADirectoryError, match=str(tmp_path)), written_whole(storage_path(path)) as file:
                file.write(b"x")
        assert list(tmp_path.iterdir()) == []


class TestStoragePath:
    @pytest.mark.parametrize("path", ["", "  ", "None", None, 5, b"x", ["x"]], ids=repr)
    def test_what_is_no_path_is_refused(self, path: Any) -> None:
        with pytest.raises(PortkeyInputError, match="did the task that should have handed it over push one"):
            storage_path(path)

    def test_what_is_one(self, tmp_path: Path) -> None:
        (tmp_path / "a b.jsonl").write_bytes(b"x")
        given = f"{tmp_path}/a b.jsonl"
        for path in (given, f" {given}\n", f"file://{given}", Path(given), ObjectStoragePath(given)):
            assert storage_path(path).read_bytes() == b"x"
        path = ObjectStoragePath(given)
        assert storage_path(path) is path

    @pytest.mark.parametrize("path", ["nowhere://bucket/x", "az://conn@container/x"])
    def test_a_storage_whose_provider_is_missing_is_named(self, path: str) -> None:
        with pytest.raises(PortkeyInputError, match=f"'{path}' can't be reached: .* for that storage installed"):
            storage_path(path)

    def test_a_relative_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with written_whole(storage_path("results/output.jsonl")) as file:
            file.write(b"x")
        assert (tmp_path / "results" / "output.jsonl").read_bytes() == b"x"


class TestMeter:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        clock = SimpleNamespace(now=100.0)
        monkeypatch.setattr(files, "time", SimpleNamespace(monotonic=lambda: clock.now))
        return clock

    def lines(self, clock: SimpleNamespace, steps: Iterable[tuple[float, float]], **how: Any) -> list[str]:
        """Let so many MiB come after so many seconds each."""
        recorder = Recorder()
        logger = logging.Logger("meter", logging.INFO)
        logger.addHandler(recorder)
        meter = Meter(logger, "Downloading x", **how)
        for seconds, mebi in steps:
            clock.now += seconds
            meter.add(int(mebi * 2**20))
        return recorder.at(logging.INFO)

    def test_it_tells_every_few_seconds_how_far_and_how_fast(self, clock: SimpleNamespace) -> None:
        assert self.lines(clock, [(1, 10)] * 14, total=2_000 * 2**20) == [
            "Downloading x: 50.0 of 2,000.0 MiB, 10.0 MiB/s.",
            "Downloading x: 100.0 of 2,000.0 MiB, 10.0 MiB/s.",
        ]

    def test_without_a_total(self, clock: SimpleNamespace) -> None:
        assert self.lines(clock, [(2, 1), (2, 1), (4, 2)]) == ["Downloading x: 4.0 MiB, 0.5 MiB/s."]

    def test_a_short_transfer_is_not_told(self, clock: SimpleNamespace) -> None:
        assert self.lines(clock, [(0.001, 1)] * 4_000) == []

    def test_no_time_at_all(self, clock: SimpleNamespace) -> None:
        assert len(self.lines(clock, [(0, 1)] * 3, every=0)) == 3
