"""Create a batch, and wait for it."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from airflow.providers.common.compat.sdk import AirflowTaskTimeout, BaseOperator, conf

from airflow_provider_portkey import batch_input, calls
from airflow_provider_portkey.attempts import METADATA_KEY, Attempts, OnUnknown
from airflow_provider_portkey.batch import Batch, BatchStatus, as_text
from airflow_provider_portkey.creation import Source, create_batch
from airflow_provider_portkey.exceptions import (
    PortkeyBatchCancelledError,
    PortkeyBatchEndedError,
    PortkeyError,
    PortkeyInputError,
    PortkeyQuotaError,
)
from airflow_provider_portkey.files import storage_path
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.lineage import Lineage, LineageFile, WithLineage
from airflow_provider_portkey.problems import NOTHING_SENT, Problems
from airflow_provider_portkey.settings import parse_flag
from airflow_provider_portkey.task import BatchTask
from airflow_provider_portkey.text import counted, message
from airflow_provider_portkey.verdict import FailOnRequestErrors, Outcome, is_over_quota, judge
from airflow_provider_portkey.wait import as_seconds

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_portkey.files import AnyPath


#: Seconds between two looks whether the task was killed.
_KILL_INTERVAL = 0.5


class PortkeyCreateBatchOperator(WithLineage, BatchTask, BaseOperator):
    """
    Create a batch and, if asked to, wait for its end. A retry re-attaches to the batch that a previous attempt created.

    Give its requests as one of ``requests``, ``input_path`` and ``input_file_id``. The first two are checked before
    anything is sent, then uploaded. Azure and Cohere must process the file, for which the operator waits. The batch's
    id is in XCom under ``batch_id`` before the wait for its end begins. The operator returns the batch as a dict under
    the names of Portkey's documentation.

    After a failure, a kill or a clear, the next attempt re-attaches to the batch of the previous one, unless that batch
    ended badly, its answers have expired, or requests, endpoint, window or ``extra_body`` have changed. The task's
    state store (Airflow 3.3 and later), a pair in the batch's metadata, and at Bedrock and Vertex the name of the
    uploaded file identify it. Where none of them does, ``on_unknown`` decides.

    ``requests``, ``input_path``, ``input_file_id``, ``endpoint``, ``completion_window``, ``metadata``, ``extra_body``,
    ``portkey_conn_id``, ``headers`` and ``durable`` are templated. What it raises is listed in
    :mod:`airflow_provider_portkey.exceptions`.

    .. seealso:: https://portkey.ai/docs/api-reference/inference-api/batch/create-batch

    :param requests: the batch's requests: dicts with ``custom_id`` and ``body``; ``method`` and ``url`` are filled in
    :param input_path: a JSONL file of requests, as a path or URL of Airflow's object storage, such as
        ``s3://aws_default@bucket/requests.jsonl``
    :param input_file_id: the id of a file that was uploaded before
    :param inline: send the requests in the call itself, as Anthropic takes them: each ``body`` as ``params``, without a
        file, ``endpoint``, ``completion_window`` and ``metadata``
    :param endpoint: the API endpoint that each request calls
    :param completion_window: time in which the provider processes the batch
    :param metadata: up to 15 pairs of strings for the batch to keep
    :param extra_body: what else the provider needs: ``model``, ``role_arn``, ``portkey_options``, ... With Azure's
        ``input_blob``, the batch needs no other input
    :param portkey_conn_id: the id of the Airflow connection
    :param headers: headers to send in addition to the connection's, or instead of those of the same names: bucket,
        region, model, ... They may not hold credentials, which belong on the connection
    :param input_expires_after: seconds or timedelta after which the provider deletes the uploaded file, if it can
        (OpenAI, Azure); default: the provider's own
    :param durable: re-attach to the batch of a previous attempt; otherwise each attempt creates one
    :param on_unknown: what to do if it cannot be determined whether a previous attempt created a batch: ``"create"``
        another one, or ``"fail"``
    :param max_requests: how many requests ``requests`` or ``input_path`` may hold; default: 50,000, or 100,000 with
        ``inline``
    :param max_bytes: how many bytes they may have; default: 200,000,000, or 256,000,000 with ``inline``
    :param cancel_on_kill: cancel the batch when the task is killed while it runs on a worker, by a person or together
        with its worker, and no attempt follows that would re-attach to it
    :param cancel_from_trigger: cancel the batch also when a person clears or marks the task while it is deferred; up
        to Airflow 3.3.2 this may also cancel a paid batch when a triggerer hands its waits to another one. Before
        Airflow 3.3 it has no effect. A cleared task may have re-attached to the batch before that, and must then be
        cleared once more
    :param cancel_on_timeout: cancel the batch when ``timeout`` or ``execution_timeout`` has passed
    :param wait_for_completion: wait until the batch has ended
    :param deferrable: wait in the triggerer, without a worker slot; default: ``[operators] default_deferrable``
    :param end_from_trigger: when deferred, let a good end finish the task in the triggerer, without a worker slot. A
        task with more to do (outlets, a success callback, ...) ends on a worker all the same
    :param poke_interval: seconds or timedelta between two polls; up to a tenth less, so that waits spread
    :param timeout: seconds or timedelta to wait in all; default: ``[sensors] default_timeout``, a week unless set
    :param allowed_statuses: terminal statuses that count as success, of ``completed``, ``failed``, ``expired`` and
        ``cancelled``
    :param fail_on_request_errors: when a batch with an allowed status fails the task because requests in it failed:
        ``"never"``, when ``"all"`` of them did, or when ``"any"`` did
    """

    template_fields: Sequence[str] = (
        "requests",
        "input_path",
        "input_file_id",
        "endpoint",
        "completion_window",
        "metadata",
        "extra_body",
        "portkey_conn_id",
        "headers",
        "durable",
    )
    template_fields_renderers = {"requests": "json", "metadata": "json", "extra_body": "json"}

    def __init__(
        self,
        *,
        requests: Iterable[Mapping[str, Any]] | None = None,
        input_path: AnyPath | None = None,
        input_file_id: str | None = None,
        inline: bool = False,
        endpoint: str = "/v1/chat/completions",
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        portkey_conn_id: str = PortkeyHook.default_conn_name,
        headers: Mapping[str, str] | None = None,
        input_expires_after: timedelta | float | None = None,
        durable: bool | str = True,
        on_unknown: OnUnknown = "create",
        max_requests: int | None = None,
        max_bytes: int | None = None,
        cancel_on_kill: bool = True,
        cancel_from_trigger: bool = False,
        cancel_on_timeout: bool = False,
        wait_for_completion: bool = False,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        end_from_trigger: bool = False,
        poke_interval: timedelta | float = 60,
        timeout: timedelta | float | None = None,
        allowed_statuses: Iterable[str] = ("completed",),
        fail_on_request_errors: FailOnRequestErrors = "all",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.requests = requests
        self.input_path = input_path
        self.input_file_id = input_file_id
        self.inline = inline
        self.endpoint = endpoint
        self.completion_window = completion_window
        self.metadata = metadata
        self.extra_body = extra_body
        self._init_connection(portkey_conn_id, headers)
        self.input_expires_after = input_expires_after
        self.durable = durable
        self.on_unknown = on_unknown
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self.cancel_on_kill = cancel_on_kill
        self.cancel_from_trigger = cancel_from_trigger
        self.cancel_on_timeout = cancel_on_timeout
        self.wait_for_completion = wait_for_completion
        self._init_wait(locals())
        self.batch_id = ""
        self._count: int | None = None
        self._ti: Any = None
        self._is_killed = False
        self._cancellation = ""  # what this process has logged of the one that it requested
        # A template or an upstream task's output may turn out to have a blob.
        may_have_blob = extra_body is not None and (
            not isinstance(extra_body, Mapping) or calls.OWN_INPUT in extra_body
        )
        count = sum(given is not None for given in (requests, input_path, input_file_id))
        if count > 1 or (count == 0 and not may_have_blob):
            raise ValueError("pass exactly one of requests, input_path and input_file_id")
        batch_input.check_requests(requests)
        if inline and (count == 0 or input_file_id is not None or metadata is not None):
            raise ValueError("inline=True needs requests or input_path, and sends no metadata")
        if input_expires_after is not None:
            as_seconds("input_expires_after", input_expires_after, above_zero=True)
        for name, value in (("max_requests", max_requests), ("max_bytes", max_bytes)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number above 0; got {value!r}")
        if on_unknown not in get_args(OnUnknown):
            raise ValueError(f"on_unknown must be one of {', '.join(get_args(OnUnknown))}; got {on_unknown!r}")

    def execute(self, context: Context) -> dict[str, Any]:
        """Recover or create the batch, and wait for its end if asked to."""
        self._ti = context["ti"]
        batch = self._recover_or_create(context)
        self.batch_id = batch.id
        if self._is_killed:  # before there was a batch to cancel
            self._cancel_killed()
        elif self.do_xcom_push:
            context["ti"].xcom_push(key="batch_id", value=batch.id)
        self._stop_if_killed()
        if not self.wait_for_completion:
            return batch.to_dict()
        try:
            return self._wait(context, batch)
        except PortkeyBatchEndedError as error:
            self._stop_if_killed(error)
            raise

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """End as the trigger's event says."""
        # The id travels in the event, since dag.test() drops what a task hands over beside it.
        self.batch_id = str(event.get("batch_id")) if isinstance(event, Mapping) else ""
        return self._handle_event(context, event)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after a deferral; if Airflow ended that itself, ``execute_complete`` is not called."""
        self._ti = context["ti"]
        if next_method != "__fail__":
            return super().resume_execution(next_method, next_kwargs, context)
        ti = self._ti
        self.batch_id = ti.xcom_pull(task_ids=ti.task_id, key="batch_id", map_indexes=ti.map_index) or ""
        return super().resume_execution(next_method, next_kwargs, context)

    def lineage(self) -> Lineage:
        """Return the file of requests, and the batch that was created from it."""
        read = [] if self.input_path is None else [LineageFile(str(storage_path(self.input_path)), self._count)]
        return Lineage(read=read, created=self.batch_id)

    def on_kill(self) -> None:
        """Cancel the batch in the time that is left; after ``execution_timeout`` only with ``cancel_on_timeout``."""
        if isinstance(sys.exception(), AirflowTaskTimeout):
            if self.cancel_on_timeout:
                self._cancel("its task's execution_timeout has passed")
            return
        self._is_killed = True
        self.hook.may_look_up = False
        self._cancel_killed()

    def _cancel_killed(self) -> None:
        """Cancel the batch of a killed task with ``cancel_on_kill``, unless the next attempt re-attaches to it."""
        if not self.cancel_on_kill:
            return
        ti = self._ti
        # Airflow also kills tasks when its API server restarts or a node is drained: nobody gave up the batch then.
        if self._is_durable and ti is not None and ti.try_number <= (ti.max_tries or 0):
            if self.batch_id:
                self.log.info(
                    "Not cancelling batch %s: the next attempt re-attaches to it. To cancel it: %s",
                    self.batch_id,
                    f"PortkeyHook({self.portkey_conn_id!r}).cancel_batch({self.batch_id!r})",
                )
            return
        self._cancel("its task was killed", retry_within=0)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._is_killed and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _KILL_INTERVAL))
        self._stop_if_killed()

    def _stop_if_killed(self, error: PortkeyBatchEndedError | None = None) -> None:
        # On Airflow 3 the task continues after its kill, until SIGKILL some seconds later. It ends itself before that,
        # so that a retry follows at once; a batch that it cancelled is no bad end then.
        if self._is_killed:
            details = "" if isinstance(error, PortkeyBatchCancelledError) and self._cancellation else str(error or "")
            raise PortkeyError(
                message(
                    "Task killed: a retry re-attaches to its batch, or creates another if that was cancelled",
                    self._cancellation,
                    details,
                )
            ) from None

    def _remedy_timeout(self) -> str:
        if not self.cancel_on_timeout:
            return super()._remedy_timeout()
        self._cancel("its task timed out")
        if not self._cancellation:
            return "raise timeout. Cancelling it failed (cancel_on_timeout)"
        return "raise timeout. It is being cancelled (cancel_on_timeout)"

    def _cancelled_by(self, context: Context) -> list[str]:
        is_later = self._is_durable and context["ti"].try_number > 1
        # A trigger's cancellation may follow a hand-over to another triggerer, within one attempt.
        may_be = {
            "cancel_on_kill": is_later,
            "cancel_from_trigger": self.deferrable,
            "cancel_on_timeout": is_later,
        }
        return [name for name, is_possible in may_be.items() if is_possible and getattr(self, name)]

    def _cancel(self, reason: str, retry_within: float | None = None) -> None:
        if not self.batch_id:
            return
        try:
            batch = self.hook.cancel_batch(self.batch_id, retry_within=retry_within)
        except PortkeyError as error:
            self.log.warning("Could not cancel batch %s, although %s: %s", self.batch_id, reason, error)
        else:
            self._cancellation = f"Requested cancellation of batch {self.batch_id}: {reason}."
            self.log.info("%s %s.", self._cancellation, batch)

    @property
    def _is_durable(self) -> bool:
        """``durable``, which a template renders to a string."""
        problems = Problems()
        durable: bool = problems.collect(parse_flag, "durable", self.durable)
        if problems:
            raise problems.as_error("Invalid parameter")
        return durable

    def _recover_or_create(self, context: Context) -> Batch:
        # Everything is checked before anything is sent.
        fields = {name: getattr(self, name) for name in ("endpoint", "completion_window", "extra_body")}
        has_blob = isinstance(self.extra_body, Mapping) and calls.OWN_INPUT in self.extra_body
        has_input = (self.requests, self.input_path, self.input_file_id) != (None, None, None)
        if has_input == has_blob:
            cause = "requests, input_path and input_file_id are None: the upstream task pushed no value to XCom"
            if has_blob:
                cause = f"extra_body has {calls.OWN_INPUT!r}: pass no requests, input_path or input_file_id"
            raise PortkeyInputError(message(cause, NOTHING_SENT))
        limit = calls.MAX_METADATA[0] - 1
        if self._is_durable and isinstance(self.metadata, Mapping) and len(self.metadata) > limit:
            raise PortkeyInputError(
                message(
                    f"metadata has {len(self.metadata)} pairs: use at most {limit}, or durable=False",
                    f"A batch holds {limit + 1} pairs. One is {METADATA_KEY}, by which a later attempt finds the "
                    "batch, unless durable is False.",
                    NOTHING_SENT,
                )
            )
        needs_file = self.input_file_id is None and not has_blob
        file_id = "-" if needs_file else self.input_file_id
        calls.batch_body(input_file_id=file_id, metadata=self._batch_metadata(""), **fields)
        if warning := batch_input.endpoint_warning(self.endpoint):
            self.log.warning("%s", warning)
        if not needs_file:
            file_id = None if has_blob else as_text(self.input_file_id)
            return self._recover_or_create_from(context, fields, Source(file_id or "", file_id))
        with tempfile.TemporaryDirectory(prefix="portkey-") as folder:
            path, written = self._write_requests(Path(folder))
            self._count = written.count
            self.log.info("Checked %s, %s.", counted(written.count, "request"), counted(written.bytes, "byte"))
            if written.warning:
                self.log.warning("%s", written.warning)
            source = Source(written.digest, None, path, self.inline, self.input_expires_after)
            return self._recover_or_create_from(context, fields, source)

    def _recover_or_create_from(self, context: Context, fields: dict[str, Any], source: Source) -> Batch:
        """Re-attach to the batch of a previous attempt, or create one."""
        attempts = None
        if self._is_durable:
            asked = fields | {"inline": True} if self.inline else fields
            attempts = Attempts(
                context, [source.identity, asked], hook=self.hook, is_reusable=self._is_reusable, log=self.log
            )
            if recovered := attempts.recover(self.on_unknown):
                return recovered
        fields = fields | {"metadata": self._batch_metadata(attempts.key if attempts else "")}
        batch = create_batch(self.hook, source, fields, attempts, check_alive=self._stop_if_killed, log=self.log)
        self.log.info("Created batch %s.", batch.id)
        return batch

    def _batch_metadata(self, key: str) -> Mapping[str, str] | None:
        if not self._is_durable or not isinstance(self.metadata, (Mapping, type(None))):
            return self.metadata
        return {**(self.metadata or {}), METADATA_KEY: key}

    def _write_requests(self, folder: Path) -> tuple[Path, batch_input.Requests]:
        most_requests, most_bytes = batch_input.MAX_REQUESTS, batch_input.MAX_BYTES
        if self.inline:
            most_requests, most_bytes = batch_input.MAX_INLINE_REQUESTS, batch_input.MAX_INLINE_BYTES
        limits: dict[str, Any] = {
            "endpoint": self.endpoint,
            "max_requests": self.max_requests or most_requests,
            "max_bytes": self.max_bytes or most_bytes,
        }
        write: Callable[..., batch_input.Requests] = batch_input.write_requests
        if self.inline:
            if "requests" in (self.extra_body or {}):
                raise PortkeyInputError(message("extra_body must not have 'requests' with inline=True", NOTHING_SENT))
            write = partial(batch_input.write_inline_body, extra_body=self.extra_body or {})
        if self.input_path is None:
            if isinstance(self.requests, (str, bytes, Mapping)) or not isinstance(self.requests, Iterable):
                raise PortkeyInputError(
                    message(f"requests must be a list of dicts, got {type(self.requests).__name__}", NOTHING_SENT)
                )
            path = folder / "requests.jsonl"
            with path.open("wb") as target:
                return path, write(self.requests, target, **limits)
        given = storage_path(self.input_path)
        path = folder / (given.name or "requests.jsonl")
        with given.open("rb") as source, path.open("wb") as target:  # type: ignore[no-untyped-call]
            lines = iter(partial(source.readline, limits["max_bytes"] + 1), b"")
            return path, write(lines, target, name=str(given), **limits)

    def _error_for(self, batch: Batch, text: str) -> PortkeyError:
        # The batch is the task's own: the next attempt creates another one.
        if is_over_quota(batch):
            cause = "The provider's queue of batches is full: retry when others have ended"
            return PortkeyQuotaError(message(cause, "Nothing was processed or paid.", text), origin="provider")
        return super()._error_for(batch, text)

    def _is_reusable(self, batch: Batch) -> bool:
        """Whether to re-attach to a batch."""
        outcome = judge(batch, self._policy).outcome
        return outcome in (Outcome.WAIT, Outcome.SUCCEED) and batch.status is not BatchStatus.CANCELLING
