"""Operators on batches."""

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

from airflow_provider_portkey import api, files
from airflow_provider_portkey.attempts import METADATA_KEY, Attempts, OnUnknown
from airflow_provider_portkey.batch import Batch, BatchStatus
from airflow_provider_portkey.exceptions import (
    PortkeyApiError,
    PortkeyBatchEndedError,
    PortkeyBatchNotReadyError,
    PortkeyBatchTimeoutError,
    PortkeyError,
    PortkeyInputError,
    PortkeyOutcomeUnknownError,
    PortkeyRefusedError,
)
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.task import BAD_ENDS, BatchTask, PortkeyTask, as_seconds
from airflow_provider_portkey.verdict import FailOnRequestErrors, Outcome, Policy, judge

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, ObjectStoragePath

    from airflow_provider_portkey.files import AnyPath


class PortkeyRetrieveBatchOperator(BatchTask, BaseOperator):
    """
    Retrieve a batch that has ended, or wait for its end, and hand on its files.

    It returns the batch as a dict under the names of Portkey's documentation and pushes ``output_file_id`` and
    ``error_file_id`` to XCom beside it, before a bad end raises too. A batch still in flight is an error that
    Airflow may retry, unless ``wait_for_completion`` is set; it never pushes empty ids.

    .. seealso:: https://portkey.ai/docs/api-reference/inference-api/batch/retrieve-batch

    :param batch_id: the batch's id, plain or percent-encoded (templated)
    :param portkey_conn_id: the id of the Airflow connection (templated)
    :param wait_for_completion: wait until the batch has ended
    :param deferrable: wait in the triggerer, without a worker slot; default: ``[operators] default_deferrable``
    :param poke_interval: seconds between two looks while waiting
    :param timeout: seconds to wait in all; default: ``[sensors] default_timeout``, a week unless set
    :param end_from_trigger: when deferred, let a good end finish the task in the triggerer, without a worker slot; a
        task with more to do then (outlets, a success callback, ...) ends on a worker all the same
    :param allowed_statuses: terminal statuses that count as success, of ``completed``, ``failed``, ``expired``
        and ``cancelled``
    :param fail_on_request_errors: when a batch with an allowed status fails the task because requests in it
        failed: ``"never"``, when ``"all"`` of them did, or when ``"any"`` did
    :raises PortkeyBatchNotReadyError: if the batch is in flight and the task does not wait
    :raises PortkeyBatchEndedError: one of its subclasses, if the batch ended otherwise
    :raises PortkeyRefusedError: if Portkey or the provider behind it refuses the call
    :raises PortkeyInputError: if the connection or ``batch_id`` can't be used
    :raises PortkeyConnectionNotFoundError: if there is no such connection
    :raises PortkeyTransientError: if the call failed, but may succeed later, and the task does not wait
    :raises PortkeyBatchTimeoutError: if the batch has not ended after ``timeout`` seconds
    """

    template_fields: Sequence[str] = ("batch_id", "portkey_conn_id")

    def __init__(
        self,
        *,
        batch_id: str,
        portkey_conn_id: str = PortkeyHook.default_conn_name,
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
        self.batch_id = batch_id
        self.portkey_conn_id = portkey_conn_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.end_from_trigger = end_from_trigger
        self.poke_interval = as_seconds("poke_interval", poke_interval)
        if timeout is None:
            timeout = conf.getfloat("sensors", "default_timeout")
        self.timeout = as_seconds("timeout", timeout)
        self._policy = Policy.of(allowed_statuses, fail_on_request_errors)
        self.allowed_statuses = self._policy.allowed_statuses
        self.fail_on_request_errors = fail_on_request_errors

    def execute(self, context: Context) -> dict[str, Any]:
        """Retrieve the batch, and wait if asked to."""
        if not self.wait_for_completion:
            batch = self.hook.get_batch(self.batch_id)
            answer = self._end(context, batch)
            if answer is None:
                raise PortkeyBatchNotReadyError(
                    f"{batch}, so it has no results yet. Put a PortkeyBatchSensor before this task, set "
                    "wait_for_completion=True, or let retries and retry_delay bring the task back later."
                )
            return answer

        return self._wait(context)

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """End as the trigger's event says."""
        return self._resume(context, event)


class PortkeyCreateBatchOperator(BatchTask, BaseOperator):
    """
    Create a batch, and wait for its end if asked to. No attempt pays for what an earlier one has created.

    Give its requests as one of ``requests``, ``input_path`` and ``input_file_id``. The first two are checked before
    anything is sent, then uploaded. The batch's id is in XCom under ``batch_id`` before the wait begins; the task
    returns the batch as a dict under the names of Portkey's documentation.

    An attempt that follows another, after a failure, a kill or a clear, goes on with the batch of that one unless it
    ended badly, or asks for something else: other requests, endpoint, window or ``extra_body``. It is found by what
    Airflow 3.3 stores for the task, and by a pair that the batch has in its metadata. Some providers drop metadata
    (Bedrock, Vertex, Cohere), so that before Airflow 3.3 nothing may tell: see ``on_unknown``.

    .. seealso:: https://portkey.ai/docs/api-reference/inference-api/batch/create-batch

    :param requests: the batch's requests: dicts with ``custom_id`` and ``body``, for which ``method`` and ``url`` are
        filled in (templated)
    :param input_path: a JSONL file of them, as a path or URL of Airflow's object storage, such as
        ``s3://aws_default@bucket/requests.jsonl`` (templated)
    :param input_file_id: a file that was uploaded before (templated)
    :param endpoint: what each request asks (templated)
    :param completion_window: time in which the provider processes the batch (templated)
    :param metadata: up to 15 pairs of strings for the batch to keep (templated)
    :param extra_body: what else its provider wants to know: ``model``, ``role_arn``, ``portkey_options``, ...
        (templated)
    :param portkey_conn_id: the id of the Airflow connection (templated)
    :param durable: look for the batch of an earlier attempt; else each attempt creates one
    :param on_unknown: what to do if an earlier attempt may have created a batch and nothing tells: ``"create"``
        another, or ``"fail"``
    :param max_requests: how many requests ``requests`` or ``input_path`` may hold
    :param max_bytes: how many bytes
    :param cancel_on_kill: cancel the batch when the task is killed while it runs on a worker, be it by a person or
        since its worker ends; a retry then creates another
    :param cancel_from_trigger: cancel it also when a person clears or marks the task while it is deferred. Airflow
        tells of that from 3.3 on, but 3.3.0 to 3.3.2 do so also when a triggerer hands its waits to another. A cleared
        task may have gone on with the batch by then, and is to be cleared once more
    :param cancel_on_timeout: cancel it when ``timeout`` is over, or ``execution_timeout``
    :param wait_for_completion: wait until the batch has ended
    :param deferrable: wait in the triggerer, without a worker slot; default: ``[operators] default_deferrable``
    :param poke_interval: seconds between two looks while waiting
    :param timeout: seconds to wait in all; default: ``[sensors] default_timeout``, a week unless set
    :param end_from_trigger: when deferred, let a good end finish the task in the triggerer
    :param allowed_statuses: terminal statuses that count as success
    :param fail_on_request_errors: when a batch with an allowed status fails the task because requests in it failed:
        ``"never"``, when ``"all"`` of them did, or when ``"any"`` did
    :raises PortkeyInputError: if the connection or what is asked can't be used; nothing was sent
    :raises PortkeyOutcomeUnknownError: if a batch may have been created, and the next attempt has to look for it
    :raises PortkeyAttemptUnknownError: if nothing tells, and ``on_unknown="fail"``
    :raises PortkeyBatchEndedError: one of its subclasses, if the batch ended badly; what else a wait may raise is
        with :class:`PortkeyRetrieveBatchOperator`
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
        durable: bool = True,
        on_unknown: OnUnknown = "create",
        max_requests: int = files.MAX_REQUESTS,
        max_bytes: int = files.MAX_BYTES,
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
        self.portkey_conn_id = portkey_conn_id
        self.durable = durable
        self.on_unknown = on_unknown
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self.cancel_on_kill = cancel_on_kill
        self.cancel_from_trigger = cancel_from_trigger
        self.cancel_on_timeout = cancel_on_timeout
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.end_from_trigger = end_from_trigger
        self.poke_interval = as_seconds("poke_interval", poke_interval)
        if timeout is None:
            timeout = conf.getfloat("sensors", "default_timeout")
        self.timeout = as_seconds("timeout", timeout)
        self._policy = Policy.of(allowed_statuses, fail_on_request_errors)
        self.allowed_statuses = self._policy.allowed_statuses
        self.fail_on_request_errors = fail_on_request_errors
        self.batch_id = ""
        self._is_killed = False
        if sum(given is not None for given in (requests, input_path, input_file_id)) != 1:
            raise ValueError("give one of requests, input_path and input_file_id")
        if cancel_on_timeout:
            self._after_timeout = "The batch is cancelled, since the task has cancel_on_timeout."
        for name, value in (("max_requests", max_requests), ("max_bytes", max_bytes)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number above 0; got {value!r}")
        if on_unknown not in get_args(OnUnknown):
            raise ValueError(f"on_unknown must be one of {', '.join(get_args(OnUnknown))}; got {on_unknown!r}")

    def execute(self, context: Context) -> dict[str, Any]:
        """Find or create the batch, and wait for its end if asked to."""
        batch = self._find_or_create(context)
        self.batch_id = batch.id
        if self._is_killed:  # before there was one to cancel
            self._cancel("its task was killed", retry_within=0)
        elif self.do_xcom_push:
            context["ti"].xcom_push(key="batch_id", value=batch.id)
        self._stop_if_killed()
        if not self.wait_for_completion:
            return batch.to_dict()
        with self._cancelling_on_timeout():
            try:
                return self._wait(context, batch, cancel_on_kill=self.cancel_from_trigger)
            except PortkeyBatchEndedError as error:
                self._stop_if_killed(f" {error}")
                raise

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """End as the trigger's event says."""
        # Not handed over beside the event: dag.test() drops that.
        self.batch_id = str(event.get("batch_id")) if isinstance(event, Mapping) else ""
        with self._cancelling_on_timeout():
            return self._resume(context, event)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral, or fail if Airflow ended that; then no ``execute_complete`` is called."""
        # Airflow 2 says "Trigger/execution timeout".
        timed_out = next_method == "__fail__" and str((next_kwargs or {}).get("error")).endswith("timeout")
        if timed_out and self.cancel_on_timeout:
            ti = context["ti"]
            self.batch_id = ti.xcom_pull(task_ids=ti.task_id, key="batch_id", map_indexes=ti.map_index) or ""
            self._cancel("the time of its deferral was over")
        return super().resume_execution(next_method, next_kwargs, context)

    def on_kill(self) -> None:
        """Cancel the batch, in what time there is; after ``execution_timeout`` only if ``cancel_on_timeout`` is set."""
        if isinstance(sys.exception(), AirflowTaskTimeout):
            if self.cancel_on_timeout:
                self._cancel("the task's execution_timeout was over")
        elif self.cancel_on_kill:
            self._is_killed = True
            self.hook.may_look_up = False
            self._cancel("its task was killed", retry_within=0)

    def _stop_if_killed(self, why: str = "") -> None:
        # On Airflow 3 the task goes on after its kill: a retry is to follow, and this is no batch's bad end.
        if self._is_killed:
            raise PortkeyError(f"The task was killed.{why}")

    @contextmanager
    def _cancelling_on_timeout(self) -> Iterator[None]:
        try:
            yield
        except PortkeyBatchTimeoutError:
            if self.cancel_on_timeout:
                self._cancel("the task's timeout was over")
            raise

    def _cancel(self, reason: str, retry_within: float | None = None) -> None:
        if not self.batch_id:
            return
        try:
            batch = self.hook.cancel_batch(self.batch_id, retry_within=retry_within)
        except PortkeyError as error:
            self.log.warning("Batch %s could not be cancelled, though %s: %s", self.batch_id, reason, error)
        else:
            self.log.info("Asked for it to be cancelled, since %s. %s.", reason, batch)

    def _find_or_create(self, context: Context) -> Batch:
        # All of it is checked before any of it is sent.
        asked = {name: getattr(self, name) for name in ("endpoint", "completion_window", "extra_body")}
        if (self.requests, self.input_path, self.input_file_id) == (None, None, None):
            raise PortkeyInputError(
                "requests, input_path and input_file_id are all None: did the task that should have handed one over "
                "push it? Nothing was sent."
            )
        if self.durable and isinstance(self.metadata, Mapping) and len(self.metadata) >= api.MAX_METADATA[0]:
            raise PortkeyInputError(
                f"metadata has {len(self.metadata)} pairs; a batch takes {api.MAX_METADATA[0]}, one of which is "
                f"{METADATA_KEY}, unless durable is off. Nothing was sent."
            )
        file_id = "-" if self.input_file_id is None else self.input_file_id
        api.batch_body(input_file_id=file_id, metadata=self._metadata(""), **asked)
        if self.input_file_id is not None:
            return self._find_or_create_of(context, asked, self.input_file_id, None)
        with tempfile.TemporaryDirectory(prefix="portkey-") as folder:
            path, found = self._write_requests(Path(folder))
            self.log.info("%s requests, %s bytes.", f"{found.count:,}", f"{found.bytes:,}")
            return self._find_or_create_of(context, asked, found.sha256, path)

    def _find_or_create_of(self, context: Context, asked: dict[str, Any], content: str, path: Path | None) -> Batch:
        """
        Go on with the batch of an earlier attempt, or create one.

        :param asked: what is asked of the provider
        :param content: the id of the file of requests, or its digest
        :param path: that file, if it is to be uploaded
        """
        attempts = Attempts(context, [content, asked], hook=self.hook, is_of_use=self._is_of_use, log=self.log)
        if self.durable and (found := attempts.find(self.on_unknown)):
            return found
        file_id = self.hook.upload_file(path) if path else content
        if self.durable:
            attempts.begin(file_id if path else None)
        self._stop_if_killed()
        try:
            batch = self.hook.create_batch(file_id, metadata=self._metadata(attempts.key), **asked)
        except PortkeyOutcomeUnknownError as error:
            self.log.warning("%s", error)
            known = None
            if self.durable:
                with suppress(PortkeyApiError):  # this one tells more
                    known = attempts.look_up().batch
            if known is None:
                raise
            batch = known
        self.log.info("Created batch %s of file %s.", batch.id, file_id)
        if self.durable:
            attempts.created(batch)
        return batch

    def _metadata(self, key: str) -> Mapping[str, str] | None:
        if not self.durable or not isinstance(self.metadata, (Mapping, type(None))):
            return self.metadata
        return {**(self.metadata or {}), METADATA_KEY: key}

    def _write_requests(self, folder: Path) -> tuple[Path, files.Requests]:
        limits: dict[str, Any] = {
            "endpoint": self.endpoint,
            "max_requests": self.max_requests,
            "max_bytes": self.max_bytes,
        }
        if self.input_path is None:
            if isinstance(self.requests, (str, bytes, Mapping)) or not isinstance(self.requests, Iterable):
                raise PortkeyInputError(
                    f"requests must be a list of dicts, got {type(self.requests).__name__}. Nothing was sent."
                )
            path = folder / "requests.jsonl"
            with path.open("wb") as target:
                return path, files.write_requests(self.requests, target, **limits)
        given = files.storage_path(self.input_path)
        path = folder / (given.name or "requests.jsonl")
        try:
            with given.open("rb") as source, path.open("wb") as target:  # type: ignore[no-untyped-call]
                return path, files.write_requests(
                    iter(partial(source.readline, self.max_bytes + 1), b""), target, **limits
                )
        except PortkeyInputError as error:
            raise PortkeyInputError(f"{given}: {error}") from None

    def _is_of_use(self, batch: Batch) -> bool:
        """Whether a batch is one to go on with."""
        outcome = judge(batch, self._policy).outcome
        return outcome in (Outcome.WAIT, Outcome.SUCCEED) and batch.status is not BatchStatus.CANCELLING


class PortkeyCancelBatchOperator(PortkeyTask, BaseOperator):
    """
    Cancel a batch. That it has ended before is no error.

    It returns the batch as a dict under the names of Portkey's documentation. The provider may take minutes, until
    which the status is ``cancelling`` or what it was: to wait, put a sensor with
    ``allowed_statuses=["cancelled", "completed"]`` behind it.

    .. seealso:: https://portkey.ai/docs/api-reference/inference-api/batch/cancel-batch

    :param batch_id: the batch's id, plain or percent-encoded (templated)
    :param portkey_conn_id: the id of the Airflow connection (templated)
    :raises PortkeyRefusedError: if the call was refused, and the batch has not ended
    :raises PortkeyInputError: if the connection or ``batch_id`` can't be used
    :raises PortkeyConnectionNotFoundError: if there is no such connection
    :raises PortkeyTransientError: if the call failed, but may succeed later
    """

    template_fields: Sequence[str] = ("batch_id", "portkey_conn_id")

    def __init__(self, *, batch_id: str, portkey_conn_id: str = PortkeyHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch_id = batch_id
        self.portkey_conn_id = portkey_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Cancel the batch."""
        batch = self.hook.cancel_batch(self.batch_id)
        self.log.info("%s.", batch)
        return batch.to_dict()


class PortkeyDownloadBatchOperator(PortkeyTask, BaseOperator):
    """
    Download what a batch that has ended has answered, to wherever Airflow's object storage reaches.

    The files are ``output.jsonl``, with the answers to the requests that succeeded, and ``error.jsonl``, with those to
    the others. Each is there whole or not at all; another run replaces them. Memory stays flat, save for each
    request's ``custom_id``.

    The task returns a manifest: ``batch_id``, ``status``, ``output`` and ``error`` (``None``, or a dict of
    ``file_id``, ``path``, ``bytes``, ``lines`` and ``sha256``), ``request_counts``, ``counts_match`` (whether the files
    have a line for each request; ``None`` if the batch does not say), ``missing`` and ``doubled`` (each request's
    ``custom_id`` that has no line, or more than one; the first 100) with ``missing_count`` and ``doubled_count``.
    ``missing`` is ``None`` if it could not be found out. Both are logged as warnings.

    .. seealso:: https://portkey.ai/docs/api-reference/inference-api/files/retrieve-file-content

    :param batch_id: the batch's id, plain or percent-encoded (templated)
    :param path: the folder, as a path or URL such as ``s3://aws_default@bucket/results/{{ run_id }}`` (templated)
    :param portkey_conn_id: the id of the Airflow connection (templated)
    :raises PortkeyBatchNotReadyError: if the batch is in flight
    :raises PortkeyBatchEndedError: one of its subclasses, if the batch has ended without a file
    :raises PortkeyRefusedError: if Portkey or the provider behind it refuses a call
    :raises PortkeyInputError: if the connection or an argument can't be used
    :raises PortkeyConnectionNotFoundError: if there is no such connection
    :raises PortkeyTransientError: if a call failed, but may succeed later
    :raises OSError: if a file can't be written
    """

    template_fields: Sequence[str] = ("batch_id", "path", "portkey_conn_id")

    def __init__(
        self,
        *,
        batch_id: str,
        path: AnyPath,
        portkey_conn_id: str = PortkeyHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.batch_id = batch_id
        self.path = path
        self.portkey_conn_id = portkey_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Download the files, and see whether they hold all that was asked."""
        folder = files.storage_path(self.path)
        batch = self.hook.get_batch(self.batch_id)
        if not batch.status.is_terminal:
            raise PortkeyBatchNotReadyError(f"{batch}, so it has no results yet. Put a PortkeyBatchSensor before this.")
        output = self._download(batch.output_file_id, folder / "output.jsonl")
        # Vertex names a file of errors also where there are none.
        none_failed = not batch.request_counts.failed
        error = self._download(batch.error_file_id, folder / "error.jsonl", may_be_missing=none_failed)
        if not output and not error:
            errors = "".join(f"\n  {error}" for error in batch.errors[:3])
            kind = BAD_ENDS.get(batch.status, PortkeyBatchEndedError)
            raise kind(f"{batch}, and left no file to download.{errors}", batch)
        asked = None
        if batch.input_file_id and not files.is_certainly_whole(batch, output, error):
            try:
                asked = self.hook.tally_file(batch.input_file_id).custom_ids
            except PortkeyApiError as failure:
                self.log.warning("Which requests are missing can't be told: %s", failure)
        manifest = files.manifest(batch, output, error, asked)
        for what in ("missing", "doubled"):
            if manifest[f"{what}_count"]:
                names = ", ".join(manifest[what][:10])
                self.log.warning("%d requests are %s, among them %s.", manifest[f"{what}_count"], what, names)
        return manifest

    def _download(
        self, file_id: str | None, path: ObjectStoragePath, *, may_be_missing: bool = False
    ) -> files.Download | None:
        download = None
        if file_id:
            try:
                download = self.hook.download_file(file_id, path)
            except PortkeyRefusedError as error:
                if not (may_be_missing and error.status_code == 404):
                    raise
                self.log.info("There is no file %s.", file_id)
        if download:
            self.log.info("%s: %s lines, %s bytes.", path, f"{download.tally.lines:,}", f"{download.tally.bytes:,}")
        elif path.exists():  # of an earlier run
            path.unlink()
        return download
