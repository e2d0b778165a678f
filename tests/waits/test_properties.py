"""What holds for any response and any batch id, without a socket."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from airflow_provider_portkey.batch import Batch, encode_id
from airflow_provider_portkey.calls import read_batch, retrieve_batch
from airflow_provider_portkey.exceptions import PortkeyApiError, PortkeyInputError
from airflow_provider_portkey.http import Response
from airflow_provider_portkey.retry import MAX_RETRY_AFTER
from airflow_provider_portkey.settings import Settings
from tests.support.status_words import STATUS_WORDS
from tests.support.strategies import JSON_WITH_NAN

SETTINGS = Settings.from_connection("c", password="pk-0123456789", extra='{"virtual_key": "openai-prod"}')
MEMBERS = st.sampled_from(
    [
        "id",
        "object",
        "status",
        "provider_status",
        "endpoint",
        "errors",
        "input_file_id",
        "output_file_id",
        "error_file_id",
        "completion_window",
        "created_at",
        "expires_at",
        "completed_at",
        "request_counts",
        "metadata",
        "error",
        "message",
        "provider",
        "data",
    ]
)
STATUSES = st.sampled_from([word for words in STATUS_WORDS.values() for word in words]) | JSON_WITH_NAN
BODIES = st.one_of(
    JSON_WITH_NAN,
    st.dictionaries(MEMBERS, JSON_WITH_NAN),
    st.builds(
        lambda members, status: members | {"id": "batch_1", "status": status},
        st.dictionaries(MEMBERS, JSON_WITH_NAN),
        STATUSES,
    ),
)


def read(body: bytes, status_code: int, headers: dict[str, str] | None = None) -> None:
    """Read a response; it must become a batch or one of our errors, which a log and a database can take."""
    request = retrieve_batch(SETTINGS, "batch_1")
    response = Response(status_code, headers or {}, body)
    outcome: Batch | PortkeyApiError
    try:
        outcome = read_batch(response, request, SETTINGS, "batch_1")
    except PortkeyApiError as error:
        outcome = error
    assert len(str(outcome).encode()) < 5_000
    if isinstance(outcome, PortkeyApiError):
        assert outcome.retry_after is None or 0 <= outcome.retry_after <= MAX_RETRY_AFTER
        return
    result = outcome.to_dict()
    stored = json.dumps(result, allow_nan=False, ensure_ascii=False).encode()
    assert json.loads(stored) == result
    assert Batch.from_dict(result) == outcome


@given(body=BODIES, status_code=st.sampled_from([200, 246, 302, 400, 401, 404, 429, 500, 503]))
def test_any_json_body_is_a_batch_or_a_portkey_error(body: Any, status_code: int) -> None:
    read(json.dumps(body).encode(), status_code)


@given(body=st.binary(max_size=200), status_code=st.integers(200, 599))
def test_any_bytes_are_a_batch_or_a_portkey_error(body: bytes, status_code: int) -> None:
    read(body, status_code)


@given(headers=st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "location"]), st.text()))
def test_any_headers_are_a_portkey_error(headers: dict[str, str]) -> None:
    for status_code in (302, 429, 503):
        read(b"", status_code, headers)


@given(batch_id=st.text() | st.text("./%2eEfF\\?#:@ ab\n", max_size=12))
def test_any_batch_id_is_sent_as_one_path_segment_or_rejected(batch_id: str) -> None:
    try:
        request = retrieve_batch(SETTINGS, batch_id)
    except PortkeyInputError:
        return
    path_of_requests = urlsplit(requests.Request("GET", request.url).prepare().url or "").path
    path_of_aiohttp = URL(request.url, encoded=True).raw_path
    for path in (path_of_requests, path_of_aiohttp):
        [_, v1, batches, segment] = path.split("/")
        assert (v1, batches) == ("v1", "batches")
        assert unquote(segment) == unquote(batch_id.strip())
        assert segment == encode_id(segment)
        assert re.fullmatch(r"[A-Za-z0-9_.~%-]+", segment)


def has_no_digits(value: Any) -> bool:
    """Whether a value is none of what native rendering makes of an id: a text, or a whole number."""
    if isinstance(value, bool):
        return True
    return not isinstance(value, (str, int)) and not (isinstance(value, float) and value.is_integer())


@given(batch_id=JSON_WITH_NAN.filter(lambda value: has_no_digits(value) and not isinstance(value, dict)))
def test_a_batch_id_that_is_neither_text_nor_a_whole_number_is_rejected(batch_id: Any) -> None:
    with pytest.raises(PortkeyInputError):
        retrieve_batch(SETTINGS, batch_id)
