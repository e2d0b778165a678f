from datetime import datetime

from airflow.providers.common.compat.sdk import dag

from airflow_provider_portkey.operators.batch import PortkeyCreateBatchOperator
from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor


@dag(schedule=None, start_date=datetime(2026, 1, 1))
def create_then_wait():
    question = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello."}]}
    create = PortkeyCreateBatchOperator(task_id="create", requests=[{"custom_id": "1", "body": question}])
    PortkeyBatchSensor(task_id="wait", batch_id=create.output, deferrable=True)


dag_object = create_then_wait()
