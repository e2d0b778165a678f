"""Ask a model about each of many records at half price, in one batch, and join its answers to the records."""

from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_portkey.answers import read_answers
from airflow_provider_portkey.operators.batch import PortkeyCreateBatchOperator, PortkeyDownloadBatchOperator


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1),
    # Any folder that Airflow's object storage reaches, such as s3://aws_default@bucket/answers.
    params={"model": "gpt-4o-mini", "folder": "/tmp/portkey"},
)
def answer_records():
    @task
    def read_records():
        return [
            {"id": "1", "review": "Arrived on time, works as described."},
            {"id": "2", "review": "The box was open and a cable was missing."},
            {"id": "3", "review": "It broke on the second day."},
        ]

    @task
    def write_requests(records, params=None):
        question = "Is this review positive or negative? Answer with one word."
        return [
            {
                "custom_id": record["id"],
                "body": {
                    "model": params["model"],
                    "messages": [
                        {"role": "system", "content": question},
                        {"role": "user", "content": record["review"]},
                    ],
                },
            }
            for record in records
        ]

    @task
    def join(records, manifest):
        answers = {answer.custom_id: answer.text for answer in read_answers(manifest)}
        return [record | {"answer": answers.get(record["id"])} for record in records]

    records = read_records()
    create = PortkeyCreateBatchOperator(
        task_id="create",
        requests=write_requests(records),
        wait_for_completion=True,
        deferrable=True,
        timeout=timedelta(hours=26),
    )
    download = PortkeyDownloadBatchOperator(
        task_id="download", batch_id=create.output, path="{{ params.folder }}/{{ run_id }}"
    )
    join(records, download.output)


dag_object = answer_records()
