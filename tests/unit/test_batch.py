from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_portkey.batch import Batch, BatchError, BatchStatus, RequestCounts, encode_id, is_same_id
from airflow_provider_portkey.text import shorten
from tests.support.status_words import STATUS_WORDS
from tests.support.strategies import JSON

IN_FLIGHT = ["validating", "in_progress", "finalizing", "cancelling"]
TERMINAL = ["completed", "failed", "expired", "cancelled"]
TIMES = [f"{name}_at" for name in [*IN_FLIGHT[1:], *TERMINAL, "created", "expires"]]
NONSENSE: list[Any] = [None, True, "NaN", float("nan"), float("inf"), -1, "many", "", [7], {}, 10**400]


def batch(**fields: Any) -> Batch:
    return Batch.from_dict({"id": "batch_1", "status": "in_progress", **fields})


def through_json(one: Batch) -> Batch:
    return Batch.from_dict(json.loads(json.dumps(one.to_dict())))


class TestStatus:
    def test_four_of_the_eight_statuses_are_terminal(self) -> None:
        assert sorted(BatchStatus) == sorted([*IN_FLIGHT, *TERMINAL])
        assert sorted(status for status in BatchStatus if status.is_terminal) == sorted(TERMINAL)

    @pytest.mark.parametrize(
        ("word", "kept"),
        [("PausedByUser", "paused_by_user"), ("完了", "完了"), (" ", None), (None, None), (3, None), (["ended"], None)],
        ids=ascii,
    )
    def test_an_unknown_status_counts_as_in_flight(self, word: Any, kept: str | None) -> None:
        read = batch(status=word)
        assert (read.status, read.provider_status, read.status_is_known) == ("in_progress", kept, False)

    def test_str_has_the_documented_status_and_the_provider_s_word(self) -> None:
        assert str(batch(status="ended", request_counts={"total": 3, "failed": 1})) == (
            "Batch batch_1 is completed (the provider's status is 'ended'): ? succeeded, 1 failed, 3 in all"
        )
        assert str(batch()) == "Batch batch_1 is in_progress: request counts unknown"

    def test_counts_of_0_are_unknown_until_the_batch_has_ended(self) -> None:
        counts = {"total": 0, "completed": 0, "failed": 0}
        assert str(batch(status="validating", request_counts=counts)) == (
            "Batch batch_1 is validating: request counts unknown"
        )
        assert str(batch(status="completed", request_counts=counts)).endswith("0 succeeded, 0 failed, 0 in all")

    @pytest.mark.parametrize(
        ("lacks", "members"),
        [
            (True, {"output_file_id": None}),
            (True, {"output_file_id": ""}),
            (False, {"output_file_id": "file-1"}),
            (False, {}),
            (False, {"output_file_id": None, "request_counts": {"completed": 0, "failed": 3}}),
            (False, {"output_file_id": None, "request_counts": None}),
            (False, {"output_file_id": None, "status": "expired"}),
        ],
        ids=str,
    )
    def test_an_output_file_is_lacking_if_answers_are_counted_and_its_key_has_no_value(
        self, lacks: bool, members: dict[str, Any]
    ) -> None:
        ended: dict[str, Any] = {"status": "completed", "request_counts": {"completed": 3}} | members
        assert batch(**ended).lacks_output is lacks


