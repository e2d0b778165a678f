"""A row of any provider's output becomes one answer: its text, error, tokens and id."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_portkey import answers
from airflow_provider_portkey.answers import EMPTY, UNREADABLE, Answer, AnswerError, Usage, read_answers, read_row
from airflow_provider_portkey.exceptions import PortkeyInputError


@dataclass(frozen=True)
class Row:
    """A row as a provider writes it, and the answer that it is."""

    row: dict[str, Any]
    text: str | None = None
    error: AnswerError | None = None
    finish_reason: str | None = None
    model: str | None = None
    usage: Usage = field(default_factory=Usage)


def openai(body: Any, status: Any = 200, error: Any = None) -> dict[str, Any]:
    response = {"status_code": status, "request_id": "r", "body": body}
    return {"id": "batch_req_1", "custom_id": "id-1", "response": response, "error": error}


def chat(content: Any, **message: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": content} | message}]}


def bedrock(output: Any) -> dict[str, Any]:
    return {"recordId": "id-1", "modelInput": {}, "modelOutput": output}


def vertex(response: Any, status: str = "") -> dict[str, Any]:
    return {"requestId": "id-1", "status": status, "request": {"contents": []}, "response": response}


def anthropic(result: dict[str, Any]) -> dict[str, Any]:
    return {"custom_id": "id-1", "result": result}


MESSAGE = {
    "model": "claude-3",
    "content": [{"type": "text", "text": "Да, "}, {"type": "text", "text": "好"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 2, "cache_read_input_tokens": 1},
}

ROWS = {
    "OpenAI chat": Row(
        openai(
            {
                "model": "gpt-4o-mini",
                "choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}],
                "usage": {
                    "prompt_tokens": 9,
                    "completion_tokens": 4,
                    "prompt_tokens_details": {"cached_tokens": 5},
                    "completion_tokens_details": {"reasoning_tokens": 2},
                },
            }
        ),
        "Hello",
        finish_reason="stop",
        model="gpt-4o-mini",
        usage=Usage(9, 4, 5, 2),
    ),
    "OpenAI chat, content in parts": Row(
        openai(chat([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])), "ab"
    ),
    "OpenAI chat, empty content": Row(openai(chat("")), ""),
    "OpenAI chat, tool calls": Row(openai(chat(None, tool_calls=[{"id": "call_1"}])), None),
    "OpenAI chat, refusal": Row(openai(chat(None, refusal="I cannot help with that.")), None),
    "OpenAI chat, cut at its token limit": Row(
        openai({"choices": [{"message": {"content": "Once upon"}, "finish_reason": "length"}]}),
        "Once upon",
        finish_reason="length",
    ),
    "OpenAI responses": Row(
        openai(
            {
                "status": "completed",
                "error": None,
                "output": [
                    {"type": "reasoning", "summary": []},
                    {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]},
                ],
                "usage": {
                    "input_tokens": 1,
                    "output_tokens": 2,
                    "input_tokens_details": {"cached_tokens": 0},
                    "output_tokens_details": {"reasoning_tokens": 1},
                },
            }
        ),
        "Hi",
        finish_reason="completed",
        usage=Usage(1, 2, 0, 1),
    ),
    "OpenAI responses, incomplete": Row(
        openai(
            {
                "status": "incomplete",
                "incomplete_details": {"reason": "max_output_tokens"},
                "output": [{"content": [{"type": "output_text", "text": "Hi"}]}],
            }
        ),
        "Hi",
        finish_reason="max_output_tokens",
    ),
    "OpenAI completions": Row(openai({"choices": [{"text": "x", "finish_reason": "stop"}]}), "x", finish_reason="stop"),
    "OpenAI embeddings": Row(
        openai({"data": [{"embedding": [0.1]}], "model": "e", "usage": {"prompt_tokens": 3}}),
        model="e",
        usage=Usage(3),
    ),
    "OpenAI, failed with an HTTP status": Row(
        openai({"error": {"code": "rate_limit_exceeded", "message": "Slow down."}}, 429),
        error=AnswerError("rate_limit_exceeded", "Slow down."),
    ),
    "OpenAI, failed with a type and no code": Row(
        openai({"error": {"code": None, "type": "server_error", "message": "Oops."}}, 500),
        error=AnswerError("server_error", "Oops."),
    ),
    "OpenAI, failed with a status alone": Row(openai({}, 503), error=AnswerError("503", "the provider gave no reason")),
    "OpenAI, expired before it was processed": Row(
        {"custom_id": "id-1", "response": None, "error": {"code": "batch_expired", "message": "Expired."}},
        error=AnswerError("batch_expired", "Expired."),
    ),
    "status 200, with an error in the body": Row(
        openai({"error": {"message": "Malformed input"}}), error=AnswerError("error", "Malformed input")
    ),
    "neither response nor error": Row(
        {"custom_id": "id-1", "response": None, "error": None},
        error=AnswerError(EMPTY, "the row has neither an answer nor an error"),
    ),
    "Vertex through the gateway, answered": Row(openai(chat("Sí")) | {"error": ""}, "Sí"),
    "Vertex through the gateway, failed": Row(
        openai(False, 200, {"code": 429, "message": "Quota."}), error=AnswerError("429", "Quota.")
    ),
    "Vertex through the gateway, failed with a text": Row(
        openai(False, 200, "Bad Request: no contents"), error=AnswerError("error", "Bad Request: no contents")
    ),
    "Vertex": Row(
        vertex(
            {
                "modelVersion": "gemini",
                "candidates": [
                    {
                        "content": {"parts": [{"text": "thinking", "thought": True}, {"text": "Привет"}]},
                        "finishReason": "STOP",
                    }
                ],
                "usageMetadata": {
                    "promptTokenCount": 5,
                    "candidatesTokenCount": 6,
                    "cachedContentTokenCount": 1,
                    "thoughtsTokenCount": 2,
                },
            }
        ),
        "Привет",
        finish_reason="STOP",
        model="gemini",
        usage=Usage(5, 6, 1, 2),
    ),
    "Vertex embeddings": Row({"instance": {"content": "x", "requestId": "id-1"}, "predictions": [[0.1]], "status": ""}),
    "Vertex embeddings, failed": Row(
        {"instance": {"requestId": "id-1"}, "predictions": [], "status": "Bad Request"},
        error=AnswerError("error", "Bad Request"),
    ),
    "Vertex, blocked": Row(vertex({"promptFeedback": {"blockReason": "SAFETY"}}), finish_reason="SAFETY"),
    "Vertex, failed with a JSON status": Row(
        vertex({}, '{"error": {"code": 400, "message": "Bad."}}'), error=AnswerError("400", "Bad.")
    ),
    "Vertex, failed with a text": Row(vertex({}, "Bad Request"), error=AnswerError("error", "Bad Request")),
    "Vertex, older rows": Row(
        {
            "request": {"labels": {"custom_id": "id-1"}},
            "response": {"candidates": [{"content": {"parts": [{"text": "x"}]}}]},
        },
        "x",
    ),
    "Anthropic": Row(
        anthropic({"type": "succeeded", "message": MESSAGE}),
        "Да, 好",
        finish_reason="end_turn",
        model="claude-3",
        usage=Usage(3, 2, 1),
    ),
    "Anthropic, errored": Row(
        anthropic({"type": "errored", "error": {"type": "invalid_request", "message": "No."}}),
        error=AnswerError("invalid_request", "No."),
    ),
    "Anthropic, errored, nested once more": Row(
        anthropic({"type": "errored", "error": {"type": "error", "error": {"type": "overloaded", "message": "Busy."}}}),
        error=AnswerError("overloaded", "Busy."),
    ),
    "Anthropic, expired": Row(anthropic({"type": "expired"}), error=AnswerError("expired", "the request expired")),
    "Bedrock, Anthropic": Row(
        bedrock(MESSAGE), "Да, 好", finish_reason="end_turn", model="claude-3", usage=Usage(3, 2, 1)
    ),
    "Bedrock, Nova": Row(
        bedrock(
            {
                "output": {"message": {"content": [{"text": "N"}]}},
                "stopReason": "end_turn",
                "usage": {"inputTokens": 1, "outputTokens": 2},
            }
        ),
        "N",
        finish_reason="end_turn",
        usage=Usage(1, 2),
    ),
    "Bedrock, Llama": Row(
        bedrock({"generation": "L", "stop_reason": "stop", "prompt_token_count": 1, "generation_token_count": 2}),
        "L",
        finish_reason="stop",
        usage=Usage(1, 2),
    ),
    "Bedrock, Titan": Row(
        bedrock(
            {"inputTextTokenCount": 1, "results": [{"outputText": "T", "tokenCount": 2, "completionReason": "FINISH"}]}
        ),
        "T",
        finish_reason="FINISH",
        usage=Usage(1, 2),
    ),
    "Bedrock, Mistral": Row(bedrock({"outputs": [{"text": "M", "stop_reason": "stop"}]}), "M", finish_reason="stop"),
    "Bedrock, Mistral chat": Row(bedrock(chat("M")), "M"),
    "Bedrock, Cohere": Row(bedrock({"text": "C", "finish_reason": "COMPLETE"}), "C", finish_reason="COMPLETE"),
    "Bedrock, Cohere generations": Row(bedrock({"generations": [{"text": "C"}]}), "C"),
    "members of the wrong type": Row(openai({"candidates": [{"content": {"parts": 5}}], "output": [{"content": 5}]})),
    "OpenAI, failed with a status as text": Row(
        openai({}, "503"),
        error=AnswerError("503", "the provider gave no reason"),
    ),
    "Bedrock, failed": Row(
        {"recordId": "id-1", "modelInput": {}, "error": {"errorCode": 400, "errorMessage": "Bad."}},
        error=AnswerError("400", "Bad."),
    ),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_row_becomes_an_answer(row: Row) -> None:
    answer = read_row(json.dumps(row.row, ensure_ascii=False).encode())

    assert (answer.custom_id, answer.text, answer.error) == ("id-1", row.text, row.error)
    assert (answer.finish_reason, answer.model, answer.usage) == (row.finish_reason, row.model, row.usage)


def test_a_failed_record_without_an_id_is_an_error_of_an_unknown_request() -> None:
    answer = read_row(b'{"errorCode": 500, "errorMessage": "Internal"}')

    assert (answer.custom_id, answer.error) == (None, AnswerError("500", "Internal"))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (b'{"custom_id": "a", "respon', "not valid JSON"),
        (b"[1, 2]", "not a JSON object but list"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
    ],
    ids=["cut off", "a list", "binary", "nested too deep"],
)
def test_an_unreadable_row_is_an_answer_with_an_error(row: bytes, problem: str) -> None:
    answer = read_row(row, "line 7 of output.jsonl")

    assert answer.custom_id is None
    assert answer.error is not None
    assert answer.error.code == UNREADABLE
    assert answer.error.message.startswith(f"line 7 of output.jsonl is {problem}")


MEMBERS = st.sampled_from(
    [
        "custom_id",
        "response",
        "result",
        "error",
        "modelOutput",
        "recordId",
        "requestId",
        "status",
        "body",
        "choices",
        "message",
        "content",
        "output",
        "candidates",
        "parts",
        "type",
        "usage",
        "errorCode",
        "request",
        "text",
    ]
)
LEAF = st.none() | st.booleans() | st.integers() | st.sampled_from(["", "x", "{", "succeeded"])
JSON = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(MEMBERS, inner, max_size=3), max_leaves=12
)
ROW = st.dictionaries(MEMBERS, JSON)


@given(ROW)
def test_any_row_becomes_an_answer_of_the_declared_types(row: dict[str, Any]) -> None:
    answer = read_row(json.dumps(row).encode())

    assert isinstance(answer.custom_id, str | None)
    assert isinstance(answer.text, str | None)
    assert isinstance(answer.finish_reason, str | None)
    assert isinstance(answer.model, str | None)
    assert all(isinstance(count, int | None) for count in vars(answer.usage).values())
    if answer.error is not None:
        assert (type(answer.error.code), type(answer.error.message)) == (str, str)
    assert answer.body or answer.error, "a row without an answer must have an error"


def write(path: Path, *lines: str, end: str = "\n") -> str:
    path.write_text("\n".join(lines) + end, encoding="utf-8")
    return str(path)


def texts(answers: Any) -> list[tuple[str | None, str | None]]:
    return [(answer.custom_id, answer.text) for answer in answers]


def line(custom_id: str, text: str) -> str:
    return json.dumps({"custom_id": custom_id, "response": {"body": chat(text)}}, ensure_ascii=False)


def test_answers_are_read_from_a_path_a_manifest_or_several(tmp_path: Path) -> None:
    output = write(tmp_path / "output.jsonl", line("a", "1"), "", line("b", "2"))
    error = write(tmp_path / "error.jsonl", line("c", "3"), end="")

    assert texts(read_answers(output)) == [("a", "1"), ("b", "2")]
    assert texts(read_answers(tmp_path / "output.jsonl")) == [("a", "1"), ("b", "2")]
    manifest = {"output": {"path": output}, "error": {"path": error}}
    assert texts(read_answers(manifest)) == [("a", "1"), ("b", "2"), ("c", "3")]
    assert texts(read_answers([manifest, error])) == [("a", "1"), ("b", "2"), ("c", "3"), ("c", "3")]
    assert texts(read_answers({"output": None, "error": {"path": error}})) == [("c", "3")]


def test_texts_can_be_stored_in_a_database() -> None:
    answer = read_row(b'{"custom_id": "a\\u0000", "response": {"body": {"choices": [{"text": "x\\ud800"}]}}}')

    assert (answer.custom_id, answer.text) == ("a", "x?")


def test_only_a_line_feed_ends_a_row(tmp_path: Path) -> None:
    path = write(tmp_path / "output.jsonl", line("a", "1\u2028\u2029\x85"))

    assert texts(read_answers(path)) == [("a", "1\u2028\u2029\x85")]


def test_a_row_that_is_too_large_is_one_unreadable_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_ROW_BYTES", 200)
    path = write(tmp_path / "output.jsonl", line("a", "x" * 1000), line("b", "2"))

    first, second = read_answers(path)

    assert first.error is not None
    assert (first.custom_id, first.error.message) == ("a", f"line 1 of {path} is larger than 0 MiB")
    assert second == Answer("b", "2", body=chat("2"))


def test_a_row_that_is_too_large_is_no_answer_though_its_beginning_and_end_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "MAX_ROW_BYTES", 200)
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    body = {"choices": [{"message": {"content": "x" * 5000}}], "model": "m", "usage": usage}
    path = write(tmp_path / "output.jsonl", json.dumps({"custom_id": "a", "response": {"body": body}}))

    [answer] = read_answers(path)

    assert (answer.custom_id, answer.text) == ("a", None)
    assert answer.error is not None
    assert answer.error.code == UNREADABLE


def test_a_dict_that_names_no_file_is_rejected() -> None:
    with pytest.raises(PortkeyInputError, match=r"^No file of answers: pass the manifest of a PortkeyDownload"):
        list(read_answers({"id": "batch_1"}))
