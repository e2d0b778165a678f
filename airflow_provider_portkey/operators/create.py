"""Create a batch, and wait for it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from airflow.providers.common.compat.sdk import AirflowTaskTimeout, BaseOperator, conf

from airflow_provider_portkey import batch_input, calls
from airflow_provider_portkey.attempts import METADATA_KEY, Attempts, OnUnknown
from airflow_provider_portkey.batch import Batch, BatchStatus, as_text
from airflow_provider_portkey.exceptions import (
    PortkeyApiError,
    PortkeyBatchEndedError,
    PortkeyBatchTimeoutError,
    PortkeyError,
    PortkeyInputError,
    PortkeyOutcomeUnknownError,
)
from airflow_provider_portkey.files import storage_path
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.problems import NOTHING_SENT
from airflow_provider_portkey.task import BatchTask
from airflow_provider_portkey.text import counted, message
from airflow_provider_portkey.verdict import FailOnRequestErrors, Outcome, judge

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_portkey.files import AnyPath


class PortkeyCreateBatchOperator(BatchTask, BaseOperator):
    """
    Create a batch and, if asked to, wait for its end. A retry re-attaches to the batch that a previous attempt created.

    Give its requests as one of ``requests``, ``input_path`` and ``input_file_id``. The first two are checked before
    anything is sent, then uploaded. The batch's id is in XCom under ``batch_id`` before the wait begins. The operator
    returns the batch as a dict under the names of Portkey's documentation.

    After a failure, a kill or a clear, the next attempt re-attaches to the batch of the previous one, unless that batch
    ended badly, or requests, endpoint, window or ``extra_body`` have changed. The task's state store (Airflow 3.3 and
    later), a pair in the batch's metadata, and at Bedrock and Vertex the name of the uploaded file identify it. Where
    none of them does, ``on_unknown`` decides.

    ``requests``, ``input_path``, ``input_file_id``, ``endpoint``, ``completion_window``, ``metadata``, ``extra_body``,
    ``portkey_conn_id`` and ``headers`` are templated. What it raises is listed in
    :mod:`airflow_provider_portkey.exceptions`.

    .. seealso:: https://portkey.ai/docs/api-reference/inference-api/batch/create-batch

    :param requests: the batch's requests: dicts with ``custom_id`` and ``body``; ``method`` and ``url`` are filled in
    :param input_path: a JSONL file of requests, as a path or URL of Airflow's object storage, such as
        ``s3://aws_default@bucket/requests.jsonl``
    :param input_file_id: the id of a file that was uploaded before
    :param endpoint: the API endpoint that each request calls
    :param completion_window: time in which the provider processes the batch
    :param metadata: up to 15 pairs of strings for the batch to keep
    :param extra_body: what else the provider needs: ``model``, ``role_arn``, ``portkey_options``, ...
    :param portkey_conn_id: the id of the Airflow connection
    :param headers: headers to send in addition to the connection's, or instead of those of the same names: bucket,
        region, model, ... They may not hold credentials, which belong on the connection
    :param durable: re-attach to the batch of a previous attempt; otherwise each attempt creates one
    :param on_unknown: what to do if it cannot be determined whether a previous attempt created a batch: ``"create"``
        another one, or ``"fail"``
    :param max_requests: how many requests ``requests`` or ``input_path`` may hold
    :param max_bytes: how many bytes they may have
    :param cancel_on_kill: cancel the batch when the task is killed while it runs on a worker, by a person or together
        with its worker; a retry then creates another one
    :param cancel_from_trigger: cancel the batch also when a person clears or marks the task while it is deferred.
        Airflow reports this from 3.3 on, but 3.3.0 to 3.3.2 also when a triggerer hands its waits to another one. A
        cleared task may have re-attached to the batch before that, and must then be cleared once more
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
    )
    template_fields_renderers = {"requests": "json", "metadata": "json", "extra_body": "json"}

    def __init__(
        self,
        *,
        requests: Iterable[Mapping[str, Any]] | None = None,
        input_path: AnyPath | None = None,
        input_file_id: str | None = None,
        endpoint: str = "/v1/chat/completions",
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        portkey_conn_id: str = PortkeyHook.default_conn_name,
        headers: Mapping[str, str] | None = None,
        durable: bool = True,
        on_unknown: OnUnknown = "create",
        max_requests: int = batch_input.MAX_REQUESTS,
        max_bytes: int = batch_input.MAX_BYTES,
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
        self.endpoint = endpoint
        self.completion_window = completion_window
        self.metadata = metadata
        self.extra_body = extra_body
        self._init_connection(portkey_conn_id, headers)
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
        self._is_killed = False
        if sum(given is not None for given in (requests, input_path, input_file_id)) != 1:
            raise ValueError("pass exactly one of requests, input_path and input_file_id")
        batch_input.check_requests(requests)
        if cancel_on_timeout:
            self._timeout_remedy = "raise timeout. It is being cancelled (cancel_on_timeout)"
        for name, value in (("max_requests", max_requests), ("max_bytes", max_bytes)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number above 0; got {value!r}")
        if on_unknown not in get_args(OnUnknown):
            raise ValueError(f"on_unknown must be one of {', '.join(get_args(OnUnknown))}; got {on_unknown!r}")

    def execute(self, context: Context) -> dict[str, Any]:
        """Recover or create the batch, and wait for its end if asked to."""
        batch = self._recover_or_create(context)
        self.batch_id = batch.id
        if self._is_killed:  # before there was a batch to cancel
            self._cancel("its task was killed", retry_within=0)
        elif self.do_xcom_push:
            context["ti"].xcom_push(key="batch_id", value=batch.id)
        self._stop_if_killed()
        if not self.wait_for_completion:
            return batch.to_dict()
        with self._cancelling_on_timeout():
            try:
                return self._wait(context, batch)
            except PortkeyBatchEndedError as error:
                self._stop_if_killed(str(error))
                raise

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """End as the trigger's event says."""
        # The id travels in the event, since dag.test() drops what a task hands over beside it.
        self.batch_id = str(event.get("batch_id")) if isinstance(event, Mapping) else ""
        with self._cancelling_on_timeout():
            return self._handle_event(context, event)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after a deferral; if Airflow ended that itself, ``execute_complete`` is not called."""
        if next_method != "__fail__":
            return super().resume_execution(next_method, next_kwargs, context)
        ti = context["ti"]
        self.batch_id = ti.xcom_pull(task_ids=ti.task_id, key="batch_id", map_indexes=ti.map_index) or ""
        with self._cancelling_on_timeout():
            return super().resume_execution(next_method, next_kwargs, context)

    def on_kill(self) -> None:
        """Cancel the batch in the time that is left; after ``execution_timeout`` only with ``cancel_on_timeout``."""
        if isinstance(sys.exception(), AirflowTaskTimeout):
            if self.cancel_on_timeout:
                self._cancel("its task's execution_timeout has passed")
        elif self.cancel_on_kill:
            self._is_killed = True
            self.hook.may_look_up = False
            self._cancel("its task was killed", retry_within=0)

    def _stop_if_killed(self, details: str = "") -> None:
        # On Airflow 3 the task continues after its kill. A retry must follow, and a cancelled batch is no bad end then.
        if self._is_killed:
            raise PortkeyError(
                message(
                    "Task killed: a retry re-attaches to its batch, or creates another if that was cancelled", details
                )
            )

    @contextmanager
    def _cancelling_on_timeout(self) -> Iterator[None]:
        try:
            yield
        except PortkeyBatchTimeoutError:
            if self.cancel_on_timeout:
                self._cancel("its task timed out")
            raise

    def _cancel(self, reason: str, retry_within: float | None = None) -> None:
        if not self.batch_id:
            return
        try:
            batch = self.hook.cancel_batch(self.batch_id, retry_within=retry_within)
        except PortkeyError as error:
            self.log.warning("Could not cancel batch %s, although %s: %s", self.batch_id, reason, error)
        else:
            self.log.info("Requested cancellation of batch %s: %s. %s.", self.batch_id, reason, batch)

    def _recover_or_create(self, context: Context) -> Batch:
        # Everything is checked before anything is sent.
        fields = {name: getattr(self, name) for name in ("endpoint", "completion_window", "extra_body")}
        if (self.requests, self.input_path, self.input_file_id) == (None, None, None):
            raise PortkeyInputError(
                message(
                    "requests, input_path and input_file_id are None: the upstream task pushed no value to XCom",
                    NOTHING_SENT,
                )
            )
        limit = calls.MAX_METADATA[0] - 1
        if self.durable and isinstance(self.metadata, Mapping) and len(self.metadata) > limit:
            raise PortkeyInputError(
                message(
                    f"metadata has {len(self.metadata)} pairs: use at most {limit}, or durable=False",
                    f"A batch holds {limit + 1} pairs. One is {METADATA_KEY}, by which a later attempt finds the "
                    "batch, unless durable is False.",
                    NOTHING_SENT,
                )
            )
        file_id = "-" if self.input_file_id is None else self.input_file_id
        calls.batch_body(input_file_id=file_id, metadata=self._batch_metadata(""), **fields)
        if warning := batch_input.endpoint_warning(self.endpoint):
            self.log.warning("%s", warning)
        if self.input_file_id is not None:
            return self._recover_or_create_from(context, fields, as_text(self.input_file_id), None)
        with tempfile.TemporaryDirectory(prefix="portkey-") as folder:
            path, written = self._write_requests(Path(folder))
            self.log.info("Checked %s, %s.", counted(written.count, "request"), counted(written.bytes, "byte"))
            if written.warning:
                self.log.warning("%s", written.warning)
            return self._recover_or_create_from(context, fields, written.digest, path)

    def _recover_or_create_from(
        self, context: Context, fields: dict[str, Any], content: str, path: Path | None
    ) -> Batch:
        """
        Re-attach to the batch of a previous attempt, or create one.

        :param fields: of the call that creates it
        :param content: the id of the file of requests, or its digest
        :param path: that file, if it is to be uploaded
        """
        attempts = Attempts(
            context,
            [content, fields],
            hook=self.hook,
            is_reusable=self._is_reusable,
            log=self.log,
        )
        if self.durable and (recovered := attempts.recover(self.on_unknown)):
            return recovered
        file_id = self.hook.upload_file(path, name=attempts.file_name if self.durable else None) if path else content
        if self.durable:
            attempts.record_intent(file_id if path else None)
        self._stop_if_killed()
        try:
            batch = self.hook.create_batch(file_id, metadata=self._batch_metadata(attempts.key), **fields)
        except PortkeyOutcomeUnknownError as error:
            self.log.warning("%s", error)
            found = None
            if self.durable:
                with suppress(PortkeyApiError):  # the original error says more
                    found = attempts.search_provider().batch
            if found is None:
                raise
            batch = found
        self.log.info("Created batch %s from file %s.", batch.id, file_id)
        if self.durable:
            attempts.record_created(batch)
        return batch

    def _batch_metadata(self, key: str) -> Mapping[str, str] | None:
        if not self.durable or not isinstance(self.metadata, (Mapping, type(None))):
            return self.metadata
        return {**(self.metadata or {}), METADATA_KEY: key}

    def _write_requests(self, folder: Path) -> tuple[Path, batch_input.Requests]:
        limits: dict[str, Any] = {
            "endpoint": self.endpoint,
            "max_requests": self.max_requests,
            "max_bytes": self.max_bytes,
        }
        if self.input_path is None:
            if isinstance(self.requests, (str, bytes, Mapping)) or not isinstance(self.requests, Iterable):
                raise PortkeyInputError(
                    message(f"requests must be a list of dicts, got {type(self.requests).__name__}", NOTHING_SENT)
                )
            path = folder / "requests.jsonl"
            with path.open("wb") as target:
                return path, batch_input.write_requests(self.requests, target, **limits)
        given = storage_path(self.input_path)
        path = folder / (given.name or "requests.jsonl")
        with given.open("rb") as source, path.open("wb") as target:  # type: ignore[no-untyped-call]
            lines = iter(partial(source.readline, self.max_bytes + 1), b"")
            return path, batch_input.write_requests(lines, target, name=str(given), **limits)

    def _is_reusable(self, batch: Batch) -> bool:
        """Whether to re-attach to a batch."""
        outcome = judge(batch, self._policy).outcome
        return outcome in (Outcome.WAIT, Outcome.SUCCEED) and batch.status is not BatchStatus.CANCELLING
