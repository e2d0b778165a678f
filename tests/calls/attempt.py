"""An attempt of a task that creates a batch, with what a previous one left behind: builders for tests."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

from airflow_provider_portkey.attempts import METADATA_KEY, Attempts
from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.verdict import Outcome, Policy, judge
from tests.server.standin import Answer, StandIn

ENDPOINT = "/v1/embeddings"
REQUEST = ["file-1", {"endpoint": ENDPOINT}]


class Store(dict[str, Any]):
    """A task's state store as Airflow 3.3 has it, as far as it matters here."""

    def set(self, key: str, value: Any) -> None:
        assert value is not None
        self[key] = value


class UnreadableStore(Store):
    """A state store that can be written alone."""

    def get(self, key: str, default: Any = None) -> Any:
        raise RuntimeError("the backend is down")


class UnwritableStore(Store):
    """A state store that can be read alone."""

    def set(self, key: str, value: Any) -> None:
        raise RuntimeError("the backend is down")


class BrokenStore(UnreadableStore, UnwritableStore):
    """A state store whose backend is down."""


def attempt(number: int, store: Any = None, request: Any = REQUEST, **ti: Any) -> Attempts:
    """Return what the attempt of this number knows; ``ti`` are attributes of its task instance."""
    defaults = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, "try_number": number}
    context: Any = {"ti": SimpleNamespace(**defaults | ti)}
    if store is not None:
        context["task_state_store"] = store
    log = logging.getLogger("task")
    return Attempts(context, request, hook=PortkeyHook(), is_reusable=is_reusable, log=log)


def is_reusable(batch: Batch) -> bool:
    return judge(batch, Policy()).outcome in (Outcome.WAIT, Outcome.SUCCEED)


def upload_file() -> str:
    return PortkeyHook().upload_file(__file__)


def create_batch(made_by: Attempts, input_file_id: str | None = None) -> Batch:
    return PortkeyHook().create_batch(input_file_id or upload_file(), ENDPOINT, metadata={METADATA_KEY: made_by.key})


def create_another_batch() -> None:
    """Create a batch that is not the task's."""
    PortkeyHook().create_batch(upload_file(), ENDPOINT, metadata={"owner": "another"})


def recorded_batch(made_by: Attempts) -> Batch:
    """Create a batch as an attempt does that ends well: with an intent before it, and its id after it in the store."""
    file_id = upload_file()
    made_by.record_intent(file_id)
    batch = create_batch(made_by, file_id)
    made_by.record_created(batch)
    return batch


def show_list(standin: StandIn, *bodies: dict[str, Any], **members: Any) -> None:
    """Let the provider list these batches, and describe each of them so."""
    page = {"object": "list", "data": list(bodies), "has_more": False} | members
    standin.fail("GET", "/v1/batches", *[Answer(body=page)] * 20)
    for body in bodies:
        standin.script(str(body["id"]), Answer(body=body))
