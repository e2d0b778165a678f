"""
Who failed a call, while doing what, and what to change: from a response or a network error to an exception.

The first line of each message says cause and remedy. The call, its URL and the provider's words follow.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from airflow_provider_portkey.exceptions import (
    Origin,
    PortkeyApiError,
    PortkeyOutcomeUnknownError,
    PortkeyQuotaError,
    PortkeyRefusedError,
    PortkeyTransientError,
)
from airflow_provider_portkey.http import MAX_RESPONSE_BYTES, Request, Response
from airflow_provider_portkey.retry import parse_retry_after
from airflow_provider_portkey.settings import KEY_HEADERS, ROUTE_HEADERS, Settings
from airflow_provider_portkey.text import decode_json, message, sentence, shorten
from airflow_provider_portkey.verdict import QUOTA

# How much of a body that is not JSON is quoted.
_MAX_TEXT_BYTES = 100_000


class _Meaning(NamedTuple):
    """What a status means. Its texts may have the placeholders of :func:`error_from_response`."""

    error: type[PortkeyApiError]
    #: They make the first line: "{cause} (HTTP 401): {remedy}".
    cause: str
    remedy: str
    #: What the first line has no room for.
    advice: str = ""


_CREDENTIAL = _Meaning(
    PortkeyRefusedError,
    "Credential rejected by {who}",
    "correct it in Portkey or in headers",
    "Portkey accepted the call. The provider's own credential is wrong or lacks a permission. It is stored in Portkey "
    "under the virtual key or provider slug, or in the connection's headers.",
)
_NO_KEY = _Meaning(
    PortkeyRefusedError,
    "API key missing",
    "set the password of {connection}",
    "The call needs an API key, and the connection's password is empty.",
)
_AUTHORIZATION = _Meaning(
    PortkeyRefusedError,
    "Authorization rejected by {who}",
    "check headers and password of {connection}",
    "Check Authorization in headers in the connection's extra, or the connection's password.",
)

# What the operating system reports when no connection could be made.
_UNREACHABLE = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN)

#: (status, who failed or None for anyone) -> meaning. 100, 300 and 500 stand for all statuses of their kind.
_MEANINGS: dict[tuple[int, Origin | None], _Meaning] = {
    # No final response: what was asked for may have been done.
    (100, None): _Meaning(PortkeyTransientError, "Interim response alone", "check the proxies before {connection}"),
    (300, None): _Meaning(PortkeyRefusedError, "Redirect not followed", "set host to the final address ({connection})"),
    (400, "provider"): _Meaning(PortkeyRefusedError, "Request rejected by {who}", "check {argument}"),
    (400, None): _Meaning(
        PortkeyRefusedError,
        "Unknown virtual key, provider or config",
        "check the extra of {connection}",
        "Portkey does not know the virtual_key, provider or config in the connection's extra.",
    ),
    (401, "provider"): _CREDENTIAL,
    (401, None): _Meaning(
        PortkeyRefusedError,
        "API key rejected by {who}",
        "check the password of {connection}",
        "The Portkey API key, the connection's password, is wrong or expired.",
    ),
    (403, "provider"): _CREDENTIAL,
    (403, None): _Meaning(
        PortkeyRefusedError,
        "Permission denied by {who}",
        "check scopes and host of {connection}",
        "The Portkey API key lacks a scope (batches need completions.write), or the organisation has a gateway of its "
        "own, whose address belongs in the connection's host.",
    ),
    (404, "gateway"): _Meaning(
        PortkeyRefusedError,
        "No API at this address",
        "check the host of {connection}",
        "Nothing answers at that path: the connection's host must be the API's base URL.",
    ),
    (404, None): _Meaning(
        PortkeyRefusedError,
        "Unknown {what}",
        "check {argument} and the provider of {connection}",
        "The connection must name the provider and workspace that it was created in.",
    ),
    (407, None): _Meaning(
        PortkeyRefusedError, "Proxy credentials rejected", "check proxy of {connection} or HTTP_PROXY"
    ),
    (408, None): _Meaning(PortkeyTransientError, "{who} timed out", "usually temporary, retry later"),
    (412, None): _Meaning(PortkeyRefusedError, "Budget or limit exhausted in Portkey", "raise it there"),
    (429, None): _Meaning(PortkeyTransientError, "Rate limited by {who}", "temporary, retry later"),
    (446, None): _Meaning(
        PortkeyRefusedError, "Call denied by a guardrail in Portkey", "change the guardrail or the request"
    ),
    (500, None): _Meaning(PortkeyTransientError, "{who} failed", "usually temporary, retry later"),
}
#: What Portkey says of a virtual key, provider or config that it does not know.
_UNKNOWN_NAME = re.compile(r"keys are not valid|Invalid provider", re.IGNORECASE)
#: What the gateway says, with HTTP 500, of requests that can never succeed.
_PERMANENT = re.compile(r"Model is required|Invalid model slug|Invalid file extension")
#: What OpenAI says of a path that it does not have.
_UNKNOWN_PATH = re.compile(r"Invalid URL \(")
#: Types of errors in providers' words: such an error is a provider's, also where nothing names it.
_PROVIDER_TYPES = {
    "api_error",
    "authentication_error",
    "insufficient_quota",
    "invalid_request_error",
    "not_found_error",
    "overloaded_error",
    "permission_error",
    "provider_error",
    "rate_limit_error",
    "server_error",
}
_QUOTA_FULL = _Meaning(
    PortkeyQuotaError,
    "The provider's queue of batches is full",
    "retry when others have ended",
    "Nothing was processed or paid. Give the task retries and a retry_delay.",
)
_OTHER = _Meaning(PortkeyRefusedError, "Request rejected by {who}", "{text}")


class _Source(NamedTuple):
    """Who failed, as far as a response shows it."""

    origin: Origin
    name: str


def error_from_response(response: Response, request: Request, settings: Settings) -> PortkeyApiError:
    """Return the error for a response of any call whose status is not a success."""
    body = decode_json(response.body)
    status = response.status
    source = _source(response, body, settings)
    text = _text_of(response, body, settings) or "empty body"
    real_status = _real_status(status, body)
    codes = " ".join(str(error.get("code")) for error in _errors(body))
    meaning = _meaning_of(real_status, source.origin, f"{text} {codes}", settings)
    placeholders = {
        "who": source.name,
        "connection": settings.name,
        "argument": request.argument or _param(body, settings) or "what was sent",
        "what": {"batch_id": "batch", "file_id": "or expired file"}.get(request.argument or "", "resource"),
        "text": text,
    }
    cause, remedy, advice = (words.format_map(placeholders) for words in meaning[1:])
    if 300 <= status < 400:
        location = re.sub(r"//[^/?#]*@", "//", response.headers.get("location", "")).split("?")[0]
        target = f"to {shorten(settings.redact(location))}" if location else "without a Location"
        text = f"redirect {target}, not followed since it would send the API key to another address."
    return meaning.error(
        message(
            f"{cause[0].upper()}{cause[1:]} (HTTP {real_status}): {remedy}",
            f"HTTP {status} from {source.name} {_while(request, settings)}: {sentence(text)}",
            advice,
        ),
        status_code=real_status,
        origin=source.origin,
        retry_after=parse_retry_after(response.headers, time.time()),
        is_foreign=_is_foreign(response, body),
        response_text=text,
    )


def unexpected_body(
    problem: Exception, response: Response, request: Request, settings: Settings
) -> PortkeyTransientError:
    """Return the error for a successful response whose body is not what the call returns."""
    body = decode_json(response.body)
    source = _source(response, body, settings)
    text = _text_of(response, body, settings) or "empty"
    cause = f"Unexpected response from {source.name} (HTTP {response.status})"
    return PortkeyTransientError(
        message(
            f"{cause}: check the host of {settings.name}" if source.origin == "gateway" else f"{cause}: {text}",
            f"HTTP {response.status} from {source.name} {_while(request, settings)}.",
            sentence(f"Unexpected body ({problem}): {text}"),
        ),
        status_code=response.status,
        origin=source.origin,
    )


def no_rows(response: Response, request: Request, settings: Settings) -> PortkeyTransientError:
    """Return the error for an output without a row that can be read, such as an empty one or a list of errors."""
    source = _source(response, None, settings)
    return PortkeyTransientError(
        message(
            "No answers in the batch's output: usually not ready yet, retry later",
            sentence(
                f"HTTP {response.status} from {source.name} {_while(request, settings)}, without a row of answers: "
                f"{_text_of(response, None, settings) or 'empty body'}"
            ),
        ),
        status_code=response.status,
        origin=source.origin,
    )


def other_batch(batch_id: str, response: Response, request: Request, settings: Settings) -> PortkeyTransientError:
    """Return the error for a response about another batch than the one that was asked for."""
    return PortkeyTransientError(
        message(
            f"Response about another batch: check the host of {settings.name}",
            f"HTTP {response.status} {_while(request, settings)}: the response is about batch "
            f"{shorten(settings.redact(batch_id))!r}.",
        ),
        status_code=response.status,
    )


def response_too_large(request: Request, settings: Settings) -> PortkeyTransientError:
    """Return the error for a response of more than :data:`~airflow_provider_portkey.http.MAX_RESPONSE_BYTES`."""
    size = f"{MAX_RESPONSE_BYTES // 2**20} MiB"
    return PortkeyTransientError(
        message(
            f"Response larger than {size}: check the host of {settings.name}",
            f"More than {size} {_while(request, settings)}: larger than any Portkey response, so something else may "
            "answer at that address.",
        )
    )


def rate_limited(
    cause: PortkeyTransientError, left: float, request: Request, settings: Settings
) -> PortkeyTransientError:
    """
    Return the error for a call that was not sent, since a response to another one asked to wait.

    :param cause: the error of that response
    :param left: seconds until calls may be sent again
    """
    return PortkeyTransientError(
        message(
            f"Rate limited for another {left:.0f} s (Retry-After): request not sent ({settings.name})",
            f"The request was not sent {_while(request, settings)}. The response that asked to wait:",
            str(cause),
        ),
        status_code=cause.status_code,
        origin=cause.origin,
        retry_after=left,
    )


def network_error(
    error: BaseException, request: Request, settings: Settings, *, was_sent: bool = True
) -> PortkeyTransientError:
    """
    Return the error for a call without a response, from whatever the HTTP library raised.

    :param was_sent: whether any of the request may have arrived
    """
    root = _root_cause(error)
    cause, advice = _network_advice(root, settings)
    words = shorten(settings.redact(str(root) or "no details"), 300)
    return PortkeyTransientError(
        message(cause, sentence(f"No response {_while(request, settings)}: {type(root).__name__}: {words}"), advice),
        origin="network",
        was_sent=was_sent,
    )


def as_outcome_unknown(error: PortkeyTransientError, request: Request) -> PortkeyApiError:
    """
    Return the error that ``error`` is for ``request``: after a call that must not be repeated, its outcome is unknown.

    A 429 is rejected before any work starts, so repeating it is safe.
    """
    if request.repeatable or not error.was_sent or error.status_code == 429:
        return error
    return PortkeyOutcomeUnknownError(
        message("The call failed, but the batch may exist: search for it before creating another", str(error)),
        status_code=error.status_code,
        origin=error.origin,
        retry_after=error.retry_after,
    )


def _while(request: Request, settings: Settings) -> str:
    return f"while {request.subject} ({settings.full_name}, {request.url})"


def _source(response: Response, body: Any, settings: Settings) -> _Source:
    if isinstance(body, Mapping) and body.get("status") == "failure":
        return _Source("portkey", "Portkey")
    provider = body.get("provider") if isinstance(body, Mapping) else None
    if not provider and response.status < 500:
        # Portkey sends this header with faults of its own too, such as a provider that it could not reach.
        provider = response.headers.get("x-portkey-provider")
    if isinstance(provider, str) and provider:
        return _Source("provider", f"provider {shorten(settings.redact(provider), 20)!r}")
    if any(error.get("type") in _PROVIDER_TYPES for error in _errors(body)[1:]):
        return _Source("provider", "the provider")
    return _Source("gateway", "the proxy" if response.status == 407 else "the gateway")


def _is_foreign(response: Response, body: Any) -> bool:
    """Whether nothing in a response shows that Portkey or a provider wrote it."""
    if not isinstance(body, Mapping) or "html-message" in body:  # the gateway wraps a page of text so
        return not response.body.startswith(b"Portkey Error")
    own = body.get("status") == "failure" or body.get("ok") is False  # the second one is of the gateway's router
    named = body.get("provider") or response.headers.get("x-portkey-provider")
    return not (own or named or isinstance(body.get("error"), Mapping))


def _param(body: Any, settings: Settings) -> str:
    """Return the argument that an error is about, in the provider's words; empty if it names none."""
    params = [error.get("param") for error in _errors(body)]
    return next((shorten(settings.redact(param), 30) for param in params if isinstance(param, str)), "")


