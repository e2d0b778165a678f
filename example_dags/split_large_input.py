"""Split more requests than one batch may hold into several, wait for all of them at once, and download the answers."""

import json
from datetime import datetime
from itertools import islice

from airflow.providers.common.compat.sdk import ObjectStoragePath, dag, task

from airflow_provider_portkey.operators.batch import PortkeyCreateBatchOperator, PortkeyDownloadBatchOperator


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1),
    params={"requests": 120_000, "requests_per_batch": 50_000, "folder": "/tmp/portkey"},
)
def split_large_input():
    @task
    def split(params=None, run_id=None):
        """Write the requests to files and return their paths, since so many requests do not belong in XCom."""
        requests = (
            {
                "custom_id": f"{n}",
                "method": "POST",
                "url": "/v1/embeddings",
                "body": {"model": "text-embedding-3-small", "input": f"text {n}"},
            }
            for n in range(params["requests"])
        )
        folder = ObjectStoragePath(params["folder"]) / run_id
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        while chunk := list(islice(requests, params["requests_per_batch"])):
            path = folder / f"requests-{len(paths)}.jsonl"
            with path.open("w") as file:
                file.writelines(json.dumps(request) + "\n" for request in chunk)
            paths.append(str(path))
        return paths

    create = PortkeyCreateBatchOperator.partial(
        task_id="create", endpoint="/v1/embeddings", wait_for_completion=True, deferrable=True
    ).expand(input_path=split())

    download = PortkeyDownloadBatchOperator.partial(
        task_id="download", path="{{ params.folder }}/{{ run_id }}/{{ ti.map_index }}"
    ).expand(batch_id=create.output)

    @task
    def count_answers(manifests):
        return sum(manifest["output"]["lines"] for manifest in manifests)

    count_answers(download.output)


dag_object = split_large_input()
