"""The input file of a batch: each request is checked, and all problems are named before anything is sent."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_portkey.batch_input import check_requests, endpoint_warning, write_inline_body, write_requests
from airflow_provider_portkey.exceptions import PortkeyInputError
from tests.support.jsonl import ENDPOINT, request, request_line
from tests.support.problems import listed_problems

BOM = b"\xef\xbb\xbf"
NESTED = b"[" * 100_000

#: What is given as a request, and the problem with it.
INVALID_REQUESTS: dict[str, tuple[Any, str]] = {
    "JSON cut short": (b"{", "line 1: not valid JSON (Expecting property name"),
    "JSON nested too deeply": (NESTED, "line 1: not valid JSON ("),
    "a number with too many digits": (b"1" * 5_000, "line 1: not valid JSON ("),
    "NaN": (b'{"a": NaN}', "line 1: not valid JSON (NaN is not valid JSON)"),
    "infinity": (b'{"a": -Infinity}', "line 1: not valid JSON (-Infinity is not valid JSON)"),
    "a byte that is not UTF-8": (b'{"custom_id": "\xff"}', "line 1: not valid UTF-8 at byte 15"),
    "UTF-16": (request_line().decode().encode("utf-16"), "line 1: not valid UTF-8 at byte 0"),
    "a list": (b"[1]", "line 1: must be a JSON object, got list"),
    "null": (b"null", "line 1: must be a JSON object, got NoneType"),
    "a string": ("{}", "line 1: must be a JSON object, got str"),
    "None": (None, "line 1: must be a JSON object, got NoneType"),
    "an int": (7, "line 1: must be a JSON object, got int"),
    "a dict with NaN": (request(body={"n": float("nan")}), "line 1: not valid JSON (Out of range float values"),
    "a dict with a set": (request(body={"n": {1}}), "line 1: not valid JSON (Object of type set"),
    "custom_id null": (request_line(None), "line 1: custom_id must be a string, got None"),
    "custom_id a number": (request_line(5), "line 1: custom_id must be a string, got 5"),
    "custom_id empty": (request_line(""), "line 1: custom_id must be a string, got ''"),
    "no custom_id": ({"body": {}}, "line 1: custom_id must be a string, got None"),
    "method GET": (request_line(method="GET"), "line 1: method must be POST, got 'GET'"),
    "method null": (request_line(method=None), "line 1: method must be POST, got None"),
    "url None": (request(url=None), f"line 1: url must be a path such as {ENDPOINT}, got None"),
    "url of another host": (request(url="https://gw.example/v1/x"), "line 1: url must be a path such as"),
    "body a string": (request_line(body="{}"), "line 1: body must be a JSON object, got str"),
    "body null": (request_line(body=None), "line 1: body must be a JSON object, got NoneType"),
    "no body": ({"custom_id": "a"}, "line 1: body must be a JSON object, got NoneType"),
}


def write(source: Iterable[Any], **limits: Any) -> bytes:
    """Write requests, check what is returned of them, and return the file's content."""
    target = io.BytesIO()
    written = write_requests(source, target, endpoint=ENDPOINT, **limits)
    content = target.getvalue()
    assert (written.bytes, len(written.digest)) == (len(content), 64)
    assert written.count == content.count(b"\n")
    return content


def problems_of(source: Iterable[Any], **limits: Any) -> list[str]:
    """Return the problems that the error lists."""
    with pytest.raises(PortkeyInputError) as caught:
        write(source, **limits)
    return listed_problems(caught.value, "Invalid batch input")


def digest(*source: Any) -> str:
    return write_requests(source, io.BytesIO(), endpoint=ENDPOINT).digest


def test_equal_requests_have_one_digest_however_they_are_written() -> None:
    line = b'{"body": {"b": "\\u00e9", "a": 1.50},  "url":"/v1/chat/completions","method":"POST","custom_id":"x"}'
    same = {"custom_id": "x", "body": {"a": 1.5, "b": "é"}}
    assert digest(line) == digest(same) == digest(b" " + line + b"\r\n")
    # A key of a previous version of this package must be found again.
    assert digest(line) == "b8e28eafc5fed3bdd30ea103a305eae8ceeb2d341b7f650616e2ea707fa2d7db"


@pytest.mark.parametrize("other", [{"a": 1.5, "b": "e"}, {"a": "1.5", "b": "é"}, {"b": "é"}, {"c": 1.5, "b": "é"}])
def test_requests_that_differ_have_different_digests(other: dict[str, Any]) -> None:
    assert digest({"custom_id": "x", "body": {"a": 1.5, "b": "é"}}) != digest({"custom_id": "x", "body": other})


def test_the_order_and_number_of_requests_change_the_digest() -> None:
    one, two = request_line("a"), request_line("b")
    assert len({digest(one, two), digest(two, one), digest(one)}) == 3


