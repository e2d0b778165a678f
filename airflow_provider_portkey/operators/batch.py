"""Operators for batches: the public path of each."""

from airflow_provider_portkey.operators.cancel import PortkeyCancelBatchOperator
from airflow_provider_portkey.operators.create import PortkeyCreateBatchOperator
from airflow_provider_portkey.operators.download import PortkeyDownloadBatchOperator
from airflow_provider_portkey.operators.retrieve import PortkeyRetrieveBatchOperator

__all__ = [
    "PortkeyCancelBatchOperator",
    "PortkeyCreateBatchOperator",
    "PortkeyDownloadBatchOperator",
    "PortkeyRetrieveBatchOperator",
]
