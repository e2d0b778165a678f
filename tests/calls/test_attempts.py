"""
Attempts of a task that creates a batch: none pays for what a previous attempt has created.

Each state that an attempt may leave behind is met by the next one, with the store of Airflow 3.3 and without it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from urllib.parse import quote

import pytest

from airflow_provider_portkey.attempts import MAX_LISTED, METADATA_KEY
from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.exceptions import PortkeyAttemptUnknownError, PortkeyTransientError
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from tests.calls.attempt import BrokenStore, Store, attempt, create_another_batch, create_batch, upload_file
from tests.server.standin import Answer, StandIn, batch_body

pytestmark = pytest.mark.usefixtures("connection")


@pytest.fixture(autouse=True)
def batches_in_flight(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    standin.course = [(0, "in_progress")]
    # Whether a batch may still appear is tested apart.
    monkeypatch.setattr("airflow_provider_portkey.attempts.SETTLING_TIME", 0)


@pytest.fixture(params=["with the store of Airflow 3.3", "without a store"])
def store(request: pytest.FixtureRequest) -> Any:
    return Store() if request.param == "with the store of Airflow 3.3" else None


def test_the_first_attempt_sends_no_request(store: Any, standin: StandIn) -> None:
    assert attempt(1, store).recover("fail") is None
    assert standin.requests == []


def test_the_next_attempt_finds_the_batch_in_flight_or_ended_well(store: Any, standin: StandIn) -> None:
    first = attempt(1, store)
    first.record_intent(None)
    batch = create_batch(first)
    first.record_created(batch)
    create_another_batch()
    assert attempt(2, store).recover("fail") == batch
    standin.script(batch.id, "completed")
    found = attempt(3, store).recover("fail")
    assert found is not None
    assert (found.id, found.status) == (batch.id, "completed")


def test_the_next_attempt_finds_a_batch_that_was_not_recorded_behind_120_others(store: Any) -> None:
    first = attempt(1, store)
    first.record_intent(None)
    batch = create_batch(first)
    hook = PortkeyHook()
    body = {
        "input_file_id": batch.input_file_id,
        "endpoint": "/v1/embeddings",
        "completion_window": "24h",
        "metadata": {"owner": "another"},
    }
    with hook.get_conn() as session:
        for _ in range(120):
            session.post(f"{hook.base_url}/batches", json=body, timeout=10).raise_for_status()
    assert attempt(2, store).recover("fail") == batch


def test_no_batch_is_found_where_none_was_created(store: Any) -> None:
    create_another_batch()
    # The only one without metadata, while the provider returns those of others.
    PortkeyHook().create_batch(upload_file(), "/v1/embeddings")
    attempt(1, store).record_intent(None)
    assert attempt(2, store).recover("fail") is None


@pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
@pytest.mark.parametrize("is_recorded", [True, False], ids=["recorded", "not recorded"])
def test_a_batch_that_ended_badly_is_not_reused(status: str, is_recorded: bool, store: Any, standin: StandIn) -> None:
    first = attempt(1, store)
    first.record_intent(None)
    batch = create_batch(first)
    if is_recorded:
        first.record_created(batch)
    standin.script(batch.id, status)
    assert attempt(2, store).recover("fail") is None
    second_batch = create_batch(attempt(2, store))
    attempt(2, store).record_intent(None)
    assert attempt(3, store).recover("fail") == second_batch


@pytest.mark.parametrize(
    "other",
    [
        {"run_id": "r2"},
        {"map_index": 1},
        {"task_id": "t2"},
        {"dag_id": "d2"},
    ],
    ids=str,
)
def test_another_task_instance_finds_no_batch(other: Any, store: Any) -> None:
    first = attempt(1, store)
    first.record_intent(None)
    first.record_created(create_batch(first))
    assert attempt(2, store, **other).recover("fail") is None


class TestProviderWithoutMetadata:
    """A provider that does not return the metadata of its batches."""

    @pytest.fixture(autouse=True)
    def metadata_is_dropped(self, standin: StandIn) -> None:
        standin.drops_metadata = True

    def test_a_recorded_batch_is_found(self) -> None:
        store = Store()
        first = attempt(1, store)
        first.record_intent(None)
        batch = create_batch(first)
        first.record_created(batch)
        assert attempt(2, store).recover("fail") == batch

    def test_a_batch_of_the_file_that_the_attempt_uploaded_is_found(self) -> None:
        store = Store()
        first = attempt(1, store)
        file_id = upload_file()
        first.record_intent(file_id)
        batch = create_batch(first, file_id)
        create_another_batch()
        assert attempt(2, store).recover("fail") == batch

    def test_no_batch_is_found_where_the_uploaded_file_has_none(self) -> None:
        store = Store()
        attempt(1, store).record_intent(upload_file())
        create_another_batch()
        assert attempt(2, store).recover("fail") is None

    def test_an_inconclusive_search_fails_or_lets_a_batch_be_created(
        self, store: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        attempt(1, store).record_intent(None)
        create_batch(attempt(1, store))
        with pytest.raises(PortkeyAttemptUnknownError, match="Nothing was created"):
            attempt(2, store).recover("fail")
        assert attempt(2, store).recover("create") is None
        assert "creating one, since on_unknown is 'create'" in caplog.text

    def test_a_store_that_was_cleared_proves_nothing(self) -> None:
        create_another_batch()
        with pytest.raises(PortkeyAttemptUnknownError, match="Nothing was created"):
            attempt(2, Store()).recover("fail")

    @pytest.mark.parametrize(("number", "is_settled"), [(2, True), (3, False)])
    def test_a_record_of_other_work_proves_something_only_if_it_is_the_first_attempt_s(
        self, number: int, is_settled: bool
    ) -> None:
        store = Store()
        create_another_batch()
        assert attempt(number - 1, store, request=["file-2", {}]).recover("create") is None
        with nullcontext() if is_settled else pytest.raises(PortkeyAttemptUnknownError):
            assert attempt(number, store).recover("fail") is None

    def test_a_record_that_nothing_was_sent_proves_that_there_is_no_batch(self) -> None:
        store = Store()
        assert attempt(1, store).recover("fail") is None
        create_another_batch()
        assert attempt(2, store).recover("fail") is None

    def test_an_empty_list_proves_that_no_batch_was_created(self, store: Any) -> None:
        attempt(1, store).record_intent(None)
        assert attempt(2, store).recover("fail") is None


@pytest.mark.parametrize("drops_metadata", [False, True], ids=["with metadata", "without metadata"])
def test_a_recorded_batch_that_no_longer_exists_proves_nothing(
    drops_metadata: bool, standin: StandIn, short_backoff: None
) -> None:
    """The connection may name another workspace by now, whose list says nothing about the batch."""
    standin.drops_metadata = drops_metadata
    store = Store()
    create_another_batch()
    first = attempt(1, store)
    first.record_intent(None)
    first.record_created(Batch.from_dict({"id": "batch_gone", "status": "validating"}))
    with pytest.raises(PortkeyAttemptUnknownError, match="Nothing was created"):
        attempt(2, store).recover("fail")


def test_a_list_that_is_rejected_is_inconclusive(store: Any, standin: StandIn) -> None:
    attempt(1, store).record_intent(None)
    rejection = Answer(403, {"status": "failure", "message": "Portkey Error: Forbidden!"})
    standin.fail("GET", "/v1/batches", rejection, rejection)
    with pytest.raises(PortkeyAttemptUnknownError):
        attempt(2, store).recover("fail")
    assert attempt(2, store).recover("create") is None


def test_a_list_that_fails_raises_and_the_next_attempt_finds_the_batch(
    store: Any, standin: StandIn, short_backoff: None
) -> None:
    first = attempt(1, store)
    first.record_intent(None)
    batch = create_batch(first)
    standin.fail("GET", "/v1/batches", *[Answer(500)] * 3)
    with pytest.raises(PortkeyTransientError):
        attempt(2, store).recover("create")
    assert attempt(3, store).recover("fail") == batch


def test_a_list_without_end_is_inconclusive_after_its_first_batches(store: Any, standin: StandIn) -> None:
    attempt(1, store).record_intent(None)
    batches = [{"id": f"batch_{n}", "status": "completed", "metadata": {"a": "b"}} for n in range(MAX_LISTED + 100)]
    pages = [Answer(body={"data": batches[n : n + 100], "has_more": True}) for n in range(0, len(batches), 100)]
    standin.fail("GET", "/v1/batches", *pages)
    with pytest.raises(PortkeyAttemptUnknownError, match="not all of them in its list"):
        attempt(2, store).recover("fail")
    assert len(standin.requests) == MAX_LISTED // 100


def test_a_batch_is_found_though_the_store_could_not_be_written() -> None:
    first = attempt(1, BrokenStore())
    first.record_intent(None)
    batch = create_batch(first)
    assert attempt(2, Store()).recover("fail") == batch


def test_a_batch_is_found_though_the_store_is_down() -> None:
    first = attempt(1, BrokenStore())
    assert first.recover("fail") is None
    first.record_intent(None)
    batch = create_batch(first)
    first.record_created(batch)
    assert attempt(2, BrokenStore()).recover("fail") == batch


def batch_of_file(batch_id: str, input_file_id: str | None, metadata: dict[str, str] | None = None) -> dict[str, Any]:
    return batch_body(batch_id, "in_progress", input_file_id=input_file_id, metadata=metadata)


#: The input of another task's batch.
OTHER_NAME = f"gs://bucket/airflow/{'0' * 64}/requests.jsonl"


class TestObjectNames:
    """Bedrock and Vertex drop metadata. There the key is in the name of the input file."""

    @pytest.fixture
    def listed(self, standin: StandIn) -> Callable[..., None]:
        def list_batches(*bodies: dict[str, Any], **members: Any) -> None:
            page = {"object": "list", "data": list(bodies), "has_more": False} | members
            standin.fail("GET", "/v1/batches", Answer(body=page))
            for body in bodies:
                standin.script(str(body["id"]), Answer(body=body))

        return list_batches

    def test_a_batch_is_found_by_the_key_in_its_file_s_name(self, listed: Callable[..., None]) -> None:
        second = attempt(2)
        mine = quote(f"s3://bucket/{second.file_name}", safe="")
        other = quote(OTHER_NAME.replace("gs:", "s3:"), safe="")
        listed(batch_of_file("batch_b", other), batch_of_file("batch_a", mine))

        found = second.recover("fail")

        assert found is not None
        assert found.id == "batch_a"

    def test_a_batch_of_this_file_with_another_key_in_its_metadata_is_not_this_task_s(
        self, listed: Callable[..., None]
    ) -> None:
        second = attempt(2)
        listed(batch_of_file("batch_a", f"s3://bucket/{second.file_name}", {METADATA_KEY: "another"}))

        assert second.recover("fail") is None

    def test_files_of_other_names_prove_that_there_is_no_batch(self, listed: Callable[..., None]) -> None:
        listed(batch_of_file("batch_b", OTHER_NAME))

        assert attempt(2).recover("fail") is None

    def test_a_list_that_may_have_further_pages_proves_nothing(self, listed: Callable[..., None]) -> None:
        """Bedrock and Cohere return one page, and do not say whether there are others."""
        listed(batch_of_file("batch_b", OTHER_NAME), has_more=None)

        with pytest.raises(PortkeyAttemptUnknownError):
            attempt(2).recover("fail")

    def test_a_file_without_a_key_in_its_name_proves_nothing(self, listed: Callable[..., None]) -> None:
        # With some configs the gateway names the objects itself.
        listed(batch_of_file("batch_b", "gs://bucket/0b7e1f6a.jsonl"))

        with pytest.raises(PortkeyAttemptUnknownError):
            attempt(2).recover("fail")

    def test_metadata_that_the_provider_made_does_not_prove_that_it_keeps_ours(
        self, listed: Callable[..., None]
    ) -> None:
        cohere: Any = {"api_version": {"version": "1"}, "billed_units": {"input_tokens": 1200}}
        listed(batch_of_file("batch_b", "dataset-1", cohere))

        with pytest.raises(PortkeyAttemptUnknownError):
            attempt(2).recover("fail")