def _real_status(status: int, body: Any) -> int:
    """Return the status that a failure has in fact: the gateway reports some permanent ones as HTTP 500."""
    if status != 500 or not isinstance(body, Mapping):
        return status
    for error in _errors(body):
        code = error.get("code")
        if error.get("type") == "provider_error" and isinstance(code, int) and 400 <= code < 500:
            return code
    return 400 if _PERMANENT.search(_error_message(body)) else status


def _errors(body: Any) -> list[Mapping[str, Any]]:
    """Return the objects of a body that may describe an error: itself, and its member ``error``."""
    candidates = (body, body.get("error")) if isinstance(body, Mapping) else ()
    return [candidate for candidate in candidates if isinstance(candidate, Mapping)]


def _meaning_of(status: int, origin: Origin, text: str, settings: Settings) -> _Meaning:
    if status == 400 and QUOTA.search(text):
        return _QUOTA_FULL
    sent = dict(settings.headers).keys()
    if status == 400 and not (sent & set(ROUTE_HEADERS) and _UNKNOWN_NAME.search(text)):
        origin = "provider"  # it is not about a name in the connection
    if status == 401 and origin != "provider" and not sent & KEY_HEADERS:
        return _NO_KEY
    if status == 401 and origin == "gateway" and "x-portkey-api-key" not in sent:
        return _AUTHORIZATION
    if status == 404 and _UNKNOWN_PATH.search(text):
        origin = "gateway"  # it is about the path, and not about what the path names
    kind = 500 if status >= 500 else 300 if 300 <= status < 400 else 100 if status < 200 else status
    keys: list[tuple[int, Origin | None]] = [(status, origin), (status, None), (kind, None)]
    return next((_MEANINGS[key] for key in keys if key in _MEANINGS), _OTHER)


