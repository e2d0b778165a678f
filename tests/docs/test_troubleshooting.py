"""Every log line and error text that docs/troubleshooting.md quotes is one of the package's."""

from __future__ import annotations

import ast
import itertools
import re
from errno import ECONNREFUSED
from functools import cache
from ssl import SSLError
from typing import Literal

import pytest

from airflow_provider_portkey.batch import Batch, BatchStatus, RequestCounts
from airflow_provider_portkey.failures import error_from_response, network_error
from airflow_provider_portkey.http import Request, Response
from airflow_provider_portkey.settings import Settings
from airflow_provider_portkey.verdict import Policy, judge
from tests.support.markdown import PACKAGE, document, names, rows

PAGE = document("docs/troubleshooting.md")
#: Stands for a part of a text that varies.
GAP = "…"
#: The tables of the page, by their first header cell, whose first column quotes the package.
QUOTING = ("error", "log line", "log line or error")

Argument = Literal["batch_id", "file_id"] | None


def quotes() -> list[str]:
    return [quote for header in QUOTING for row in rows(PAGE.text, header) for quote in names(row[0])]


def literal(node: ast.expr) -> str:
    """Return a string of the source, with a gap for each part of it that varies."""
    match node:
        case ast.Constant(value=str(text)):
            return re.sub(r"%[-+#0 ]*[\d.]*[a-zA-Z]", GAP, text)
        case ast.JoinedStr(values=values):
            return "".join(literal(value) for value in values)
    return GAP


@cache
def texts_of_the_sources() -> frozenset[str]:
    trees = (ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py"))
    strings = (node for tree in trees for node in ast.walk(tree) if isinstance(node, (ast.Constant, ast.JoinedStr)))
    return frozenset(literal(node) for node in strings)


@cache
def texts_of_failed_calls() -> frozenset[str]:
    """The first lines of the errors for each status, of each who may fail, and for what HTTP libraries raise."""
    settings = Settings.from_connection("c", password="key", extra='{"virtual_key": "slug"}')
    bare = Settings.from_connection("c", host="localhost", extra='{"managed": true}')
    bearer = Settings.from_connection("c", password="key", extra='{"managed": true, "auth": "bearer"}')
    unknown_name = b'{"status": "failure", "message": "Following keys are not valid: x"}'
    bodies = (b'{"status": "failure"}', unknown_name, b'{"provider": "openai"}', b"")
    arguments: tuple[Argument, ...] = ("batch_id", "file_id", None)
    texts: dict[str, str] = {}
    for status, body, argument, of in itertools.product(range(300, 600), bodies, arguments, (settings, bare, bearer)):
        error = error_from_response(Response(status, {}, body), Request("GET", "u", "s", argument), of)
        text = str(error).split("\n")[0]
        texts.setdefault(text.replace(f"HTTP {status}", ""), text)  # one of those that differ in the status alone
    return frozenset(texts.values()) | texts_of_network_errors()


@cache
def texts_of_network_errors() -> frozenset[str]:
    """The first lines of the errors for what HTTP libraries raise."""
    settings = Settings.from_connection("c", password="key", extra='{"virtual_key": "slug"}')
    errors = (
        ConnectionRefusedError(ECONNREFUSED, "refused"),
        ConnectionResetError(),
        TimeoutError("timed out"),
        SSLError(),
        SSLError("[SSL: WRONG_VERSION_NUMBER] wrong version number"),
    )
    request = Request("GET", "u", "s")
    return frozenset(str(network_error(error, request, settings)).split("\n")[0] for error in errors)


@cache
def texts_of_batches() -> frozenset[str]:
    """A batch in a log line, and the first lines of the verdicts on its ends."""
    counts = (RequestCounts(), RequestCounts(2, 1, 1), RequestCounts(2, 0, 2))
    batches = [Batch("b", status, status.value, request_counts=count) for status in BatchStatus for count in counts]
    policies = (Policy(), Policy(allowed_statuses=(BatchStatus.FAILED,)))
    reasons = {judge(batch, policy).reason for batch in batches for policy in policies}
    return frozenset({text.split("\n")[0] for text in reasons} | {str(batch) for batch in batches})


def occurs(quote: str, text: str) -> bool:
    """Whether ``text`` has the words between the gaps of ``quote``, in their order."""
    return re.search(".*".join(re.escape(words.strip()) for words in quote.split(GAP)), text) is not None


def test_the_page_quotes_something_in_each_of_its_sections() -> None:
    assert len(quotes()) > 40


@pytest.mark.parametrize("quote", quotes())
def test_a_quoted_text_is_in_the_package(quote: str) -> None:
    assert len(quote.replace(GAP, "").strip()) >= 12, "too few words to find anything by"
    assert any(occurs(quote, text) for text in texts_of_the_sources() | texts_of_failed_calls() | texts_of_batches())


@pytest.mark.parametrize("text", sorted(texts_of_failed_calls()))
def test_each_first_line_of_a_failed_call_is_on_the_page(text: str) -> None:
    assert any(occurs(quote, text) for quote in quotes())