class TestInline:
    def test_requests_become_elements_of_one_json_body(self) -> None:
        target = io.BytesIO()
        lines = [
            b'{"custom_id": "1", "body": {"x": "\xc3\xa9"}}\n',
            request_line("2", url="/v1/messages", body={"y": 2}),
        ]
        written = write_inline_body(lines, target, extra_body={"model": "m"}, endpoint="/v1/messages")
        assert json.loads(target.getvalue()) == {
            "requests": [{"custom_id": "1", "params": {"x": "é"}}, {"custom_id": "2", "params": {"y": 2}}],
            "model": "m",
        }
        assert (written.count, target.getvalue().isascii()) == (2, True)

    @pytest.mark.parametrize("name", ["a duplicate", "no body"])
    def test_requests_are_checked_as_those_in_a_file_are(self, name: str) -> None:
        source = {"a duplicate": [request("a"), request("a")], "no body": [{"custom_id": "a"}]}[name]
        with pytest.raises(PortkeyInputError, match=r"is a duplicate of line 1|body must be a JSON object"):
            write_inline_body(source, io.BytesIO(), extra_body={}, endpoint=ENDPOINT)


class TestValid:
    def test_lines_keep_their_spacing_escapes_and_order(self) -> None:
        line = b'{ "body":{"x":"\\u00e9"},"url":"/v1/chat/completions","method":"POST" ,"n":1.50,"custom_id":"b"}'
        assert write([request_line(), line]) == request_line() + b"\n" + line + b"\n"

    def test_characters_beyond_ascii_are_sent_as_escapes(self) -> None:
        written = write([request_line("é", body={"x": "日本 🎉"})])
        assert written.isascii()
        assert (json.loads(written)["custom_id"], json.loads(written)["body"]) == ("é", {"x": "日本 🎉"})

    def test_byte_order_mark_blank_lines_and_white_space_are_left_out(self) -> None:
        source = [
            BOM + request_line("a") + b"\r\n",
            b"\n",
            b" \t\r\n",
            b"  " + request_line("b") + b"  \n",
            b"",
            request_line("c"),
        ]
        assert write(source) == b"".join(request_line(name) + b"\n" for name in "abc")

    def test_a_byte_order_mark_on_a_line_of_its_own_is_left_out(self) -> None:
        assert write([BOM + b"\n", request_line() + b"\n"]) == request_line() + b"\n"

    def test_dicts_get_the_method_and_url_that_they_lack(self) -> None:
        content = write([{"custom_id": "a", "body": {"n": "é"}}, request("b", url=ENDPOINT), request_line("c")])
        assert [json.loads(line) for line in content.splitlines()] == [
            request("a", body={"n": "é"}),
            request("b"),
            request("c"),
        ]

    @given(
        source=st.lists(
            st.binary(max_size=40) | st.sampled_from([request_line("a"), request_line("b"), request("c"), None, "x"])
        )
    )
    def test_any_source_is_written_with_unique_custom_ids_or_raises_an_input_error(self, source: list[Any]) -> None:
        try:
            content = write(source)
        except PortkeyInputError:
            return
        custom_ids = [json.loads(line)["custom_id"] for line in content.splitlines()]
        assert custom_ids
        assert len(custom_ids) == len(set(custom_ids))


@pytest.mark.parametrize(
    ("requests", "kind"), [((request() for _ in "a"), "generator"), (map(str, "a"), "map"), (io.StringIO(), "StringIO")]
)
def test_requests_that_can_be_read_only_once_are_rejected_with_what_to_give(requests: Any, kind: str) -> None:
    with pytest.raises(ValueError, match=f"must not be a {kind}: give a list, a task's output, or input_path"):
        check_requests(requests)


@pytest.mark.parametrize("requests", [None, [], [{}], ({},), "{{ var.json.requests }}"], ids=str)
def test_requests_that_can_be_read_again_may_be_in_a_dag_file(requests: Any) -> None:
    check_requests(requests)


class TestInvalid:
    @pytest.mark.parametrize(("item", "problem"), INVALID_REQUESTS.values(), ids=INVALID_REQUESTS)
    def test_an_invalid_request_is_named_with_its_line(self, item: Any, problem: str) -> None:
        [found] = problems_of([item])
        assert found.startswith(problem)
        assert len(found) < 300

    def test_a_byte_order_mark_on_a_later_line_is_not_json(self) -> None:
        [problem] = problems_of([request_line(), BOM + request_line("b")])
        assert problem.startswith("line 2: not valid JSON")

    def test_a_duplicate_custom_id_is_named_with_both_lines(self) -> None:
        source = [request_line("a"), b"", request_line("b"), request("a")]
        assert problems_of(source) == ["line 4: custom_id 'a' is a duplicate of line 1"]

    def test_all_problems_of_a_line_are_named(self) -> None:
        assert len(problems_of([b"{}"])) == 4

    def test_the_first_ten_problems_are_named_and_the_others_counted(self) -> None:
        problems = problems_of([b"nonsense"] * 1_500)
        assert [problem.split(":")[0] for problem in problems[:10]] == [f"line {n}" for n in range(1, 11)]
        assert problems[10:] == ["… and 1,490 more"]
        assert problems_of([b"nonsense"] * 10)[10:] == []

    def test_a_line_with_several_problems_does_not_exceed_the_ten(self) -> None:
        assert len(problems_of([b"{}"] * 3)) == 11

    @pytest.mark.parametrize("source", [[], [b"", b"\n", b" \n"], [BOM]], ids=["nothing", "blank lines", "only a BOM"])
    def test_a_source_without_requests_is_invalid(self, source: list[bytes]) -> None:
        assert problems_of(source) == ["it contains no request"]


