"""Each API call as data: the request that it sends, and how its response is read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from airflow_provider_portkey.batch import Batch, BatchStatus
from airflow_provider_portkey.calls import list_batches, read_page, retrieve_batch
from airflow_provider_portkey.exceptions import PortkeyApiError, PortkeyInputError
from airflow_provider_portkey.exceptions import PortkeyRefusedError as Refused
from airflow_provider_portkey.exceptions import PortkeyTransientError as Transient
from airflow_provider_portkey.http import Response
from tests.support.calls import PLAIN, VIRTUAL_KEY, error_of, read_response, read_settings
from tests.support.strategies import JSON

# The body of a response with HTTP 200 that is not the batch; words of the error.
NOT_THE_BATCH: list[tuple[Any, str]] = [
    (b"", "got null or a body that is not valid JSON): empty"),
    (b'{"id": "batch_1", "sta', 'got null or a body that is not valid JSON): {"id": "batch_1", "sta'),
    (b"[" * 100_000, "got null or a body that is not valid JSON"),
    ([{"id": "batch_1", "status": "completed"}], "got list"),
    (7, "got int"),
    ({"error": {"message": "denied"}, "provider": "bedrock"}, "no 'id'): denied"),
    ({"id": "batch_1", "object": "batch"}, "no 'status'"),
    ({"id": "batch_2", "status": "completed"}, "the response is about batch 'batch_2'"),
]


@pytest.mark.parametrize("status", [200, 246])
def test_a_batch_is_read_whatever_its_content_type(status: int) -> None:
    body = b'\xef\xbb\xbf{"id": "batch_1", "status": "ended"}\n'
    read = read_response(status, body, {"content-type": "text/plain"})
    assert read == Batch("batch_1", BatchStatus.COMPLETED, "ended")


@pytest.mark.parametrize(("body", "words"), NOT_THE_BATCH, ids=lambda value: f"{value!r:.60}")
def test_http_200_without_the_batch_is_a_transient_error(body: Any, words: str) -> None:
    error = error_of(200, body)
    assert (type(error), error.status_code, words in str(error)) == (Transient, 200, True)


@hypothesis(deadline=None)
@given(
    st.integers(100, 599) | st.sampled_from([200, 246, 408, 429, 500]),
    st.binary() | JSON | st.fixed_dictionaries({"id": st.just("batch_1"), "status": JSON}),
    st.dictionaries(st.sampled_from(["location", "retry-after", "x-portkey-provider"]), st.text()),
)
def test_any_response_is_a_batch_or_an_api_error(status: int, body: Any, headers: dict[str, str]) -> None:
    kind, is_transient = None, status in (408, 429) or status >= 500 or status < 300
    try:
        assert read_response(status, body, headers).id == "batch_1"
    except PortkeyApiError as error:
        kind = type(error)
    assert kind is (Transient if is_transient else Refused) or (kind is None and 200 <= status < 300)


def test_ids_are_percent_encoded_in_urls() -> None:
    settings = read_settings(VIRTUAL_KEY, host="http://gw.example/ai")
    assert retrieve_batch(settings, " a/b%2Fc ").url == "http://gw.example/ai/v1/batches/a%2Fb%2Fc"
    assert list_batches(settings, limit=1).url == "http://gw.example/ai/v1/batches?limit=1"
    url = "http://gw.example/ai/v1/batches?limit=100&after=a%2Fb%26c"
    assert list_batches(settings, after="a/b&c").url == url


def test_an_id_that_would_address_another_url_raises_an_input_error() -> None:
    with pytest.raises(
        PortkeyInputError, match=r"is not an id, since it would change the URL's path: '\.\.'\nNothing was sent\."
    ):
        retrieve_batch(PLAIN, "..")


@pytest.mark.parametrize("body", ["null", "[]", "{}", '{"data": {}}', '{"error": {}}'])
def test_http_200_without_a_list_is_a_transient_error(body: str) -> None:
    with pytest.raises(Transient, match="a list named 'data'"):
        read_page(Response(200, {}, body.encode()), list_batches(PLAIN), PLAIN)
