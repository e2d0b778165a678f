"""Mistakes that no retry can correct: they end the wait at once, and the error says who rejected the call."""

from __future__ import annotations

from airflow_provider_portkey.exceptions import PortkeyInputError, PortkeyRefusedError
from tests.server.standin import Answer
from tests.support.answers import html_page, portkey_error, provider_error
from tests.support.stacks import Stack
from tests.support.world import World
from tests.waits.builders import THE_CALL, foreign, rejected_by
from tests.waits.case import Case, Given, Then, When, on_each_stack
from tests.waits.run import run_case

NO_SUCH_BATCH = provider_error(404, "No batch found with id 'batch_1'.")
UNKNOWN_ROUTE = "Unknown virtual key, provider or config (HTTP 400): check the extra of connection 'portkey_default'"

CASES: list[Case] = [
    rejected_by(
        "HTTP 400 from Portkey for an unknown virtual key",
        portkey_error(400, "Following keys are not valid: openai-standin"),
        UNKNOWN_ROUTE,
        "HTTP 400 from Portkey",
        "Following keys are not valid: ***",
    ),
    rejected_by(
        "HTTP 400 from the provider",
        provider_error(400, "Invalid 'batch_id'"),
        "Request rejected by provider 'openai' (HTTP 400): check batch_id",
        "HTTP 400 from provider 'openai'",
        "Invalid 'batch_id'",
        never_shown=("Portkey does not know", "Unknown virtual key"),
    ),
    Case(
        "HTTP 401 from Portkey for a wrong API key",
        given=Given(setup=lambda world: world.set_connection(password="pk-wrong-0123456789")),
        then=Then(
            error=PortkeyRefusedError,
            first_line="API key rejected by Portkey (HTTP 401): check the password of connection 'portkey_default'",
            message_has=["HTTP 401 from Portkey", THE_CALL, "Invalid API Key"],
            requests=1,
        ),
    ),
    Case(
        "HTTP 401 from the provider, at the first poll",
        when=When([provider_error(401, "Incorrect API key provided"), "completed"]),
        then=Then(
            error=PortkeyRefusedError,
            first_line="Credential rejected by provider 'openai' (HTTP 401): correct it in Portkey or in headers",
            message_has=["HTTP 401 from provider 'openai'", "Portkey accepted the call"],
            requests=1,
        ),
    ),
    *foreign(
        "HTTP 401 with an HTML page of a server in front of Portkey",
        html_page(401, "Authorization Required"),
        "HTTP 401 from the gateway",
        "Authorization Required",
        first_line="API key rejected by the gateway (HTTP 401): check the password of connection 'portkey_default'",
    ),
    *foreign(
        "HTTP 403 with an HTML page of a firewall",
        html_page(403, "Request blocked"),
        "Request blocked",
        first_line="Permission denied by the gateway (HTTP 403): check scopes and host of connection 'portkey_default'",
    ),
    *foreign(
        "HTTP 404 with the text of a router without a backend",
        Answer(404, "404 page not found", {"content-type": "text/plain"}),
        "404 page not found",
        first_line="No API at this address (HTTP 404): check the host of connection 'portkey_default'",
    ),
    *foreign(
        "HTTP 403 with JSON of an API management service",
        Answer(403, {"message": "Forbidden"}),
        "Forbidden",
        first_line="Permission denied by the gateway (HTTP 403): check scopes and host of connection 'portkey_default'",
    ),
    *foreign(
        "HTTP 404 with a page that the gateway wrapped into JSON",
        Answer(404, {"html-message": "<h1>default backend</h1>"}, {"x-portkey-provider": "openai"}),
        "default backend",
        first_line="Unknown batch (HTTP 404): check batch_id and the provider of connection 'portkey_default'",
    )[1:],
    rejected_by(
        "HTTP 404 of a provider that nothing names, in OpenAI's words for its path",
        Answer(404, {"error": {"message": "Invalid URL (GET /v1/v1/batches/b)", "type": "invalid_request_error"}}),
        "No API at this address (HTTP 404): check the host of connection 'portkey_default'",
        "HTTP 404 from the provider",
        requests=4,
    ),
    rejected_by(
        "HTTP 404 of a provider that nothing names, in OpenAI's words for the batch",
        Answer(404, {"error": {"message": "No batch found with id 'b'.", "type": "invalid_request_error"}}),
        "Unknown batch (HTTP 404): check batch_id and the provider of connection 'portkey_default'",
        "HTTP 404 from the provider",
        requests=4,
    ),
    rejected_by(
        "HTTP 403 from Portkey",
        portkey_error(403, "Portkey Error: Forbidden!"),
        "Permission denied by Portkey (HTTP 403): check scopes and host of connection 'portkey_default'",
        "HTTP 403 from Portkey",
        "Forbidden!",
        "completions.write",
    ),
    rejected_by(
        "HTTP 403 from the provider",
        provider_error(403, "Country not supported"),
        "Credential rejected by provider 'openai' (HTTP 403): correct it in Portkey or in headers",
        "HTTP 403 from provider 'openai'",
        "Country not supported",
    ),
    rejected_by(
        "HTTP 404 from the gateway for a wrong base URL",
        Answer(404, {"message": "Not Found", "ok": False}),
        "No API at this address (HTTP 404): check the host of connection 'portkey_default'",
        "HTTP 404 from the gateway",
    ),
    Case(
        "HTTP 404 from the provider for the batch, three times",
        when=When([NO_SUCH_BATCH]),
        then=Then(
            error=PortkeyRefusedError,
            first_line="Unknown batch (HTTP 404): check batch_id and the provider of connection 'portkey_default'",
            message_has=["HTTP 404 from provider 'openai'", THE_CALL, "No batch found", "workspace"],
            requests=3,
        ),
    ),
    Case(
        "HTTP 404 from the provider twice, just after creation: the wait continues",
        when=When([NO_SUCH_BATCH, NO_SUCH_BATCH, "completed"]),
        then=Then(requests=3, warnings=0),
    ),
    rejected_by(
        "HTTP 412 for an exhausted budget",
        Answer(412, {"error": {"type": "credits_exhaust_error", "message": "exhausted"}}),
        "Budget or limit exhausted in Portkey (HTTP 412): raise it there",
        ": exhausted.",
    ),
    rejected_by(
        "HTTP 446 for a guardrail",
        Answer(446, {"error": {"message": "hooks failed", "type": "hooks_failed"}}),
        "Call denied by a guardrail in Portkey (HTTP 446): change the guardrail or the request",
        ": hooks failed.",
    ),
    Case(
        "connection with a provider that Portkey does not know",
        given=Given(setup=lambda world: world.set_connection(virtual_key=None, provider="@other")),
        then=Then(
            error=PortkeyRefusedError,
            first_line=UNKNOWN_ROUTE,
            message_has=["HTTP 400 from Portkey", THE_CALL, "Following keys are not valid: other"],
            requests=1,
        ),
    ),
    Case(
        "connection without virtual_key, provider and config",
        given=Given(setup=lambda world: world.set_connection(virtual_key=None)),
        then=Then(
            error=PortkeyInputError,
            message_has=["Invalid connection 'portkey_default'", "extra: set virtual_key, provider or config"],
            requests=0,
        ),
    ),
]


@on_each_stack(CASES)
def test_permanent_error(case: Case, stack: Stack, world: World) -> None:
    run_case(case, stack, world)
