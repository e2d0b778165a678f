"""A failed call becomes one error: who failed, at what, what to change; and no secret is in it."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from airflow_provider_portkey.calls import list_batches
from airflow_provider_portkey.exceptions import PortkeyApiError
from airflow_provider_portkey.exceptions import PortkeyRefusedError as Refused
from airflow_provider_portkey.exceptions import PortkeyTransientError as Transient
from airflow_provider_portkey.failures import network_error
from airflow_provider_portkey.text import sentence
from tests.support.calls import API_KEY, PLAIN, SECRETS, VIRTUAL_KEY, WITH_SECRETS, error_of, read_settings


def openai(message: str) -> dict[str, Any]:
    """Return an error of the provider, as Portkey returns it."""
    return {"error": {"message": f"openai error: {message}", "type": "t"}, "provider": "openai"}


def portkey(message: str) -> dict[str, Any]:
    """Return an error of Portkey itself."""
    return {"status": "failure", "message": message}


BAD_KEY = portkey("Portkey Error: Invalid API Key. Error Code: 03") | {"error": {"message": "Invalid API Key"}}
HTML = b"<html><h1>Bad\nGateway</h1></html>"
UNKNOWN_NAME = "Unknown virtual key, provider or config (HTTP 400): check the extra of connection 'my_portkey'"
WRONG_KEY = "API key rejected by Portkey (HTTP 401): check the password of connection 'my_portkey'"
UNKNOWN_BATCH = "Unknown batch (HTTP 404): check batch_id and the provider of connection 'my_portkey'"
NO_API = "No API at this address (HTTP 404): check the host of connection 'my_portkey'"
NO_SCOPE = (
    "The Portkey API key lacks a scope (batches need completions.write), or the organisation has a gateway of its own"
)
OWN_CREDENTIAL = "The provider's own credential is wrong or lacks a permission."
TEMPORARY = "usually temporary, retry later"


class Failure(NamedTuple):
    """The HTTP status and body of a response, and the error that it becomes."""

    status: int
    body: Any
    kind: type[PortkeyApiError]
    origin: str
    #: Cause and remedy.
    first_line: str
    #: Who responded and in which words, as the details quote them.
    who: str
    words: str
    #: What the last line has besides.
    advice: str = ""


FAILURES = [
    Failure(
        400,
        portkey("Following keys are not valid: x"),
        Refused,
        "portkey",
        UNKNOWN_NAME,
        "Portkey",
        "Following keys are not valid: x",
        "Portkey does not know the virtual_key, provider or config in the connection's extra.",
    ),
    Failure(
        400,
        openai("bad batch_id"),
        Refused,
        "provider",
        "Request rejected by provider 'openai' (HTTP 400): check batch_id",
        "provider 'openai'",
        "openai error: bad batch_id",
    ),
    Failure(
        401,
        BAD_KEY,
        Refused,
        "portkey",
        WRONG_KEY,
        "Portkey",
        "Invalid API Key",
        "The Portkey API key, the connection's password, is wrong or expired.",
    ),
    Failure(
        401,
        openai("Incorrect API key"),
        Refused,
        "provider",
        "Credential rejected by provider 'openai' (HTTP 401): correct it in Portkey or in headers",
        "provider 'openai'",
        "openai error: Incorrect API key",
        OWN_CREDENTIAL,
    ),
    Failure(
        403,
        portkey("Portkey Error: Forbidden!"),
        Refused,
        "portkey",
        "Permission denied by Portkey (HTTP 403): check scopes and host of connection 'my_portkey'",
        "Portkey",
        "Portkey Error: Forbidden!",
        NO_SCOPE,
    ),
    Failure(
        403,
        b"Portkey Error: Forbidden!",
        Refused,
        "gateway",
        "Permission denied by the gateway (HTTP 403): check scopes and host of connection 'my_portkey'",
        "the gateway",
        "Portkey Error: Forbidden!",
        NO_SCOPE,
    ),
    Failure(
        403,
        openai("no permission"),
        Refused,
        "provider",
        "Credential rejected by provider 'openai' (HTTP 403): correct it in Portkey or in headers",
        "provider 'openai'",
        "openai error: no permission",
        OWN_CREDENTIAL,
    ),
    Failure(
        404,
        openai("No batch found"),
        Refused,
        "provider",
        UNKNOWN_BATCH,
        "provider 'openai'",
        "openai error: No batch found",
        "provider and workspace that it was created in",
    ),
    Failure(
        404,
        portkey("Batch not found"),
        Refused,
        "portkey",
        UNKNOWN_BATCH,
        "Portkey",
        "Batch not found",
        "provider and workspace that it was created in",
    ),
    Failure(
        404,
        {"message": "Not Found", "ok": False},
        Refused,
        "gateway",
        NO_API,
        "the gateway",
        "Not Found",
        "the connection's host must be the API's base URL",
    ),
    Failure(
        407,
        b"",
        Refused,
        "gateway",
        "Proxy credentials rejected (HTTP 407): check proxy of connection 'my_portkey' or HTTP_PROXY",
        "the proxy",
        "empty body",
    ),
    Failure(
        408,
        {"error": {"type": "timeout_error"}},
        Transient,
        "gateway",
        f"The gateway timed out (HTTP 408): {TEMPORARY}",
        "the gateway",
        '{"error": {"type": "timeout_error"}}',
    ),
    Failure(
        412,
        {"error": {"type": "budget_exhaust_error"}},
        Refused,
        "gateway",
        "Budget or limit exhausted in Portkey (HTTP 412): raise it there",
        "the gateway",
        '{"error": {"type": "budget_exhaust_error"}}',
    ),
    Failure(
        429,
        openai("slow down"),
        Transient,
        "provider",
        "Rate limited by provider 'openai' (HTTP 429): temporary, retry later",
        "provider 'openai'",
        "openai error: slow down",
    ),
    Failure(
        429,
        portkey("limit"),
        Transient,
        "portkey",
        "Rate limited by Portkey (HTTP 429): temporary, retry later",
        "Portkey",
        "limit",
    ),
    Failure(
        446,
        {"error": {"message": "hooks_failed"}},
        Refused,
        "gateway",
        "Call denied by a guardrail in Portkey (HTTP 446): change the guardrail or the request",
        "the gateway",
        "hooks_failed",
    ),
    Failure(
        500,
        portkey("Something went wrong"),
        Transient,
        "portkey",
        f"Portkey failed (HTTP 500): {TEMPORARY}",
        "Portkey",
        "Something went wrong",
    ),
    Failure(
        502,
        {"html-message": HTML.decode()},
        Transient,
        "gateway",
        f"The gateway failed (HTTP 502): {TEMPORARY}",
        "the gateway",
        "Bad Gateway",
    ),
    Failure(
        502,
        HTML,
        Transient,
        "gateway",
        f"The gateway failed (HTTP 502): {TEMPORARY}",
        "the gateway",
        "Bad Gateway",
    ),
    Failure(
        503,
        openai("busy"),
        Transient,
        "provider",
        f"Provider 'openai' failed (HTTP 503): {TEMPORARY}",
        "provider 'openai'",
        "openai error: busy",
    ),
    Failure(
        504,
        b"",
        Transient,
        "gateway",
        f"The gateway failed (HTTP 504): {TEMPORARY}",
        "the gateway",
        "empty body",
    ),
    Failure(
        529,
        b"\xff",
        Transient,
        "gateway",
        f"The gateway failed (HTTP 529): {TEMPORARY}",
        "the gateway",
        "\N{REPLACEMENT CHARACTER}",
    ),
    Failure(
        307,
        b"",
        Refused,
        "gateway",
        "Redirect not followed (HTTP 307): set host to the final address (connection 'my_portkey')",
        "the gateway",
        "redirect without a Location, not followed since it would send the API key to another address",
    ),
    Failure(
        422,
        [],
        Refused,
        "gateway",
        "Request rejected by the gateway (HTTP 422): []",
        "the gateway",
        "[]",
    ),
]
# Where a body may hold an error's message, in the order of precedence.
PLACES: list[dict[str, Any]] = [
    {"error": {"message": "1"}},
    {"error": "2"},
    {"message": "3"},
    {"message": {"error": "4"}},
    {"data": {"message": "5"}},
    {"html-message": "6"},
]
HOST = "check host, DNS, firewall and proxy"
TLS = "TLS handshake with api.portkey.ai failed: check verify of connection 'my_portkey'"
NO_TLS = "api.portkey.ai does not speak TLS: if it is plain HTTP, write http:// in host"
TIME_LIMIT = "No response from api.portkey.ai in time: usually temporary, retry later"
# What the HTTP library raised; the first line of the error, and words of its last line.
NETWORK_ERRORS = [
    (
        ConnectionRefusedError(111, "Connection refused"),
        f"Cannot reach api.portkey.ai (ConnectionRefusedError): {HOST}",
        "Check the host of connection",
    ),
    (
        OSError("Cannot connect to host gw.example:443 ssl:default [Connect call failed]"),
        f"No usable response from api.portkey.ai (OSError): {HOST}",
        "Check the host of connection",
    ),  # in aiohttp's words
    (
        OSError("HTTPSConnectionPool: Max retries exceeded with url: /v1/batches/b_aTLs9"),
        f"No usable response from api.portkey.ai (OSError): {HOST}",
        "Check the host of connection",
    ),
    (OSError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate"), TLS, "signed by a private CA"),
    (OSError("certificate verify failed: certificate has expired"), TLS, "signed by a private CA"),
    (OSError("[SSL: WRONG_VERSION_NUMBER] wrong version number"), NO_TLS, "without a scheme means https://"),
    (OSError("[SSL] record layer failure (_ssl.c:1006)"), NO_TLS, "without a scheme means https://"),
    (TimeoutError(), TIME_LIMIT, "The limits are timeout=90 s for a request and connect_timeout=10 s"),
    (OSError("Read timed out. (read timeout=90)"), TIME_LIMIT, "The limits are timeout=90 s for a request"),
]


@pytest.mark.parametrize(
    "failure", FAILURES, ids=[f"{failure.origin}, HTTP {failure.status}: {failure.words}" for failure in FAILURES]
)
def test_an_error_says_who_failed_and_what_to_change(failure: Failure) -> None:
    error = error_of(failure.status, failure.body)
    assert (type(error), error.status_code, error.origin) == (failure.kind, failure.status, failure.origin)
    assert error.retry_after is None
    call = "while retrieving batch 'batch_1' (connection 'my_portkey', https://api.portkey.ai/v1/batches/batch_1)"
    first, *details = str(error).splitlines()
    assert first == failure.first_line
    assert f"HTTP {failure.status} from {failure.who} {call}: {sentence(failure.words)}" in details
    assert failure.advice in details[-1]


def test_headers_name_the_origin_retry_after_and_redirect() -> None:
    by_provider = {"x-portkey-provider": "openai"}
    assert [error_of(code, BAD_KEY, by_provider).origin for code in (401, 500)] == ["portkey", "portkey"]
    assert [error_of(code, b"no", by_provider).origin for code in (401, 500)] == ["provider", "gateway"]
    assert error_of(429, b"", {"retry-after": "7"}).retry_after == 7
    redirect = error_of(302, b"", {"location": "https://other.example/v1?token=t"})
    assert "redirect to https://other.example/v1, not followed" in str(redirect)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"type": "provider_error", "code": 404, "message": "NoSuchKey"}, Refused),
        ({"error": {"type": "provider_error", "code": 403, "message": "AccessDenied"}}, Refused),
        ({"type": "provider_error", "code": 429, "message": "Slow down"}, Transient),
        ({"type": "provider_error", "code": 503, "message": "SlowDown"}, Transient),
        (portkey("Model is required"), Refused),
        (portkey("Invalid model slug"), Refused),
        (portkey("Invalid file extension"), Refused),
        (portkey("Something went wrong"), Transient),
    ],
    ids=str,
)
def test_a_permanent_error_that_the_gateway_reports_as_http_500_is_permanent(body: Any, kind: type) -> None:
    assert type(error_of(500, body)) is kind


def test_the_first_message_in_the_body_is_quoted() -> None:
    for n in range(6):
        body: dict[str, Any] = {}
        for place in reversed(PLACES[n:]):
            body |= place
        assert str(error_of(422, body)).endswith(f": {n + 1}.")


@pytest.mark.parametrize(("error", "first_line", "advice"), NETWORK_ERRORS, ids=str)
def test_a_network_error_says_what_to_check(error: Exception, first_line: str, advice: str) -> None:
    found = network_error(error, list_batches(PLAIN), PLAIN)
    assert (type(found), found.origin, found.status_code) == (Transient, "network", None)
    first, call, last = str(found).splitlines()
    assert first == first_line
    assert call.startswith("No response while listing batches (connection 'my_portkey', https://api.portkey.ai/v1/")
    assert f"{type(error).__name__}: {str(error) or 'no details'}" in call
    assert advice in last


@pytest.mark.parametrize("body", [BAD_KEY, HTML, b""], ids=["Portkey", "an HTML page", "empty"])
def test_a_401_for_a_connection_without_a_key_says_that_it_is_missing(body: Any) -> None:
    without_key = read_settings(VIRTUAL_KEY, None, host="https://gw.example")
    lines = str(error_of(401, body, None, without_key)).splitlines()
    assert lines[0] == "API key missing (HTTP 401): set the password of connection 'my_portkey'"
    assert lines[-1] == "The call needs an API key, and the connection's password is empty."


def test_a_long_body_is_cut_short() -> None:
    long = "x" * 10_000
    for body in (portkey(long), long.encode(), {"provider": long}, {long: 1}, {"id": long, "status": long}):
        for status in (200, 302, 500):
            assert len(str(error_of(status, body, {"location": long}))) < 1500


@pytest.mark.parametrize("place", ["message", "error", "id", "provider", "odd", "a name", "data", "the text", "a list"])
@hypothesis(deadline=None)
@given(st.sampled_from([200, 302, 401, 500]), st.sampled_from([*SECRETS, *WITH_SECRETS.secrets]), st.integers(0, 420))
@example(401, API_KEY, 25)  # where a provider's name, a list and a message are cut
@example(200, API_KEY, 185)
@example(500, API_KEY, 285)
def test_no_message_has_a_piece_of_a_secret(place: str, status: int, secret: str, at: int) -> None:
    text = f"{'.' * at} {secret} "
    odd = {"a name": {text: 1}, "data": {"data": {"message": text}}, "the text": text.encode(), "a list": [text]}
    body = odd.get(place, {place: text, "status": None})
    error = error_of(status, body, {"location": text, "x-portkey-provider": text}, WITH_SECRETS)
    no_response = network_error(OSError(text), list_batches(WITH_SECRETS), WITH_SECRETS)
    pieces = {one[start : start + 8] for one in SECRETS for start in range(len(one) - 7)}
    assert [piece for piece in pieces if piece in f"{error} {error!r} {no_response}"] == []


def test_words_that_are_not_secret_are_shown() -> None:
    assert "): Use openai, not ***." in str(error_of(400, portkey(f"Use openai, not {API_KEY}")))
