"""Errors that no retry can correct: the first response ends the call, and the error says who rejected it."""

from __future__ import annotations

from airflow_provider_portkey.exceptions import PortkeyRefusedError
from tests.calls.case import Case, Given, Then, When, each
from tests.calls.operations import ASYNC_CANCEL, CALLS, CANCEL, COUNT, DOWNLOAD, LIST, Call
from tests.calls.run import run_case
from tests.calls.world import CallWorld
from tests.server.standin import Answer
from tests.support.answers import html_page, portkey_error, provider_error

#: The response, who rejected the call, and parts of the message.
PERMANENT_ERRORS: dict[str, tuple[Answer, str, list[str]]] = {
    "HTTP 400 of Portkey": (
        portkey_error(400, "Following keys are not valid: x"),
        "portkey",
        [
            "Unknown virtual key, provider or config (HTTP 400): check the extra of connection 'portkey_default'\n",
            "HTTP 400 from Portkey while",
            "Following keys are not valid: x.",
            "virtual_key, provider or config in the connection's extra",
        ],
    ),
    "HTTP 400 of the provider": (
        provider_error(400, "no"),
        "provider",
        ["Request rejected by provider 'openai' (HTTP 400): check ", "HTTP 400 from provider 'openai' while"],
    ),
    "HTTP 401 of Portkey": (
        portkey_error(401, "Portkey Error: Invalid API Key. Error Code: 03"),
        "portkey",
        [
            "API key rejected by Portkey (HTTP 401): check the password of connection 'portkey_default'\n",
            "HTTP 401 from Portkey while",
            "The Portkey API key, the connection's password, is wrong or expired.",
        ],
    ),
    "HTTP 401 of the provider": (
        provider_error(401, "Incorrect API key"),
        "provider",
        [
            "Credential rejected by provider 'openai' (HTTP 401): correct it in Portkey or in headers\n",
            "HTTP 401 from provider 'openai' while",
            "Portkey accepted the call. The provider's own credential is wrong or lacks a permission.",
        ],
    ),
    "HTTP 403 of Portkey": (
        portkey_error(403, "Forbidden!"),
        "portkey",
        [
            "Permission denied by Portkey (HTTP 403): check scopes and host of connection 'portkey_default'\n",
            "HTTP 403 from Portkey while",
            "Forbidden!\n",
            "lacks a scope",
        ],
    ),
    "HTTP 403 of the provider": (
        provider_error(403, "no"),
        "provider",
        [
            "Credential rejected by provider 'openai' (HTTP 403): correct it in Portkey or in headers\n",
            "HTTP 403 from provider 'openai' while",
            "lacks a permission",
        ],
    ),
    "HTTP 404 of a path that does not exist": (
        Answer(404, {"message": "Not Found", "ok": False}),
        "gateway",
        [
            "No API at this address (HTTP 404): check the host of connection 'portkey_default'\n",
            "HTTP 404 from the gateway while",
            "Nothing answers at that path: the connection's host must be the API's base URL.",
        ],
    ),
    "HTTP 405 of a proxy": (
        html_page(405, "Not Allowed"),
        "gateway",
        ["Request rejected by the gateway (HTTP 405): Not Allowed\n", "HTTP 405 from the gateway while"],
    ),
    "HTTP 412": (
        Answer(412, {"error": {"type": "budget_exhaust_error", "message": "Budget is used up"}}),
        "gateway",
        ["Budget or limit exhausted in Portkey (HTTP 412): raise it there\n", "Budget is used up"],
    ),
    "HTTP 413 of a proxy": (
        html_page(413, "Request Entity Too Large"),
        "gateway",
        [
            "Request rejected by the gateway (HTTP 413): Request Entity Too Large\n",
            "HTTP 413 from the gateway while",
            "Request Entity Too Large",
        ],
    ),
    "HTTP 446": (
        Answer(446, {"error": {"message": "hooks_failed"}}),
        "gateway",
        [
            "Call denied by a guardrail in Portkey (HTTP 446): change the guardrail or the request\n",
            "HTTP 446 from the gateway while",
            "hooks_failed",
        ],
    ),
}
#: For the calls that read errors in the same lines of code as another call: one after which the connection may have
#: changed, and one of a proxy.
COMMON = ["HTTP 401 of Portkey", "HTTP 413 of a proxy"]


def rejected(call: Call, error: str) -> Case:
    response, origin, message_has = PERMANENT_ERRORS[error]
    return Case(
        f"{call.name}: {error}",
        given=Given(setup=CallWorld.use_hook),
        when=When(call, [response] * 4),
        then=Then(
            error=PortkeyRefusedError,
            error_has={"status_code": response.status, "origin": origin},
            message_has=message_has,
            requests=1,
        ),
    )


#: What the error says is unknown, and what to check.
UNKNOWN = dict.fromkeys((call.name for call in CALLS), ("resource", "what was sent"))
UNKNOWN |= dict.fromkeys((DOWNLOAD.name, COUNT.name), ("or expired file", "file_id"))
UNKNOWN |= dict.fromkeys((CANCEL.name, ASYNC_CANCEL.name), ("batch", "batch_id"))


def not_found(call: Call) -> Case:
    """Build a case of an id that stays unknown. It is repeated, because a replica may not know it yet."""
    what, argument = UNKNOWN[call.name]
    return Case(
        f"{call.name}: HTTP 404 of the provider, three times",
        when=When(call, [provider_error(404, "No such thing")] * 3),
        then=Then(
            error=PortkeyRefusedError,
            error_has={"status_code": 404, "origin": "provider"},
            message_has=[
                f"Unknown {what} (HTTP 404): check {argument} and the provider of connection 'portkey_default'\n",
                "HTTP 404 from provider 'openai' while",
                "No such thing",
                "The connection must name the provider and workspace that it was created in.",
            ],
            requests=3,
        ),
    )


CASES = [
    *(rejected(call, error) for call in CALLS for error in (PERMANENT_ERRORS if call in (LIST, DOWNLOAD) else COMMON)),
    *(not_found(call) for call in CALLS),
]


@each(CASES)
def test_a_rejected_call_raises_an_error_that_says_who_rejected_it(case: Case, world: CallWorld) -> None:
    run_case(case, world)
