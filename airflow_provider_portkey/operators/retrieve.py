"""Retrieve a batch, or wait for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator, conf

from airflow_provider_portkey.batch import BatchId
from airflow_provider_portkey.exceptions import PortkeyBatchNotReadyError
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.task import BatchTask
from airflow_provider_portkey.text import message
from airflow_provider_portkey.verdict import FailOnRequestErrors

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class PortkeyRetrieveBatchOperator(BatchTask, BaseOperator):
    """
    Retrieve a batch that has ended, or wait for its end, and push the ids of its files to XCom.

    The operator returns the batch as a dict under the names of Portkey's documentation, and pushes ``output_file_id``
    and ``error_file_id`` to XCom, also before a bad end raises. If the batch is in flight, it raises an error that
    Airflow may retry, unless ``wait_for_completion`` is set.

    ``batch_id``, ``portkey_conn_id`` and ``headers`` are templated. What it raises is listed in
    :mod:`airflow_provider_portkey.exceptions`.

    .. seealso:: https://portkey.ai/docs/api-reference/inference-api/batch/retrieve-batch

    :param batch_id: the batch's id, plain or percent-encoded, or the batch's dict as an operator returns it
    :param portkey_conn_id: the id of the Airflow connection
    :param headers: headers to send in addition to the connection's, or instead of those of the same names: bucket,
        region, model, ... They may not hold credentials, which belong on the connection
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

    template_fields: Sequence[str] = ("batch_id", "portkey_conn_id", "headers")

    def __init__(
        self,
        *,
        batch_id: BatchId,
        portkey_conn_id: str = PortkeyHook.default_conn_name,
        headers: Mapping[str, str] | None = None,
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
        self._init_connection(portkey_conn_id, headers)
        self.wait_for_completion = wait_for_completion
        self._init_wait(locals())

    def execute(self, context: Context) -> dict[str, Any]:
        """Retrieve the batch, or wait for its end."""
        if self.wait_for_completion:
            return self._wait(context)
        batch = self.hook.get_batch(self.batch_id)
        result = self._finish_if_terminal(context, batch)
        if result is None:
            raise PortkeyBatchNotReadyError(
                message(
                    f"Batch is still {batch.status}: set wait_for_completion=True, or put a PortkeyBatchSensor first",
                    f"{batch}, so it has no results yet. Retries with a retry_delay also work.",
                )
            )
        return result

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """End as the trigger's event says."""
        return self._handle_event(context, event)
