"""Operators on batches."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator, conf

from airflow_provider_portkey.exceptions import PortkeyBatchNotReadyError
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.task import BatchTask, as_seconds
from airflow_provider_portkey.verdict import FailOnRequestErrors, Policy
from airflow_provider_portkey.wait import Schedule

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


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

        started_at = time.time()
        schedule = Schedule(started_at=started_at, deadline=started_at + self.timeout, poke_interval=self.poke_interval)
        while (answer := self._look(context)) is None:
            if self.deferrable:
                self._defer(context, started_at=started_at, poke_interval=self.poke_interval)
            delay = schedule.delay(random.random(), self._progress.retry_after)
            if delay is None:
                self._time_is_up()
            time.sleep(delay)
        return answer

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """End as the trigger's event says."""
        return self._resume(context, event)