def _text_of(response: Response, body: Any, settings: Settings) -> str:
    """Return what a response says, on one line, without HTML tags and without the secrets that it may quote."""
    text = _error_message(body) or response.body[:_MAX_TEXT_BYTES].decode(errors="replace")
    return shorten(settings.redact(re.sub(r"</?[a-zA-Z!][^<>]{0,1000}>|[\0-\x1f\x7f]", " ", text)), 300)


def _error_message(body: Any) -> str:
    """Find the message in an error's body; Portkey and its providers keep it in different places."""
    if not isinstance(body, Mapping):
        return ""
    error, text, data = body.get("error"), body.get("message"), body.get("data")
    candidates = (
        error.get("message") if isinstance(error, Mapping) else None,
        error,
        text,
        text.get("error") if isinstance(text, Mapping) else None,
        data.get("message") if isinstance(data, Mapping) else None,
        body.get("html-message"),
    )
    return next((c for c in candidates if isinstance(c, str) and c.strip()), "")


def _root_cause(error: BaseException) -> BaseException:
    """Find the error that HTTP libraries wrap, often more than once and with the whole URL."""
    inner = getattr(error, "reason", None) or getattr(error, "os_error", None)
    inner = inner or next((arg for arg in error.args if isinstance(arg, BaseException)), None)
    return _root_cause(inner) if isinstance(inner, BaseException) else error


