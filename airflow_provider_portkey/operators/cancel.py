"""Cancel a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_portkey.batch import BatchId
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.task import PortkeyTask

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class PortkeyCancelBatchOperator(PortkeyTask, BaseOperator):
    """
    Cancel a batch. A batch that has already ended does not raise an error.

    The operator returns the batch as a dict under the names of Portkey's documentation. The provider may take minutes;
    until then the status is ``cancelling`` or unchanged. To wait, put a sensor with
    ``allowed_statuses=["cancelled", "completed"]`` after it.

    ``batch_id``, ``portkey_conn_id`` and ``headers`` are templated. What it raises is listed in
    :mod:`airflow_provider_portkey.exceptions`.

    .. seealso:: https://portkey.ai/docs/api-reference/inference-api/batch/cancel-batch

    :param batch_id: the batch's id, plain or percent-encoded, or the batch's dict as an operator returns it
    :param portkey_conn_id: the id of the Airflow connection
    :param headers: headers to send in addition to the connection's, or instead of those of the same names: bucket,
        region, model, ... They may not hold credentials, which belong on the connection
    """

    template_fields: Sequence[str] = ("batch_id", "portkey_conn_id", "headers")

    def __init__(
        self,
        *,
        batch_id: BatchId,
        portkey_conn_id: str = PortkeyHook.default_conn_name,
        headers: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.batch_id = batch_id
        self._init_connection(portkey_conn_id, headers)

    def execute(self, context: Context) -> dict[str, Any]:
        """Cancel the batch."""
        batch = self.hook.cancel_batch(self.batch_id)
        self.log.info("%s.", batch)
        return batch.to_dict()
