"""A download to Amazon S3 as the user, and with the s3fs, of the run's configuration."""

import sys
from datetime import datetime

from airflow.providers.common.compat.sdk import dag

from airflow_provider_portkey.operators.batch import PortkeyDownloadBatchOperator


def attach_s3(context):
    try:
        from airflow.sdk.io import attach
    except ImportError:  # Airflow 2
        from airflow.io.store import attach

    conf = context["dag_run"].conf
    sys.path.append(conf["s3fs"])
    from s3fs import S3FileSystem

    attach("s3", conn_id="put_only", fs=S3FileSystem(**conf["options"]))


@dag(schedule=None, start_date=datetime(2026, 1, 1))
def to_s3():
    PortkeyDownloadBatchOperator(
        task_id="download",
        batch_id="{{ dag_run.conf['batch_id'] }}",
        path="{{ dag_run.conf['path'] }}",
        # An s3fs does not survive the fork of a worker, so that the task itself makes it.
        pre_execute=attach_s3,
    )


to_s3()