SECONDS: dict[str, tuple[Any, int | None]] = {
    "seconds": (1_700_000_000, 1_700_000_000),
    "milliseconds": (1_700_000_000_123, 1_700_000_000),
    "milliseconds in a string": ("1700000000123", 1_700_000_000),
    "a fraction": (1_700_000_000.9, 1_700_000_000),
    "the largest value read as seconds": (10**11, 10**11),
    "the smallest value read as milliseconds": (10**11 + 1, 10**8),
    "zero means never": (0, None),
    **{f"{nonsense!r:.9}": (nonsense, None) for nonsense in NONSENSE},
}
ERRORS: dict[str, tuple[Any, list[BatchError]]] = {
    "as documented": ({"data": [BatchError("c", "m", "p", 3).__dict__]}, [BatchError("c", "m", "p", 3)]),
    "a code that is an int": ({"data": [{"code": 7, "message": "m"}]}, [BatchError("7", "m")]),
    "a plain list": ([{"message": "m"}, "said so"], [BatchError(None, "m"), BatchError(None, "said so")]),
    "entries that are not errors": ({"data": [None, 4, [], " "]}, []),
    "none": (None, []),
    "no list": ({"data": {"message": "m"}}, []),
    "a number": (5, []),
}
NOT_BATCHES: dict[str, tuple[Any, str]] = {
    "a list": ([1], "got list"),
    "null": (None, "got null or a body that is not valid JSON"),
    "empty": ({}, "no 'id'"),
    "a list that the gateway turned into an object": ({"0": {"id": "b"}, "1": {}}, "no 'id'"),
    "a blank id": ({"id": " ", "status": "completed"}, "no 'id'"),
    "a number as id": ({"id": 7, "status": "completed"}, "no 'id'"),
    "no status, as in Bedrock's response to a creation": ({"id": "b", "object": "batch"}, "no 'status'"),
    "an error": ({"error": {"message": "no"}, "provider": "bedrock"}, "no 'id'"),
}


