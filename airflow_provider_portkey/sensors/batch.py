"""The sensor: waits until a batch has ended, in mode poke, reschedule or deferred."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_portkey.batch import BatchId
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.task import BatchTask
from airflow_provider_portkey.verdict import FailOnRequestErrors

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
        super().__init__(**kwargs)
        self.batch_id = batch_id
        self._init_connection(portkey_conn_id, headers)
        self._init_wait(locals())

    def poke(self, context: Context) -> PokeReturnValue:
        """Poll the batch once."""
        with self._skip_instead_of_failing():
            result = self._poll(context)
        return PokeReturnValue(is_done=result is not None, xcom_value=result)

    def execute(self, context: Context) -> Any:
        """Wait in the task's mode."""
        with self._skip_instead_of_failing():
            if not self.deferrable:
                try:
                    return super().execute(context)
                except AirflowSensorTimeout:
                    pass
                except AirflowSkipException as skip:
                    if skip.__cause__ is not None:  # poke's own; Airflow's, on a timeout with soft_fail, has none
                        raise
                self._raise_timeout()
            started_at = time.time()
            first = self.poke(context)
            if first:
                return first.xcom_value
            self._defer(context, started_at)

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """End as the trigger's event says."""
        with self._skip_instead_of_failing():
            return self._handle_event(context, event)

    def _get_next_poke_interval(self, started_at: Any, run_duration: Callable[[], float], poke_count: int) -> float:
        # Airflow's own method would sleep beyond the timeout, and ignores Retry-After.
        interval = super()._get_next_poke_interval(started_at, run_duration, poke_count)
        left = max(self.timeout - run_duration(), _SHORTEST_RESCHEDULE if self.reschedule else 0.0)
        return min(max(interval, self._progress.retry_after), left)

    @contextmanager
    def _skip_instead_of_failing(self) -> Iterator[None]:
        """Skip with the reason, in every mode; Airflow's base class skips only in some, and without the reason."""
        try:
            yield
        except (AirflowFailException, AirflowSensorTimeout) as error:
            if not (self.soft_fail or self.never_fail):
                raise
            # Logged here, since Airflow's base class replaces the text after a deferral.
            self.log.warning("Skipping instead of failing: %s", error)
            raise AirflowSkipException(str(error)) from error
