"""Text from outside, made fit for log lines, messages and a database."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from airflow_provider_portkey.text import decode_json, duration, message, sanitize_text, sentence, shorten
from tests.support.strategies import JSON

# A body, and the JSON that it is read as: None if it is not valid JSON.
BODIES: dict[str, tuple[bytes, Any]] = {
    "an object": (b'{"a": 1}', {"a": 1}),
    "with a byte order mark": (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
    "not UTF-8": (b'{"a": "\xff"}', {"a": "\N{REPLACEMENT CHARACTER}"}),
    "NaN and infinity": (b'{"a": NaN, "b": -Infinity, "c": 1e999}', {"a": None, "b": None, "c": None}),
    "NUL": (b'{"a\\u0000": ["b\\u0000"]}', {"a": ["b"]}),
    "half of a character": (b'["\\ud83d", "\\ud83d\\ude00"]', ["?", "\N{GRINNING FACE}"]),
    "empty": (b"", None),
    "text": (b"no JSON", None),
    "nested too deep": (b"[" * 100_000, None),
}


def test_shorten_folds_white_space_and_limits_the_length() -> None:
    assert shorten(" a\n\tb  c ") == "a b c"
    assert [shorten("x" * length, 10) for length in (10, 11)] == ["x" * 10, "x" * 9 + "…"]
    assert len(shorten("x" * 1_000)) == 200


def test_a_message_begins_with_one_short_line_and_leaves_out_empty_details() -> None:
    assert message("Cause: remedy", "Details.", "", "More.") == "Cause: remedy\nDetails.\nMore."


def test_a_long_first_line_is_cut_and_follows_in_full() -> None:
    long = "Cause: " + "remedy " * 20
    first, whole, details = message(long, "Details.").split("\n")
    assert len(first) == 100 and first.endswith("…") and long.startswith(first[:-1])
    assert (whole, details) == (long, "Details.")


DURATIONS = {
    0: "0 s",
    0.5: "0.5 s",
    9.5: "9.5 s",
    9.99852: "10 s",
    59.6: "60 s",
    60: "60 s",
    90: "90 s",
    120: "2 min",
    3_600: "60 min",
    5_400: "90 min",
    86_400: "24 h",
    93_600: "26 h",
    604_800: "7 d",
    math.inf: "no limit",
}


@pytest.mark.parametrize(("seconds", "text"), DURATIONS.items(), ids=str)
def test_a_duration_is_written_in_a_unit_that_loses_less_than_a_hundredth(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("body", "value"), BODIES.values(), ids=BODIES)
def test_decode_json_gives_what_a_database_takes_or_none(body: bytes, value: Any) -> None:
    assert decode_json(body) == value


@hypothesis(deadline=None)
@given(JSON | st.text(st.characters()))
def test_sanitized_text_has_neither_nul_nor_surrogates(value: Any) -> None:
    def texts(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [text for pair in value.items() for item in pair for text in texts(item)]
        if isinstance(value, list):
            return [text for item in value for text in texts(item)]
        return [value] if isinstance(value, str) else []

    for text in texts(sanitize_text(value)):
        assert "\0" not in text
        assert text.encode().decode() == text


@pytest.mark.parametrize(
    ("text", "ended"), [("one", "one."), ("one.", "one."), ("one? ", "one?"), ("one!", "one!"), ("o…", "o…")], ids=str
)
def test_a_sentence_ends_once(text: str, ended: str) -> None:
    assert sentence(text) == ended