class TestUrls:
    @pytest.mark.parametrize(("endpoint", "url"), [(ENDPOINT, "/chat/completions"), ("/chat/completions", ENDPOINT)])
    def test_the_version_in_front_of_the_endpoint_makes_no_difference(self, endpoint: str, url: str) -> None:
        source = [request_line("a", url=url), request_line("b", url=endpoint)]
        assert write_requests(source, io.BytesIO(), endpoint=endpoint).warning is None

    def test_requests_that_all_differ_from_the_endpoint_are_written_with_a_warning(self) -> None:
        target = io.BytesIO()
        source = [request_line(name, url="/v1/responses") for name in "ab"]
        written = write_requests(source, target, endpoint="/chat/completions")
        assert written.warning == (
            "Each request's url is /v1/responses, but the batch's endpoint is /chat/completions: "
            "the provider may reject it."
        )
        assert target.getvalue() == b"\n".join([*source, b""])

    @pytest.mark.parametrize("endpoint", [ENDPOINT, "/chat/completions", "/v1/embeddings", "/v1/responses"])
    def test_a_known_endpoint_causes_no_warning(self, endpoint: str) -> None:
        assert endpoint_warning(endpoint) is None

    @pytest.mark.parametrize("endpoint", ["/v1/chat/completion", "/v1/v1/embeddings", "/v1/", "/v2/embeddings"])
    def test_an_unknown_endpoint_causes_a_warning_that_lists_the_known_ones(self, endpoint: str) -> None:
        warning = endpoint_warning(endpoint) or ""
        assert warning.startswith(f"Unknown endpoint {endpoint}: the provider may reject it after the upload.")
        assert "/v1/chat/completions, " in warning

    @pytest.mark.parametrize("urls", [[ENDPOINT, "/v1/embeddings"], ["/v1/embeddings", ENDPOINT]], ids=str)
    def test_requests_that_differ_from_each_other_are_named_with_both_lines(self, urls: list[str]) -> None:
        problems = problems_of([request_line(url, url=url) for url in urls])
        assert problems == [f"line 2: url must be {urls[0]} as on line 1, got {urls[1]!r}"]


class TestLimits:
    @pytest.mark.parametrize("before", [[], [request_line("a") + b"\n"]], ids=["first", "second"])
    def test_a_line_longer_than_all_bytes_allowed_is_one_problem(self, before: list[bytes]) -> None:
        lines = io.BytesIO(b"".join(before) + request_line("b", body={"x": "y" * 5_000}) + b"\n" + request_line("c"))
        source = iter(lambda: lines.readline(1_001), b"")
        problem = f"more than 1,000 bytes, reached at line {len(before) + 1}: use several batches"
        assert problems_of(source, max_bytes=1_000) == [problem]

    def test_blank_lines_do_not_count_as_requests(self) -> None:
        requests = [request_line(str(n)) for n in range(3)]
        assert write([*requests, b"\n"], max_requests=3).count(b"\n") == 3
        assert problems_of(requests, max_requests=1) == ["more than 1 request: use several batches"]
        assert problems_of(requests, max_requests=2) == ["more than 2 requests: use several batches"]

    def test_an_endless_source_ends_at_50_000_requests(self) -> None:
        def endless() -> Iterator[bytes]:
            n = 0
            while n := n + 1:
                yield request_line(str(n))

        assert problems_of(endless()) == ["more than 50,000 requests: use several batches"]

    def test_more_bytes_than_allowed_are_named_with_the_line(self) -> None:
        size = len(request_line()) + 1
        assert len(write([request_line("a"), request_line("b")], max_bytes=2 * size)) == 2 * size
        problem = f"more than {2 * size - 1} bytes, reached at line 3: use several batches"
        assert problems_of([request_line("a"), b"", request_line("b")], max_bytes=2 * size - 1) == [problem]

    def test_too_many_requests_are_named_before_other_problems(self) -> None:
        first, *others = problems_of([b"nonsense"] * 20, max_requests=15)
        assert first == "more than 15 requests: use several batches"
        assert len(others) == 11