def _network_advice(error: BaseException, settings: Settings) -> tuple[str, str]:
    """Return the first line for a network error, and what did not fit into it."""
    host = shorten(urlsplit(settings.base_url).hostname or "the host", 25)
    kind = f"{type(error).__name__} {error}"
    # OpenSSL's words for what is no TLS at all; they differ between its versions.
    if re.search(r"WRONG_VERSION_NUMBER|wrong version number|RECORD_LAYER_FAILURE|record layer failure", kind):
        return (
            f"{host} does not speak TLS: if it is plain HTTP, write http:// in host",
            f"The host of {settings.full_name} without a scheme means https://.",
        )
    if re.search(r"SSL|certificate|Certificate", kind):
        return (
            f"TLS handshake with {host} failed: check verify of {settings.name}",
            "If the gateway's certificate is signed by a private CA, name the CA's file in verify in the connection's "
            "extra, or in REQUESTS_CA_BUNDLE or SSL_CERT_FILE.",
        )
    if re.search(r"timed?.?out", kind, re.IGNORECASE):
        return (
            f"No response from {host} in time: usually temporary, retry later",
            f"The limits are timeout={settings.timeout:g} s for a request and "
            f"connect_timeout={settings.connect_timeout:g} s, in the connection's extra.",
        )
    unreachable = getattr(error, "errno", None) in _UNREACHABLE or re.search("gaierror|NameResol|NewConnection", kind)
    problem = "Cannot reach" if unreachable else "No usable response from"
    return (
        f"{problem} {host} ({type(error).__name__}): check host, DNS, firewall and proxy",
        f"Check the host of {settings.full_name}, and DNS, firewall and proxy between this machine and it.",
    )
