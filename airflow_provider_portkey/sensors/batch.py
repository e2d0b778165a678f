"""The sensor: waits until a batch has ended, in mode poke, reschedule or deferred."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.exceptions import AirflowRescheduleException  # common.compat has it under no name
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_portkey.batch import BatchId
from airflow_provider_portkey.exceptions import PortkeyError
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.task import BatchTask
from airflow_provider_portkey.verdict import FailOnRequestErrors
from airflow_provider_portkey.wait import Progress, as_seconds, poll_interval

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

# Airflow 3 may need five seconds to notice that a task left its worker, and marks one that returns sooner as lost. It
# would then retry a wait that has timed out.
_SHORTEST_RESCHEDULE = 10.0


class PortkeyBatchSensor(BatchTask, BaseSensorOperator):
    """
    Wait until a batch has ended.

    Poke, reschedule and deferrable mode behave identically. The sensor returns the batch as a dict under the names of
    Portkey's documentation, and pushes ``output_file_id`` and ``error_file_id`` to XCom, also before a bad end raises:
    the partial results of an expired batch are paid for. An outage does not end the wait; only ``timeout`` does.

    ``batch_id``, ``portkey_conn_id`` and ``headers`` are templated. What it raises is listed in
    :mod:`airflow_provider_portkey.exceptions`.

    .. seealso:: https://portkey.ai/docs/api-reference/inference-api/batch/retrieve-batch

    :param batch_id: the batch's id, plain or percent-encoded, or the batch's dict as an operator returns it
    :param portkey_conn_id: the id of the Airflow connection
    :param headers: headers to send in addition to the connection's, or instead of those of the same names: bucket,
        region, model, ... They may not hold credentials, which belong on the connection
    :param deferrable: wait in the triggerer, without a worker slot; default: ``[operators] default_deferrable``
    :param end_from_trigger: when deferred, let a good end finish the task in the triggerer, without a worker slot. A
        task with more to do (outlets, a success callback, ...) ends on a worker all the same
    :param allowed_statuses: terminal statuses that count as success, of ``completed``, ``failed``, ``expired`` and
        ``cancelled``
    :param fail_on_request_errors: when a batch with an allowed status fails the task because requests in it failed:
        ``"never"``, when ``"all"`` of them did, or when ``"any"`` did
    :param kwargs: those of :class:`~airflow.sdk.BaseSensorOperator`. ``timeout``, ``poke_interval``,
        ``exponential_backoff``, ``max_wait``, ``soft_fail`` and ``never_fail`` apply in every mode
    """

    template_fields: Sequence[str] = ("batch_id", "portkey_conn_id", "headers")

    def __init__(
        self,
        *,
        batch_id: BatchId,
        portkey_conn_id: str = PortkeyHook.default_conn_name,
        headers: Mapping[str, str] | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        end_from_trigger: bool = False,
        allowed_statuses: Iterable[str] = ("completed",),
        fail_on_request_errors: FailOnRequestErrors = "all",
        **kwargs: Any,
    ) -> None:
        for name in ("timeout", "poke_interval", "max_wait"):
            if kwargs.get(name) is not None:
                as_seconds(name, kwargs[name], above_zero=name == "max_wait")
        super().__init__(**kwargs)
        self.batch_id = batch_id
        self._init_connection(portkey_conn_id, headers)
        self._init_wait(locals())

    def poke(self, context: Context) -> PokeReturnValue:
        """Poll the batch once."""
        result = self._poll(context)
        return PokeReturnValue(is_done=result is not None, xcom_value=result)

    def execute(self, context: Context) -> Any:
        """Wait in the task's mode."""
        with self._skip_instead_of_failing():
            started_at = time.time()
            if not self.deferrable:
                return self._wait_in_loop(context)
            first: Any = None
            try:
                first = self.poke(context)
            except (AirflowFailException, AirflowSensorTimeout, AirflowSkipException):
                raise
            except Exception:
                if not self.silent_fail:
                    raise
                self.log.exception("Poll failed, which silent_fail ignores.")
            if first:
                return first.xcom_value if isinstance(first, PokeReturnValue) else None
            return self._defer(context, started_at)

    def _wait_in_loop(self, context: Context) -> Any:
        """Wait in Airflow's own loop, in mode poke or reschedule."""
        self._progress = Progress(silent_fail=self.silent_fail)
        if self.reschedule and _was_rescheduled(context["ti"], context):
            # The processes before this one polled, but cannot pass on what they saw. One that was refused at its first
            # poll has failed, so all others count as answered.
            self._progress = Progress(polled=True, answered=True, silent_fail=self.silent_fail)
        # Airflow's loop skips in only some of the cases, without the reason, and a skip of its own after a timeout
        # looks like one that a subclass raised: so `execute` alone skips.
        options = self.soft_fail, self.never_fail
        self.soft_fail = self.never_fail = False
        try:
            return super().execute(context)
        except AirflowSensorTimeout as error:
            if isinstance(error, PortkeyError):
                raise
        finally:
            self.soft_fail, self.never_fail = options
        return self._end_at_deadline(context)

    @property
    def reschedule(self) -> bool:
        """Whether Airflow's loop leaves this process after a poll."""
        # Not during a grace: the next process would not know when it began.
        progress = vars(self).get("_progress")
        return self.mode == "reschedule" and (progress is None or progress.grace_left is None)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after a deferral, and skip as in every other mode."""
        with self._skip_instead_of_failing():
            return super().resume_execution(next_method, next_kwargs, context)

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """End as the trigger's event says."""
        with self._skip_instead_of_failing():
            return self._handle_event(context, event)

    def _get_next_poke_interval(self, started_at: Any, run_duration: Callable[[], float], poke_count: int) -> float:
        # Airflow's own method would sleep beyond the timeout, ignores Retry-After, and overflows at the 1,025th poke.
        waited = run_duration()
        max_wait = None if self.max_wait is None else as_seconds("max_wait", self.max_wait)
        interval = poll_interval(self.poke_interval, waited, self.exponential_backoff, max_wait)
        left = max(self.timeout - waited, _SHORTEST_RESCHEDULE if self.reschedule else 0.0)
        delay = self._progress.until_grace_ends(min(max(interval, self._progress.retry_after), left))
        self._progress.report(delay, left, self.log)
        return delay

    @contextmanager
    def _skip_instead_of_failing(self) -> Iterator[None]:
        """Skip with the reason, in every mode; Airflow's base class skips only in some, and without the reason."""
        try:
            yield
        except (AirflowRescheduleException, AirflowSkipException):
            raise
        except (AirflowTaskTimeout, Exception) as error:
            may_skip = isinstance(error, (AirflowFailException, AirflowSensorTimeout, AirflowTaskTimeout))
            if not (self.never_fail or (self.soft_fail and may_skip)):
                raise
            # Logged here, since Airflow's base class replaces the text after a deferral.
            self.log.warning("Skipping instead of failing: %s", error)
            raise AirflowSkipException(str(error)) from error


def _was_rescheduled(ti: Any, context: Context) -> bool:
    """Whether another process has polled for this task instance before."""
    if hasattr(ti, "get_first_reschedule_date"):
        return ti.get_first_reschedule_date(context) is not None
    # Airflow 2, whose tasks read the database.
    from airflow.models.taskreschedule import TaskReschedule
    from airflow.utils.session import create_session

    with create_session() as session:
        return session.scalar(TaskReschedule.stmt_for_task_instance(ti).limit(1)) is not None
