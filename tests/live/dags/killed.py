"""Tasks that create a batch and write their process id to a file, so that a test can kill them."""

import os
from datetime import datetime, timedelta
from pathlib import Path

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_portkey.operators.batch import PortkeyCreateBatchOperator


class Create(PortkeyCreateBatchOperator):
    template_fields = (*PortkeyCreateBatchOperator.template_fields, "folder")

    def __init__(self, *, folder, **kwargs):
        super().__init__(**kwargs)
        self.folder = folder

    def execute(self, context):
        ti = context["ti"]
        (Path(self.folder) / f"{ti.map_index}-{ti.try_number}").write_text(f"{os.getpid()}")
        return super().execute(context)


@dag(schedule=None, start_date=datetime(2026, 1, 1))
def killed():
    @task
    def requests():
        return [[{"custom_id": f"r{n}", "body": {}}] for n in range(20)]

    Create.partial(
        task_id="create",
        folder="{{ dag_run.conf['folder'] }}",
        wait_for_completion=True,
        poke_interval=0.5,
        retries=3,
        retry_delay=timedelta(seconds=1),
    ).expand(requests=requests())


killed()
