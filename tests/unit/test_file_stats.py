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
from airflow_provider_portkey.manifest import FileStats, commonest
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


HUGE = b'"%b"' % (b'x\\"{}' * (MAX_ROW_BYTES // 5 + 1))
#: Rows that are too large to be parsed, and the id of each.
TOO_LARGE: dict[str, tuple[bytes, str | None]] = {
    "OpenAI's": (b'{"id": "1", "custom_id": "a", "response": {"body": %b}}' % HUGE, "a"),
    "Bedrock's, the id at the end": (b'{"modelOutput": {"recordId": "x", "y": %b}, "recordId": "a"}' % HUGE, "a"),
    "an id within the answer": (b'{"response": {"custom_id": "x", "y": %b}}' % HUGE, None),
    "an id within the answer, at the end": (b'{"response": {"y": %b, "custom_id": "x"}}' % HUGE, None),
    "an id in the text": (rb'{"text": "\"custom_id\": \"x\"", "y": %b}' % HUGE, None),
    "cut for the parser between a backslash and its quote": (
        b'{"custom_id": "a", "yy": "%b"}' % (b'\\"' * (MAX_ROW_BYTES // 2 + 2)),
        "a",
    ),
    "a number as id": (b'{"custom_id": 5, "y": %b}' % HUGE, "5"),
    "cut off": (b'{"custom_id": "a", "y": %b' % HUGE, None),
    "not JSON": (b"x" * MAX_ROW_BYTES + b"}", None),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_line_too_long_to_parse_is_counted_for_its_id(name: str) -> None:
    row, custom_id = TOO_LARGE[name]
    content = request_line("first") + b"\n" + row + b"\n" + request_line("last")
    ids = {"first", "last"} | ({custom_id} if custom_id else set())
    for step in (2**16, len(content)):
        stats = stats_of(*(content[start : start + step] for start in range(0, len(content), step)))
        assert figures(stats) == (len(content), 3, ids, set(), hashlib.sha256(content).hexdigest())
        assert stats.anonymous == (custom_id is None)


def test_a_line_too_long_to_read_is_not_held_in_memory() -> None:
    stats = FileStats()
    for _ in range(20):
        stats.add(b"x" * 2**20)
    assert sum(map(len, [*stats._row, stats._end])) <= MAX_ROW_BYTES + 2**20
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


def error_line(custom_id: str, code: str, message: str) -> bytes:
    error = {"code": code, "message": message}
    return json.dumps({"custom_id": custom_id, "response": None, "error": error}).encode() + b"\n"


def test_errors_of_one_reason_are_of_one_kind() -> None:
    stats = stats_of(
        error_line("a", "rate_limit", "Limit 10,000, used 9,973 (org-a1B2). See https://x.example/1."),
        error_line("b", "rate_limit", "Limit 20,000, used 7 (org-c3). See https://x.example/1."),
        error_line("c", "content_filter", "Blocked."),
    )
    assert commonest(stats.errors) == [
        {"code": "rate_limit", "message": "Limit …, used … (…). See https://x.example/….", "count": 2},
        {"code": "content_filter", "message": "Blocked.", "count": 1},
    ]


def test_the_ten_commonest_errors_are_listed() -> None:
    rows = (error_line(f"{n}", chr(65 + n), "x") * (n + 1) for n in range(12))
    listed = commonest(stats_of(*rows).errors)
    assert [(kind["code"], kind["count"]) for kind in listed] == [(chr(65 + n), n + 1) for n in range(11, 1, -1)]


def test_many_kinds_of_errors_and_models_need_no_more_memory() -> None:
    letters = (chr(0x4E00 + n) for n in range(3_000))
    stats = stats_of(*(error_line(letter, letter, letter) + model_line(letter, 1) for letter in letters))
    assert (len(stats.errors), len(stats.usage)) == (1_001, 1_001)
    assert (stats.errors.total(), sum(usage["requests"] or 0 for usage in stats.usage.values())) == (3_000, 3_000)


def test_an_error_s_secret_is_redacted_and_its_text_is_short() -> None:
    stats = FileStats(lambda text: text.replace("my-key", "***"))
    stats.add(error_line("a", "my-key", "The key my-key is invalid. " * 1000))
    [kind] = commonest(stats.errors)
    assert (kind["code"], len(kind["message"])) == ("***", 200)
    assert "my-key" not in kind["message"]


def model_line(model: str | None, tokens: int | None) -> bytes:
    body: dict[str, Any] = {"model": model, "usage": {"prompt_tokens": tokens, "completion_tokens": 1}, "choices": []}
    return json.dumps({"custom_id": "a", "response": {"status_code": 200, "body": body}}).encode() + b"\n"


def test_the_tokens_of_answers_are_added_by_model_and_unknown_is_none() -> None:
    stats = stats_of(
        model_line("m", 1), model_line("m", 2), model_line("n", 5), model_line("n", None), model_line(None, 7)
    )
    none = {"cached_tokens": None, "reasoning_tokens": None}
    assert stats.usage == {
        "m": {"requests": 2, "input_tokens": 3, "output_tokens": 2} | none,
        "n": {"requests": 2, "input_tokens": None, "output_tokens": 2} | none,
        "unknown": {"requests": 1, "input_tokens": 7, "output_tokens": 1} | none,
    }
