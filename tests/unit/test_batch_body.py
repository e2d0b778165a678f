"""The body of a request that creates a batch: checked before anything is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_portkey.calls import batch_body, create_batch
from airflow_provider_portkey.exceptions import PortkeyInputError
from tests.support.calls import PLAIN
from tests.support.problems import listed_problems

VALID: dict[str, Any] = {
    "input_file_id": "file-1",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
}
#: Each field that makes the body invalid, and what the error says of it.
INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "no file": ({"input_file_id": None}, "input_file_id is None: the upstream task pushed no value to XCom"),
    "the text None as file": ({"input_file_id": "None"}, "input_file_id is 'None': the upstream task pushed no value"),
    "a blank file": ({"input_file_id": " "}, "input_file_id is ' '"),
    "a list as file": ({"input_file_id": ["file-1"]}, "input_file_id must be one id, got list"),
    "an endpoint without a slash": ({"endpoint": "v1/embeddings"}, "endpoint must be a path"),
    "a URL as endpoint": ({"endpoint": "https://api.openai.com/v1/embeddings"}, "endpoint must be a path"),
    "no endpoint": ({"endpoint": None}, "endpoint must be a path"),
    "a number as window": ({"completion_window": 24}, "completion_window must be a string"),
    "an empty window": ({"completion_window": ""}, "completion_window must be a string"),
    "text as metadata": ({"metadata": "a=b"}, "metadata must be a dict"),
    "a list as metadata": ({"metadata": [("a", "b")]}, "metadata must be a dict"),
    "17 pairs of metadata": ({"metadata": {str(n): "" for n in range(17)}}, "at most 16 pairs"),
    "a fraction in metadata": ({"metadata": {"a": 1.5}}, "'a' and its value must be strings"),
    "a truth value in metadata": ({"metadata": {"a": True}}, "'a' and its value must be strings"),
    "null in metadata": ({"metadata": {"a": None}}, "'a' and its value must be strings"),
    "a number as name in metadata": ({"metadata": {1: "a"}}, "metadata: 1 and its value"),
    "an empty name in metadata": ({"metadata": {"": "a"}}, "metadata: ''"),
    "a long name in metadata": ({"metadata": {"x" * 65: "a"}}, "at most 64 and 512"),
    "a long value in metadata": ({"metadata": {"x": "x" * 513}}, "at most 64 and 512"),
    "text as extra_body": ({"extra_body": "{}"}, "extra_body must be a dict, got str"),
    "extra_body with a field that has a parameter": (
        {"extra_body": {"endpoint": "/x"}},
        "extra_body must not contain 'endpoint': use the parameter of that name",
    ),
    "a set in extra_body": ({"extra_body": {"a": {1}}}, "extra_body is not valid JSON"),
    "NaN in extra_body": ({"extra_body": {"a": float("nan")}}, "extra_body is not valid JSON"),
}


@pytest.mark.parametrize(("fields", "words"), INVALID.values(), ids=INVALID)
def test_an_invalid_field_raises_an_error_that_names_it(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(PortkeyInputError) as caught:
        batch_body(**VALID | fields)
    [problem] = listed_problems(caught.value, "Invalid batch")
    assert words in problem


def test_all_invalid_fields_are_named_at_once() -> None:
    fields: dict[str, Any] = {
        "input_file_id": None,
        "endpoint": "x",
        "completion_window": None,
        "metadata": {"a": [], "b": {}},
        "extra_body": {"metadata": {}, "endpoint": "/x"},
    }
    with pytest.raises(PortkeyInputError) as caught:
        batch_body(**fields)
    assert len(listed_problems(caught.value, "Invalid batch")) == 7


def test_numbers_that_native_rendering_made_of_texts_are_their_digits() -> None:
    fields: dict[str, Any] = {"input_file_id": 20261125, "metadata": {"run": 7, "day": 20261125.0}}
    body = json.loads(batch_body(**VALID | fields))
    assert (body["input_file_id"], body["metadata"]) == ("20261125", {"run": "7", "day": "20261125"})


def test_metadata_and_extra_body_may_be_as_large_as_allowed() -> None:
    metadata = {f"{n:064}": "x" * 512 for n in range(16)}
    body = batch_body(**VALID, metadata=metadata, extra_body={"model": "m", "role_arn": None})
    assert json.loads(body) == {**VALID, "metadata": metadata, "model": "m"}


@pytest.mark.parametrize(
    ("fields", "source", "members"),
    [
        ({"input_file_id": 12}, "file '12'", {"input_file_id": "12"}),
        (
            {"input_file_id": None, "extra_body": {"input_blob": "https://a.example/in.jsonl"}},
            "input_blob",
            {"input_blob": "https://a.example/in.jsonl"},
        ),
    ],
    ids=["a number as file", "a blob"],
)
def test_the_call_names_the_input_of_its_batch(fields: dict[str, Any], source: str, members: dict[str, Any]) -> None:
    request = create_batch(PLAIN, **VALID | fields)
    assert request.subject == f"creating a batch from {source}"
    rest = {name: VALID[name] for name in ("endpoint", "completion_window")}
    assert json.loads(request.body or b"") == members | rest
    assert not request.repeatable
