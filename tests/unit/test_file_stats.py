"""What a JSONL file holds, counted while it streams."""

from __future__ import annotations

import hashlib
import itertools
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_portkey.answers import MAX_ROW_BYTES
from airflow_provider_portkey.manifest import FileStats
from tests.server.batches import output_line
from tests.support.jsonl import request_line

LINES = st.sampled_from(
    [
        request_line("a"),
        request_line("a") + b"\r",
        request_line("é"),
        b'{"custom_id": 1}',
        b'["custom_id"]',
        b"5",
        b"",
        b"  ",
        b"\xff{",
        b"{",
    ]
) | st.binary(max_size=20)


def stats_of(*chunks: bytes) -> FileStats:
    stats = FileStats()
    for chunk in chunks:
        stats.add(chunk)
    stats.end_line()
    return stats


def figures(stats: FileStats) -> tuple[Any, ...]:
    return stats.bytes, stats.lines, stats.custom_ids, stats.duplicates, stats.sha256


@given(lines=st.lists(LINES), ends_with_newline=st.booleans(), cuts=st.lists(st.integers(0, 400)))
def test_the_figures_do_not_depend_on_how_the_file_is_cut_into_chunks(
    lines: list[bytes], ends_with_newline: bool, cuts: list[int]
) -> None:
    content = b"\n".join(lines) + b"\n" * ends_with_newline
    bounds = [0, *sorted(cuts), len(content)]
    found: list[object] = []
    for text in content.split(b"\n"):
        with suppress(ValueError, AttributeError):
            found.append(json.loads(text).get("custom_id"))
    custom_ids = [str(value) for value in found if isinstance(value, str | int)]
    assert figures(stats_of(*(content[start:end] for start, end in itertools.pairwise(bounds)))) == (
        len(content),
        sum(bool(text.strip()) for text in content.split(b"\n")),
        set(custom_ids),
        {value for value in custom_ids if custom_ids.count(value) > 1},
        hashlib.sha256(content).hexdigest(),
    )


def test_a_last_line_without_a_line_break_counts() -> None:
    stats = stats_of(request_line("a") + b"\n" + request_line("b"))
    assert (stats.lines, stats.custom_ids) == (2, {"a", "b"})


def test_an_empty_file_has_no_lines() -> None:
    assert figures(stats_of()) == (0, 0, set(), set(), hashlib.sha256().hexdigest())


def test_a_line_too_long_to_read_is_counted_without_its_custom_id() -> None:
    long = request_line("long", body={"x": "x" * 17 * 2**20}) + b"\n"
    content = request_line("a") + b"\n" + long + request_line("b")
    for step in (2**16, len(content)):
        stats = stats_of(*(content[start : start + step] for start in range(0, len(content), step)))
        assert figures(stats) == (len(content), 3, {"a", "b"}, set(), hashlib.sha256(content).hexdigest())


def test_a_line_too_long_to_read_is_not_held_in_memory() -> None:
    stats = FileStats()
    for _ in range(20):
        stats.add(b"x" * 2**20)
    assert sum(map(len, stats._row)) <= MAX_ROW_BYTES + 1
    stats.add(b"\n" + request_line("a"))
    stats.end_line()
    assert (stats.lines, stats.custom_ids) == (2, {"a"})


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b"1" * 5_000, b"\x00", b'{"custom_id": null}', b"null"],
    ids=["nested too deeply", "a long number", "NUL", "custom_id null", "null"],
)
def test_a_line_without_a_custom_id_is_counted(content: bytes) -> None:
    assert figures(stats_of(content))[1:4] == (1, set(), set())


def test_rows_are_counted_by_what_they_are() -> None:
    stats = stats_of(
        output_line("a"),
        output_line("b", 400),
        b'{"errorCode": 500, "errorMessage": "Internal"}\n',
        b'{"custom_id": "c", "response": null, "error": null}\n',
        b'{"custom_id": "d", "resp',
    )
    assert (stats.lines, stats.answered, stats.failed, stats.unreadable, stats.anonymous) == (5, 1, 4, 2, 2)
    assert stats.custom_ids == {"a", "b", "c"}
