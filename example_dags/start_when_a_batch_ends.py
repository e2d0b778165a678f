"""Start a DAG for each batch that ends, whoever created it. Needs Airflow 3.3 or later."""

from airflow.sdk import Asset, AssetWatcher, dag, task

from airflow_provider_portkey.operators.batch import PortkeyDownloadBatchOperator
from airflow_provider_portkey.triggers.batch_ended import PortkeyBatchEndedTrigger

ended = PortkeyBatchEndedTrigger(statuses=["completed"], required_metadata={"team": "search"})
batches = Asset("portkey_batches", watchers=[AssetWatcher(name="portkey_batch_ended", trigger=ended)])


@dag(schedule=[batches], params={"folder": "/tmp/portkey"})
def start_when_a_batch_ends():
    @task
    def batch_ids(triggering_asset_events=None):
        # One run may have several events.
        events = triggering_asset_events[batches]
        return sorted({event.extra["payload"]["id"] for event in events})

    PortkeyDownloadBatchOperator.partial(
        task_id="download", path="{{ params.folder }}/{{ run_id }}/{{ ti.map_index }}"
    ).expand(batch_id=batch_ids())


dag_object = start_when_a_batch_ends()