class TestFields:
    @pytest.mark.parametrize(("value", "seconds"), SECONDS.values(), ids=SECONDS)
    def test_a_time_is_read_in_seconds_or_is_none(self, value: Any, seconds: int | None) -> None:
        assert batch(created_at=value).created_at == seconds

    def test_each_time_is_read_from_its_own_field(self) -> None:
        body = {name: n for n, name in enumerate(TIMES, 1_700_000_000)}
        assert {name: getattr(batch(**body), name) for name in TIMES} == body

    @pytest.mark.parametrize("value", [0, 7, "7", " 0 ", 7.0, "7.0", *NONSENSE], ids=lambda value: f"{value!r:.9}")
    def test_a_count_is_an_integer_or_none(self, value: Any) -> None:
        counts = batch(request_counts={"total": 9, "failed": value}).request_counts
        count = None if any(value is nonsense for nonsense in NONSENSE) else int(float(value))
        assert counts == RequestCounts(total=9, completed=None, failed=count)
        assert type(counts.failed) is type(count)

    @pytest.mark.parametrize("value", [*NONSENSE, {"requests": 3}], ids=lambda value: f"{value!r:.9}")
    def test_missing_request_counts_are_unknown(self, value: Any) -> None:
        assert batch(request_counts=value).request_counts == RequestCounts(None, None, None)

    @pytest.mark.parametrize(("value", "errors"), ERRORS.values(), ids=ERRORS)
    def test_errors_are_read_in_any_shape(self, value: Any, errors: list[BatchError]) -> None:
        assert batch(errors=value).errors == tuple(errors)

    @pytest.mark.parametrize(
        ("value", "usage"),
        [
            ({"input_tokens": 3, "total_tokens": "4"}, {"input_tokens": 3, "total_tokens": 4}),
            (
                {"input_tokens_details": {"cached_tokens": 2}, "note": "x"},
                {"input_tokens_details": {"cached_tokens": 2}, "note": None},
            ),
            ({}, None),
            ([1], None),
            (None, None),
        ],
    )
    def test_model_and_usage_are_read(self, value: Any, usage: Any) -> None:
        read = batch(model=" gpt-4o ", usage=value)
        assert (read.model, read.usage) == ("gpt-4o", usage)
        assert through_json(read) == read

    @pytest.mark.parametrize(("body", "words"), NOT_BATCHES.values(), ids=NOT_BATCHES)
    def test_a_value_that_is_not_a_batch_raises_with_what_it_is(self, body: Any, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            Batch.from_dict(body)


class TestToDict:
    def test_to_dict_has_the_documented_names_with_json_types(self) -> None:
        read = batch(status="Stopped", errors=["m"], metadata={"team": "a"}, output_file_id=" f ", error_file_id="")
        body = read.to_dict()
        assert body == dict.fromkeys(["endpoint", "completion_window", "input_file_id", "error_file_id", *TIMES]) | {
            "id": "batch_1",
            "object": "batch",
            "status": "cancelled",
            "provider_status": "stopped",
            "output_file_id": "f",
            "request_counts": {"total": None, "completed": None, "failed": None},
            "errors": {"object": "list", "data": [{"code": None, "message": "m", "param": None, "line": None}]},
            "metadata": {"team": "a"},
            "model": None,
            "usage": None,
        }
        assert type(body["status"]) is str

    def test_to_dict_limits_the_number_and_length_of_errors(self) -> None:
        entry = dict.fromkeys(["code", "message", "param"], "x" * 9999)
        errors = batch(errors=[entry] * 25).to_dict()["errors"]["data"]
        assert (len(errors), len(errors[0]["message"])) == (20, 500)
        assert len(json.dumps(errors)) < 20 * 2000

    def test_a_batch_without_a_provider_status_keeps_its_status(self) -> None:
        assert through_json(Batch("batch_1", BatchStatus.FAILED)).status == "failed"


WORD = st.sampled_from(sorted({word for words in STATUS_WORDS.values() for word in words})) | st.text(max_size=20)
NUMBER = JSON | st.integers(0, 10**16) | st.integers(0, 10**16).map(str) | st.floats()
COUNTS = st.dictionaries(st.sampled_from(["total", "completed", "failed"]), NUMBER)
# The names of a batch's fields, with any value.
BATCHES = st.fixed_dictionaries(
    {"id": st.text(min_size=1).filter(str.strip), "status": WORD | JSON},
    optional=dict.fromkeys(TIMES, NUMBER)
    | dict.fromkeys(["endpoint", "output_file_id", "metadata"], JSON)
    | {"request_counts": COUNTS | JSON, "errors": st.lists(JSON | st.text(max_size=900), max_size=30) | JSON},
)
LINE = st.text(max_size=200).map(shorten)
ERROR = st.fixed_dictionaries({}, optional=dict.fromkeys(["code", "message", "param"], LINE) | {"line": NUMBER})


class TestAnyResponse:
    @settings(deadline=None)
    @given(JSON | BATCHES | st.dictionaries(st.sampled_from(["id", "status", "errors"]), JSON))
    def test_any_json_is_a_batch_or_raises_value_error(self, body: Any) -> None:
        has_id = isinstance(body, dict) and isinstance(body.get("id"), str) and bool(body["id"].strip())
        try:
            read = Batch.from_dict(body)
        except ValueError:
            assert not (has_id and "status" in body)
        else:
            assert has_id and read.id == body["id"].strip()
            assert not read.status.is_terminal or read.status_is_known
            assert f"Batch {read.id} is " in str(read)

    @settings(deadline=None)
    @given(BATCHES, st.lists(ERROR, max_size=20))
    @example({"id": "b", "status": "x", "created_at": 1_700_000_000_000_000}, [])  # microseconds
    @example({"id": "b", "status": "?"}, [])
    def test_a_batch_survives_serialization_as_json(self, body: dict[str, Any], errors: list[Any]) -> None:
        read = Batch.from_dict(body | {"errors": {"data": errors}})
        assert through_json(read) == read

    @settings(deadline=None)
    @given(BATCHES)
    def test_to_dict_is_stable_after_one_round_trip(self, body: dict[str, Any]) -> None:
        once = Batch.from_dict(body).to_dict()
        assert Batch.from_dict(once).to_dict() == once


ARN = "arn:aws:bedrock:us-east-1:123456789012:model-invocation-job/abc"
ENCODED = "arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Amodel-invocation-job%2Fabc"
IDS = {
    "plain": ("batch_6-a.b~c", "batch_6-a.b~c"),
    "with white space around it": ("  batch_1\n", "batch_1"),
    "a raw ARN": (ARN, ENCODED),
    "an encoded ARN": (ENCODED, ENCODED),
    "an ARN encoded in lower case": (ENCODED.lower(), ENCODED),
    "with space and slash": ("s3://bucket/a b", "s3%3A%2F%2Fbucket%2Fa%20b"),
    "with query and fragment": ("a?b#c&d=e+f", "a%3Fb%23c%26d%3De%2Bf"),
    "with dots and a slash": ("../files", "..%2Ffiles"),
    "with a percent sign that is not an escape": ("100%", "100%25"),
    "unicode": ("日本", "%E6%97%A5%E6%9C%AC"),
    "a batch": (Batch("batch_1", BatchStatus.COMPLETED), "batch_1"),
    "a batch's dict": (Batch(ARN, BatchStatus.COMPLETED).to_dict(), ENCODED),
    "a number": (1234567890123456789, "1234567890123456789"),
    "a whole number as float": (12345.0, "12345"),
    "a dict with a number": ({"id": 12345}, "12345"),
}
INVALID_IDS: dict[str, tuple[str, list[Any]]] = {
    "none": ("the upstream task pushed no value to XCom", ["", " \n", "None", None, [], (), {}, {"id": None}]),
    "dots": ("would change the URL's path", [".", "..", " .. ", "%2e%2E", "%2E."]),
    "control characters": ("contains control characters or line breaks", ["a\nb", "a%0d%0ab", "a\0b"]),
    "no text": ("is not valid UTF-8", ["%ff", "\ud800"]),
    "too long": ("characters, too many for an id", ["x" * 10_000, "日" * 999]),
    "several": (r"must be one id, got list: use .expand\(\) for several", [["batch_1"]]),
    "a dict without an id": ("must be one id, got dict: pass the id itself", [{"batch_id": "batch_1"}]),
    "no id": ("must be one id, got", [True, 1.5, float("nan"), float("inf"), b"batch_1", object()]),
    "the text of a dict": ("is the text of a dict or list, not an id", ["{'id': 'batch_1'}", '["batch_1"]']),
}
PAIRS_OF_IDS = {
    "plain": ("batch_1", " batch_1 ", True),
    "encoded and raw": (ARN, ENCODED, True),
    "the last part of a Vertex name": ("projects/p/locations/l/batchPredictionJobs/12", "12", True),
    "different": ("batch_1", "batch_2", False),
    "one is a prefix of the other": ("batch_12", "batch_1", False),
    "one is a suffix of the other": ("my_batch_1", "batch_1", False),
}


class TestIds:
    @pytest.mark.parametrize(("batch_id", "segment"), IDS.values(), ids=IDS)
    def test_an_id_is_percent_encoded_exactly_once(self, batch_id: Any, segment: str) -> None:
        assert encode_id(batch_id) == segment

    @pytest.mark.parametrize(("words", "batch_ids"), INVALID_IDS.values(), ids=INVALID_IDS)
    def test_an_invalid_id_raises_a_short_message(self, words: str, batch_ids: list[Any]) -> None:
        for batch_id in batch_ids:
            with pytest.raises(ValueError, match=words) as caught:
                encode_id(batch_id)
            assert len(str(caught.value)) < 400

    @pytest.mark.parametrize("file_id", [{"id": "batch_1"}, ["file_1"]], ids=str)
    def test_the_dict_of_a_batch_is_not_the_id_of_a_file(self, file_id: Any) -> None:
        with pytest.raises(ValueError, match="file_id must be one id, got"):
            encode_id(file_id, "file_id")

    @settings(deadline=None)
    @given(st.text(st.characters()) | st.text("%.25eEfF/?#\\ \n", max_size=9))
    @example("%2E%2e")
    def test_any_id_is_one_path_segment_or_raises(self, batch_id: str) -> None:
        try:
            segment = encode_id(batch_id)
        except ValueError:
            return
        assert segment.isascii() and segment not in ("", ".", "..") and not set(segment) & set("/?#\\ \n")
        assert unquote(segment) == unquote(batch_id.strip())
        assert encode_id(segment) == segment

    @pytest.mark.parametrize(("one", "other", "same"), PAIRS_OF_IDS.values(), ids=PAIRS_OF_IDS)
    def test_ids_of_the_same_batch_are_recognized(self, one: str, other: str, same: bool) -> None:
        assert (is_same_id(one, other), is_same_id(other, one)) == (same, same)
