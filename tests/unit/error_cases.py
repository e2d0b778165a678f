"""How each error of the package is raised, with ids and texts as long as they can be."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

from airflow.providers.common.compat.sdk import AirflowException, AirflowNotFoundException

from airflow_provider_portkey import batch_input, creation, exceptions, files
from airflow_provider_portkey.attempts import Attempts
from airflow_provider_portkey.batch import Batch, BatchError, BatchStatus, RequestCounts
from airflow_provider_portkey.calls import Page, batch_body, create_batch, read_response, retrieve_batch
from airflow_provider_portkey.calls import read_batch as read_batch_response
from airflow_provider_portkey.events import from_event
from airflow_provider_portkey.exceptions import PortkeyError
from airflow_provider_portkey.failures import as_outcome_unknown, network_error, rate_limited, response_too_large
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.http import Response
from airflow_provider_portkey.operators.batch import (
    PortkeyCreateBatchOperator,
    PortkeyDownloadBatchOperator,
    PortkeyRetrieveBatchOperator,
)
from airflow_provider_portkey.provider_file import File
from airflow_provider_portkey.settings import Settings
from airflow_provider_portkey.transport.environment import ssl_context
from tests.support.calls import VIRTUAL_KEY
from tests.support.task_instance import TaskInstance

CONN_ID = "connection-" + "c" * 100
BATCH_ID = "batch-" + "b" * 200
HOST = "gateway-" + "h" * 50 + ".example.com"
WORDS = "A long text of the provider. " * 30
PROVIDER = "provider-" + "p" * 50


def settings(**extra: Any) -> Settings:
    return Settings.from_connection(CONN_ID, host=HOST, password="k", extra=json.dumps(VIRTUAL_KEY | extra))


SETTINGS = settings()
POLL = retrieve_batch(SETTINGS, BATCH_ID)
#: The context of a task in its second attempt.
SECOND_ATTEMPT: Any = {
    "ti": SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=2),
}


def response(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Callable[[], object]:
    """Read this response to a poll."""
    return lambda: read_response(
        Response(status, headers or {}, json.dumps(body).encode()), POLL, SETTINGS, Batch.from_dict
    )


def of_portkey(status: int, words: str = WORDS) -> Callable[[], object]:
    return response(status, {"status": "failure", "message": words})


def of_provider(status: int) -> Callable[[], object]:
    return response(status, {"error": {"message": WORDS}, "provider": PROVIDER})


def of_gateway(status: int, **headers: str) -> Callable[[], object]:
    return response(status, {"html-message": WORDS}, headers)


def raised(error: Exception) -> Callable[[], object]:
    def run() -> None:
        raise error

    return run


def network(error: Exception) -> Callable[[], object]:
    return raised(network_error(error, POLL, SETTINGS))


def lookup(error: Exception) -> Callable[[], object]:
    """Call the hook while the lookup of its connection fails."""

    class Hook(PortkeyHook):
        @classmethod
        def get_connection(cls, conn_id: str) -> Any:
            raise error

    return lambda: Hook(CONN_ID).get_batch(BATCH_ID)


def batch(status: BatchStatus, **fields: Any) -> Batch:
    return Batch(BATCH_ID, status, status.value, errors=(BatchError(WORDS, WORDS),), **fields)


def executed(operator: Any, found: Batch) -> Callable[[], object]:
    """Execute an operator whose hook retrieves this batch."""
    operator.__dict__["hook"] = SimpleNamespace(get_batch=lambda *args, **kwargs: found)
    return lambda: operator.execute(TaskInstance().context)


def retrieved(found: Batch, **parameters: Any) -> Callable[[], object]:
    operator = PortkeyRetrieveBatchOperator(task_id="x", batch_id=BATCH_ID, **parameters)
    return lambda: executed(operator, found)()


def downloaded(found: Batch, **parameters: Any) -> Callable[[], object]:
    operator = PortkeyDownloadBatchOperator(task_id="x", batch_id=BATCH_ID, path="/nowhere", **parameters)
    return lambda: executed(operator, found)()


def created(**parameters: Any) -> Callable[[], object]:
    return lambda: PortkeyCreateBatchOperator(task_id="x", **parameters).execute(TaskInstance().context)


def created_after_kill() -> None:
    operator = PortkeyCreateBatchOperator(task_id="x", input_file_id="file-1", durable=False)
    operator.on_kill()
    operator.execute(SECOND_ATTEMPT)


def previous_attempt_unknown() -> None:
    page = Page((batch(BatchStatus.COMPLETED),), None, is_last=True)
    hook: Any = SimpleNamespace(_pages=lambda: iter([page]))
    Attempts(SECOND_ATTEMPT, [], hook=hook, is_reusable=lambda _: True, log=PortkeyHook().log).recover("fail")


def previous_attempt_for_other_requests() -> None:
    def attempts(request: str, **parts: Any) -> Attempts:
        hook: Any = SimpleNamespace(get_batch=lambda _: IN_FLIGHT, _pages=lambda: iter([]), portkey_conn_id=CONN_ID)
        return Attempts(SECOND_ATTEMPT | parts, request, hook=hook, is_reusable=lambda _: True, log=PortkeyHook().log)

    record = {"key": attempts("before").key, "batch_id": BATCH_ID}
    attempts("after", task_state_store=SimpleNamespace(get=lambda _: record)).recover("fail")


def created_from(status: str) -> None:
    file = File("file-" + "f" * 200, status, WORDS)
    creation.wait_for_file(PortkeyHook(), file, check_alive=lambda: None, log=PortkeyHook().log)


def written(*lines: str) -> Callable[[], object]:
    source = [line.encode() for line in lines]
    path = f"/folder/{'f' * 200}.jsonl"
    return lambda: batch_input.write_requests(source, io.BytesIO(), endpoint="/v1/embeddings", name=path)


class Case(NamedTuple):
    """How an error of a class is raised, and what its first line must have: cause and remedy."""

    kind: type[PortkeyError]
    name: str
    run: Callable[[], object]
    words: list[str]
    #: Whether the first line leaves anything out.
    has_details: bool = True


INPUT, TRANSIENT, REFUSED = (
    exceptions.PortkeyInputError,
    exceptions.PortkeyTransientError,
    exceptions.PortkeyRefusedError,
)
IN_FLIGHT, COMPLETED = batch(BatchStatus.IN_PROGRESS), batch(BatchStatus.COMPLETED)
ALL_FAILED = batch(BatchStatus.COMPLETED, request_counts=RequestCounts(3, 0, 3), error_file_id=BATCH_ID)

CASES = [
    Case(
        exceptions.PortkeyError,
        "task killed",
        created_after_kill,
        ["Task killed: a retry re-attaches to its batch, or creates another if that was cancelled"],
        False,
    ),
    Case(
        INPUT,
        "connection without a key",
        lambda: Settings.from_connection(CONN_ID, extra='{"virtual_key": "v"}'),
        ["Invalid connection 'connection-c", "password: the Portkey API key is missing"],
    ),
    Case(
        INPUT,
        "connection with many problems",
        lambda: Settings.from_connection(CONN_ID, password="k", extra='{"timeout": 0, "proxy": 1}'),
        ["Invalid connection 'connection-c", "3 problems: "],
    ),
    Case(
        INPUT, "no batch id", lambda: retrieve_batch(SETTINGS, "None"), ["batch_id is 'None': the upstream task pushed"]
    ),
    Case(
        INPUT,
        "batch id too long",
        lambda: retrieve_batch(SETTINGS, BATCH_ID * 20),
        ["batch_id has", "too many for an id"],
    ),
    Case(
        INPUT,
        "batch id with a line break",
        lambda: retrieve_batch(SETTINGS, f"{BATCH_ID}\n{BATCH_ID}"),
        ["batch_id", "contains control characters or line breaks"],
    ),
    Case(
        INPUT,
        "creation with an invalid endpoint",
        lambda: batch_body(input_file_id="file-1", endpoint=WORDS, completion_window="24h"),
        ["Invalid batch: endpoint must be a path such as /v1/chat/completions"],
    ),
    Case(
        INPUT,
        "invalid request",
        written('{"custom_id": 1}'),
        ["Invalid batch input, 4 problems: line 1: custom_id must be a string, got 1"],
    ),
    Case(INPUT, "no requests", written(""), ["Invalid batch input: it contains no request"]),
    Case(
        INPUT,
        "no CA file",
        lambda: ssl_context(settings(verify=f"/{'v' * 200}.pem")),
        ["No CA certificates: check verify in the connection's extra ('/vvv"],
    ),
    Case(
        INPUT,
        "invalid path",
        lambda: files.storage_path({"path": WORDS}),  # type: ignore[arg-type]
        ["path must be a string or a path, got dict"],
        False,
    ),
    Case(
        INPUT,
        "path with a long name",
        lambda: files.storage_path(f"/data/{'n' * 300}"),
        ["path has a name of 300 bytes: use at most 255"],
    ),
    Case(
        INPUT,
        "path without a file system",
        lambda: files.storage_path(f"{'s' * 60}://bucket/{BATCH_ID}"),
        ["No file system for 'sss", "install the Airflow provider that has it"],
    ),
    Case(
        INPUT,
        "unreadable connection",
        lookup(AirflowException(WORDS)),
        ["Airflow cannot read the connection: check its definition ('connection-c"],
    ),
    Case(
        INPUT,
        "no requests from XCom",
        created(requests=[]),
        ["Invalid batch input: it contains no request"],
    ),
    Case(
        INPUT,
        "too much metadata",
        created(input_file_id="file-1", metadata={str(n): WORDS for n in range(16)}),
        ["metadata has 16 pairs: use at most 15, or durable=False"],
    ),
    Case(
        exceptions.PortkeyConnectionNotFoundError,
        "connection not found",
        lookup(AirflowNotFoundException(WORDS)),
        ["Connection not found: define it, or check the secrets backend ('connection-c"],
    ),
    Case(
        TRANSIENT,
        "secrets backend fails",
        lookup(RuntimeError(WORDS)),
        ["Connection lookup failed: check the secrets backend ('connection-c"],
    ),
    Case(
        TRANSIENT,
        "connection refused",
        network(ConnectionRefusedError(111, WORDS)),
        ["Cannot reach gateway-h", "(ConnectionRefusedError)", "check host, DNS, firewall and proxy"],
    ),
    Case(
        TRANSIENT,
        "certificate not trusted",
        network(OSError(f"[SSL: CERTIFICATE_VERIFY_FAILED] {WORDS}")),
        ["TLS handshake with gateway-h", "failed: check verify of connection 'connection-c"],
    ),
    Case(
        TRANSIENT,
        "no TLS",
        network(OSError(f"[SSL: WRONG_VERSION_NUMBER] {WORDS}")),
        ["gateway-h", "does not speak TLS: if it is plain HTTP, write http:// in host"],
    ),
    Case(
        TRANSIENT,
        "timed out",
        network(TimeoutError(f"timed out {WORDS}")),
        ["No response from gateway-h", "in time: usually temporary, retry later"],
    ),
    Case(TRANSIENT, "HTTP 408", of_gateway(408), ["The gateway timed out (HTTP 408): usually temporary, retry later"]),
    Case(
        TRANSIENT,
        "HTTP 429",
        of_provider(429),
        ["Rate limited by provider 'provider-p", "(HTTP 429): temporary, retry later"],
    ),
    Case(
        TRANSIENT, "HTTP 500 of Portkey", of_portkey(500), ["Portkey failed (HTTP 500): usually temporary, retry later"]
    ),
    Case(
        TRANSIENT,
        "HTTP 503 of the provider",
        of_provider(503),
        ["Provider 'provider-p", "failed (HTTP 503): usually temporary, retry later"],
    ),
    Case(
        TRANSIENT,
        "rate limited by another response",
        raised(rate_limited(TRANSIENT(WORDS, status_code=429), 30, POLL, SETTINGS)),
        ["Rate limited for another 30 s (Retry-After): request not sent (connection 'connection-c"],
    ),
    Case(
        TRANSIENT,
        "response too large",
        raised(response_too_large(POLL, SETTINGS)),
        ["Response larger than 8 MiB: check the host of connection 'connection-c"],
    ),
    Case(
        TRANSIENT,
        "HTTP 200 without a batch",
        response(200, {"error": WORDS}),
        ["Unexpected response from the gateway (HTTP 200): check the host of connection 'connection-c"],
    ),
    Case(
        TRANSIENT,
        "HTTP 200 with another batch",
        lambda: read_batch_response(
            Response(200, {}, b'{"id": "%b", "status": "completed"}' % WORDS.encode()), POLL, SETTINGS, BATCH_ID
        ),
        ["Response about another batch: check the host of connection 'connection-c"],
    ),
    Case(
        exceptions.PortkeyOutcomeUnknownError,
        "creation failed",
        raised(
            as_outcome_unknown(
                TRANSIENT(WORDS),
                create_batch(SETTINGS, input_file_id=BATCH_ID, endpoint="/v1/embeddings", completion_window="24h"),
            )
        ),
        ["The call failed, but the batch may exist: search for it before creating another"],
    ),
    Case(
        exceptions.PortkeyQuotaError,
        "creation over the provider's quota",
        response(400, {"error": {"code": "token_limit_exceeded", "message": WORDS}, "provider": PROVIDER}),
        ["The provider's queue of batches is full (HTTP 400): retry when others have ended"],
    ),
    Case(
        REFUSED,
        "file that the provider cannot process",
        lambda: created_from("failed"),
        ["The provider could not process the input file: check its requests"],
    ),
    Case(
        REFUSED,
        "HTTP 307",
        of_gateway(307, location=f"https://{HOST}/{BATCH_ID}"),
        ["Redirect not followed (HTTP 307): set host to the final address (connection 'connection-c"],
    ),
    Case(
        REFUSED,
        "HTTP 400 of Portkey, about a name in the connection",
        of_portkey(400, f"Following keys are not valid: {WORDS}"),
        ["Unknown virtual key, provider or config (HTTP 400): check the extra of connection"],
    ),
    Case(
        REFUSED,
        "HTTP 400 of the provider",
        of_provider(400),
        ["Request rejected by provider 'provider-p", "(HTTP 400): check batch_id"],
    ),
    Case(
        REFUSED,
        "HTTP 401 of Portkey",
        of_portkey(401),
        ["API key rejected by Portkey (HTTP 401): check the password of connection 'connection-c"],
    ),
    Case(
        REFUSED,
        "HTTP 401 of the provider",
        of_provider(401),
        ["Credential rejected by provider 'provider-p", "(HTTP 401): correct it in Portkey"],
    ),
    Case(
        REFUSED,
        "HTTP 403 of Portkey",
        of_portkey(403),
        ["Permission denied by Portkey (HTTP 403): check scopes and host of connection 'connection-c"],
    ),
    Case(
        REFUSED,
        "HTTP 403 of the provider",
        of_provider(403),
        ["Credential rejected by provider 'provider-p", "(HTTP 403): correct it in Portkey"],
    ),
    Case(
        REFUSED,
        "HTTP 404 of the provider",
        of_provider(404),
        ["Unknown batch (HTTP 404): check batch_id and the provider of connection 'connection-c"],
    ),
    Case(
        REFUSED,
        "HTTP 404 of the gateway",
        of_gateway(404),
        ["No API at this address (HTTP 404): check the host of connection 'connection-c"],
    ),
    Case(REFUSED, "HTTP 412", of_gateway(412), ["Budget or limit exhausted in Portkey (HTTP 412): raise it there"]),
    Case(
        REFUSED,
        "HTTP 446",
        of_gateway(446),
        ["Call denied by a guardrail in Portkey (HTTP 446): change the guardrail or the request"],
    ),
    Case(
        REFUSED,
        "HTTP 422 of the provider",
        of_provider(422),
        ["Request rejected by provider 'provider-p", "(HTTP 422): A long text of the provider. "],
    ),
    Case(
        exceptions.PortkeyAttemptUnknownError,
        "previous attempt unknown",
        previous_attempt_unknown,
        ["Cannot determine whether a previous attempt created a batch: check the provider's batches"],
    ),
    Case(
        exceptions.PortkeyAttemptUnknownError,
        "previous attempt for other requests",
        previous_attempt_for_other_requests,
        ["A previous attempt's batch was for other requests: cancel it if nobody needs it"],
    ),
    Case(
        exceptions.PortkeyBatchNotReadyError,
        "retrieved while in flight",
        retrieved(IN_FLIGHT),
        ["Batch is still in_progress: set wait_for_completion=True, or put a PortkeyBatchSensor first"],
    ),
    Case(
        exceptions.PortkeyBatchNotReadyError,
        "downloaded while in flight",
        downloaded(IN_FLIGHT),
        ["Batch is still in_progress: put a PortkeyBatchSensor before this task"],
    ),
    Case(
        exceptions.PortkeyBatchTimeoutError,
        "timed out",
        retrieved(IN_FLIGHT, wait_for_completion=True, timeout=0),
        ["Batch still in flight after 0 s: raise timeout, or clear the task to wait again"],
    ),
    Case(
        exceptions.PortkeyBatchEndedError,
        "completed without a file",
        downloaded(COMPLETED, source="files"),
        ["Batch completed without answers to download: check its errors at the provider"],
    ),
    Case(
        exceptions.PortkeyBatchFailedError,
        "failed",
        retrieved(batch(BatchStatus.FAILED)),
        ["Batch failed (A long text of the provider. ", "): check its input and the errors below"],
    ),
    Case(
        exceptions.PortkeyBatchExpiredError,
        "expired",
        retrieved(batch(BatchStatus.EXPIRED)),
        ["Batch expired: add 'expired' to allowed_statuses to use its partial results"],
    ),
    Case(
        exceptions.PortkeyBatchCancelledError,
        "cancelled",
        retrieved(batch(BatchStatus.CANCELLED)),
        ["Batch was cancelled: add 'cancelled' to allowed_statuses to use its partial results"],
    ),
    Case(
        exceptions.PortkeyRequestsFailedError,
        "all requests failed",
        retrieved(ALL_FAILED),
        ["All requests of the batch failed: the error file has the reasons"],
    ),
    Case(
        exceptions.PortkeyEventError,
        "invalid event",
        lambda: from_event({"batch_id": BATCH_ID, "event": WORDS}, BATCH_ID),
        ["Invalid trigger event: run the same version of this provider on workers and triggerers"],
    ),
]
