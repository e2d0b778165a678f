"""What OpenLineage reports of a task, read from the events that its provider writes to a file."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.events import to_event
from airflow_provider_portkey.exceptions import PortkeyRefusedError
from airflow_provider_portkey.lineage import Lineage, LineageFile
from airflow_provider_portkey.operators.batch import PortkeyCreateBatchOperator, PortkeyDownloadBatchOperator
from tests.conftest import REPO
from tests.server.standin import Answer, StandIn
from tests.support.answers import completed_body
from tests.support.task_instance import TaskInstance

HAS_OPENLINEAGE = importlib.util.find_spec("openlineage") is not None
pytestmark = pytest.mark.usefixtures("airflow_db", "connection")
with_openlineage = pytest.mark.skipif(not HAS_OPENLINEAGE, reason="apache-airflow-providers-openlineage is missing")

REQUEST = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": []}}
ADDRESSES = {
    "/data/answers #1.jsonl": ("file", "/data/answers #1.jsonl"),
    "file:///data/output.jsonl": ("file", "/data/output.jsonl"),
    "s3://aws_default@bucket/results/output.jsonl": ("s3://bucket", "results/output.jsonl"),
    "gs://bucket/output.jsonl": ("gs://bucket", "output.jsonl"),
}
# In a process of its own, since OpenLineage reads its configuration once.
RUN = """
import sys
from tests.support.airflow_run import run_task
run = run_task(sys.argv[1], **eval(sys.argv[2]))
print(run.states)
"""


def events(tmp_path: Path, operator: str, **kwargs: Any) -> list[dict[str, Any]]:
    """Run a task, and return the events of its end as OpenLineage's file transport wrote them."""
    written = tmp_path / "events.jsonl"
    transport = {"type": "file", "log_file_path": str(written), "append": True}
    environment = os.environ | {
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
        "AIRFLOW__OPENLINEAGE__NAMESPACE": "tests",
        "PYTHONPATH": str(REPO),
    }
    command = [sys.executable, "-c", RUN, operator, repr(kwargs)]
    process = subprocess.run(
        command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert written.exists(), process.stdout + process.stderr
    found = [json.loads(line) for line in written.read_text().splitlines()]
    return [one for one in found if one["job"]["name"].endswith(".wait") and one["eventType"] in ("COMPLETE", "FAIL")]


def datasets(event: dict[str, Any], side: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the datasets of an event, with the figures that it has of them."""
    facets, name = ("inputFacets", "inputStatistics") if side == "inputs" else ("outputFacets", "outputStatistics")
    return {
        (one["namespace"], one["name"]): {
            key: value for key, value in one.get(facets, {}).get(name, {}).items() if key in ("rowCount", "size")
        }
        for one in event[side]
    }


def create(**arguments: Any) -> PortkeyCreateBatchOperator:
    return PortkeyCreateBatchOperator(task_id="create", endpoint="/v1/chat/completions", **arguments)


def addresses(datasets: list[Any]) -> list[tuple[str, str]]:
    return [(dataset.namespace, dataset.name) for dataset in datasets]


@with_openlineage
def test_create_reads_its_input_path_and_makes_a_batch(standin: StandIn, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(json.dumps(REQUEST) + "\n")
    [event] = events(tmp_path, "PortkeyCreateBatchOperator", input_path=str(path))
    assert event["eventType"] == "COMPLETE"
    assert datasets(event, "inputs") == {("file", str(path)): {"rowCount": 1}}
    assert datasets(event, "outputs") == {("portkey", f"batches/{standin.batches[0].id}"): {}}
    assert event["run"]["facets"]["externalQuery"]["externalQueryId"] == standin.batches[0].id


@with_openlineage
def test_a_download_that_fails_reports_what_it_wrote_before(standin: StandIn, tmp_path: Path) -> None:
    standin.script("batch_1", "completed")
    standin.fail("GET", "/v1/files/file-batch_1-error/content", *[Answer(403, {"error": {"message": "no"}})] * 9)
    [event] = events(tmp_path, "PortkeyDownloadBatchOperator", batch_id="batch_1", path=str(tmp_path))
    assert event["eventType"] == "FAIL"
    assert list(datasets(event, "inputs")) == [("portkey", "batches/batch_1")]
    output = tmp_path / "output.jsonl"
    assert datasets(event, "outputs") == {("file", str(output)): {"rowCount": 98, "size": output.stat().st_size}}
    assert event["run"]["facets"]["externalQuery"]["externalQueryId"] == "batch_1"


@with_openlineage
def test_create_from_records_reports_the_batch_and_not_the_temporary_file(standin: StandIn) -> None:
    operator = create(requests=[REQUEST])
    ti = SimpleNamespace(
        dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1, xcom_push=lambda key, value: None
    )
    batch = operator.execute({"ti": ti})  # type: ignore[typeddict-item]
    reported = operator.get_openlineage_facets_on_complete(None)
    assert reported.inputs == []
    assert addresses(reported.outputs) == [("portkey", f"batches/{batch['id']}")]


@with_openlineage
def test_a_deferred_create_reports_its_batch_after_its_deferral() -> None:
    operator = create(input_path="/data/in.jsonl")
    event = to_event("batch_1", Batch.from_dict(completed_body("batch_1")))
    operator.execute_complete(TaskInstance().context, event)
    reported = operator.get_openlineage_facets_on_complete(None)
    assert addresses(reported.inputs) == [("file", "/data/in.jsonl")]
    assert addresses(reported.outputs) == [("portkey", "batches/batch_1")]


@with_openlineage
def test_a_download_reports_nothing_until_it_knows_the_batch(standin: StandIn, tmp_path: Path) -> None:
    operator = PortkeyDownloadBatchOperator(task_id="download", batch_id="batch_2", path=str(tmp_path))
    with pytest.raises(PortkeyRefusedError):
        operator.execute(TaskInstance().context)
    reported = operator.get_openlineage_facets_on_failure(None)
    assert (reported.inputs, reported.outputs, reported.run_facets) == ([], [], {})


@with_openlineage
@pytest.mark.parametrize(("path", "address"), ADDRESSES.items(), ids=ADDRESSES)
def test_a_file_has_the_address_of_openlineage_s_naming_convention(path: str, address: tuple[str, str]) -> None:
    assert addresses(Lineage(read=[LineageFile(path)]).to_openlineage().inputs) == [address]


def test_without_openlineage_nothing_of_it_is_imported() -> None:
    code = (
        "import sys, airflow_provider_portkey.operators.batch\n"
        "print([name for name in sys.modules if name.startswith('openlineage')])"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == "[]"
