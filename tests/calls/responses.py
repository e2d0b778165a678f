"""Tables of responses that several calls are given."""

from __future__ import annotations

from tests.server.standin import Answer
from tests.support.answers import html_page, portkey_error, provider_error, raw_answer

#: One of each kind of failure that a retry may pass; a kind ends in lines of code of its own.
TRANSIENT_FAILURES = {
    "connection reset": Answer(how="reset"),
    "connection closed without a response": Answer(body=b"", how="raw"),
    "response that is not HTTP": Answer(body=b"220 mail.example.com ESMTP\r\n", how="raw"),
    "response cut short": Answer(body=raw_answer(b'{"id": "fi', 900), how="raw"),
    "HTTP 503 with HTML": html_page(503, "down"),
    "HTTP 503 cut short": Answer(503, "x" * 1_000, how="truncate"),
    "HTTP 500 without end": Answer(500, "{", how="flood"),
}
#: Failures in responses of a call that succeeded by its status.
FAILURES_WITH_HTTP_200 = {
    "HTTP 200 with a provider's error": Answer(200, {"error": {"message": "No luck"}, "provider": "bedrock"}),
    "HTTP 200 with an error of Portkey": Answer(200, {"status": "failure", "message": "No luck"}),
}
#: Other statuses that count as transient. They end in the same lines of code for every call.
TRANSIENT_STATUSES = {
    "HTTP 408": Answer(408, {"error": {"type": "timeout_error", "message": "too slow"}}),
    "HTTP 429": portkey_error(429, "slow down"),
    "HTTP 500 of Portkey": portkey_error(500, "Something went wrong"),
    "HTTP 500 of the provider": provider_error(500, "broken"),
    "HTTP 502 with HTML": html_page(502, "Bad Gateway"),
    "HTTP 504": Answer(504, "upstream timeout"),
    "HTTP 529": provider_error(529, "overloaded"),
}
