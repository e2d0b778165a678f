"""The sensor: wait until a batch has ended, poking, rescheduled or deferred."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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

from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.task import BatchTask
from airflow_provider_portkey.verdict import FailOnRequestErrors, Policy

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

# Airflow 3 may take five seconds to see that a task left its worker, and counts one that is back by then as lost: it
# would retry a wait whose time is up.
_SHORTEST_RESCHEDULE = 10.0


class PortkeyBatchSensor(BatchTask, BaseSensorOperator):
    """
    Wait until a batch has ended.

    Poking, rescheduled or deferred, it ends alike. It returns the batch as a dict under the names of Portkey's
    documentation and pushes ``output_file_id`` and ``error_file_id`` to XCom beside it, before a bad end raises
    too: what an expired batch answered was paid for. An outage does not end the wait; only ``timeout`` does.

    .. seealso:: https://portkey.ai/docs/api-reference/inference-api/batch/retrieve-batch

    :param batch_id: the batch's id, plain or percent-encoded (templated)
    :param portkey_conn_id: the id of the Airflow connection (templated)
    :param deferrable: wait in the triggerer, without a worker slot; default: ``[operators] default_deferrable``
    :param end_from_trigger: when deferred, let a good end finish the task in the triggerer, without a worker slot; a
        task with more to do then (outlets, a success callback, ...) ends on a worker all the same
    :param allowed_statuses: terminal statuses that count as success, of ``completed``, ``failed``, ``expired``
        and ``cancelled``
    :param fail_on_request_errors: when a batch with an allowed status fails the task because requests in it
        failed: ``"never"``, when ``"all"`` of them did, or when ``"any"`` did
    :param kwargs: those of :class:`~airflow.sdk.BaseSensorOperator`. ``timeout``, ``poke_interval``,
        ``exponential_backoff``, ``max_wait``, ``soft_fail`` and ``never_fail`` hold in each mode
    :raises PortkeyBatchEndedError: one of its subclasses, if the batch ended otherwise
    :raises PortkeyRefusedError: if Portkey or the provider behind it refuses the call
    :raises PortkeyInputError: if the connection or ``batch_id`` can't be used
    :raises PortkeyConnectionNotFoundError: if there is no such connection
    :raises PortkeyBatchTimeoutError: if the batch has not ended after ``timeout`` seconds
    """

    template_fields: Sequence[str] = ("batch_id", "portkey_conn_id")

    def __init__(
        self,
        *,
        batch_id: str,
        portkey_conn_id: str = PortkeyHook.default_conn_name,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        end_from_trigger: bool = False,
        allowed_statuses: Iterable[str] = ("completed",),
        fail_on_request_errors: FailOnRequestErrors = "all",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.batch_id = batch_id
        self.portkey_conn_id = portkey_conn_id
        self.deferrable = deferrable
        self.end_from_trigger = end_from_trigger
        self._policy = Policy.of(allowed_statuses, fail_on_request_errors)
        self.allowed_statuses = self._policy.allowed_statuses
        self.fail_on_request_errors = fail_on_request_errors

    def poke(self, context: Context) -> PokeReturnValue:
        """Look at the batch once."""
        with self._skipping():
            answer = self._look(context)
        return PokeReturnValue(is_done=answer is not None, xcom_value=answer)

    def execute(self, context: Context) -> Any:
        """Wait in the task's mode."""
        with self._skipping():
            if not self.deferrable:
                try:
                    return super().execute(context)
                except AirflowSensorTimeout:
                    pass
                except AirflowSkipException as skip:
                    if skip.__cause__ is not None:  # poke's own; Airflow's, on a timeout with soft_fail, has none
                        raise
                self._time_is_up()
            started_at = time.time()
            first = self.poke(context)
            if first:
                return first.xcom_value
            self._defer(
                context,
                started_at=started_at,
                poke_interval=self.poke_interval,
                exponential_backoff=self.exponential_backoff,
                max_wait=None if self.max_wait is None else self.max_wait.total_seconds(),
            )

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """End as the trigger's event says."""
        with self._skipping():
            return self._resume(context, event)

    def _get_next_poke_interval(self, started_at: Any, run_duration: Callable[[], float], poke_count: int) -> float:
        # Airflow's own would sleep beyond the timeout, and knows no Retry-After.
        interval = super()._get_next_poke_interval(started_at, run_duration, poke_count)
        left = max(self.timeout - run_duration(), _SHORTEST_RESCHEDULE if self.reschedule else 0.0)
        return min(max(interval, self._progress.retry_after), left)

    @contextmanager
    def _skipping(self) -> Iterator[None]:
        """Skip with the reason, in each mode, where Airflow's base skips only in some and without it."""
        try:
            yield
        except (AirflowFailException, AirflowSensorTimeout) as error:
            if not (self.soft_fail or self.never_fail):
                raise
            # Logged here, since Airflow's base puts words of its own in the place of these after a deferral.
            self.log.warning("Skipping instead of failing: %s", error)
            raise AirflowSkipException(str(error)) from error
