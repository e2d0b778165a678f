"""The fast reader of rows tells the same as the one that reads them as a whole, or nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_portkey import answers
from airflow_provider_portkey.answers import Answer, AnswerError, Usage, read_row
from airflow_provider_portkey.row_figures import read_figures

USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
BODY = {"model": "gpt-4o", "choices": [{"message": {"content": "é"}, "finish_reason": "stop"}], "usage": USAGE}
ROW = {"custom_id": "a", "response": {"status_code": 200, "body": BODY}, "error": None}

#: What may stand in any member of a row.
VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [None, "", "a", "\0", "\ud800", "a b", 0, 1, 400, 2**70, 1.0, 1.5, True, [], [1], {}, {"message": "m"}, BODY, USAGE]
)
NAMES = {"custom_id", "recordId", "requestId", "instance", "request", "result", "modelOutput", "predictions"}
NAMES |= {"errorCode", "error", "response", "body", "status_code", "status", "model", "modelVersion", "choices"}
NAMES |= {name for paths in answers._USAGE for path in paths for name in path if isinstance(name, str)}


@st.composite
def rows(draw: Any) -> bytes:
    """Return a row of which some members are left out, added and changed, at each of its levels."""
    row: dict[str, Any] = json.loads(json.dumps(ROW))
    body = row["response"]["body"]
    for level in (row, row["response"], body, body["usage"]):
        for name in draw(st.lists(st.sampled_from(sorted(level)), max_size=1)):
            del level[name]
        level |= draw(st.dictionaries(st.sampled_from(sorted(NAMES)), VALUES, max_size=1))
    return json.dumps(row, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")


def read_whole(row: bytes) -> Answer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "figures_reader", lambda: lambda row: None)
        return read_row(row)


@given(rows())
def test_its_figures_are_those_of_the_whole_row(row: bytes) -> None:
    whole = read_whole(row)
    if (figures := read_figures(row)) is not None:
        assert (figures.custom_id, figures.model, Usage(*figures.tokens)) == (whole.custom_id, whole.model, whole.usage)
    assert read_row(row) == whole


def test_the_commonest_row_is_read() -> None:
    figures = read_figures(json.dumps(ROW).encode())
    assert figures is not None
    assert (figures.custom_id, figures.model, figures.tokens) == ("a", "gpt-4o", (9, 3, 1, 2))
    assert read_row(json.dumps(ROW).encode()).text == "é"


def test_a_row_that_is_cut_off_is_not_read() -> None:
    row = json.dumps(ROW).encode()
    assert [read_figures(row[:length]) for length in range(len(row))] == [None] * len(row)
    assert isinstance(read_row(row[:-1]).error, AnswerError)
