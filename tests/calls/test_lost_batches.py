"""
Batches that a next attempt could lose, or take for its own.

The store names another batch, or none, or cannot be read; a list shows no metadata; a file has the name of another one.
"""

from __future__ import annotations

import logging
import time
from typing import Any
from uuid import UUID

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_portkey import attempts
from airflow_provider_portkey.attempts import METADATA_KEY
from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.exceptions import PortkeyAttemptUnknownError, PortkeyError, PortkeyTransientError
from tests.calls.attempt import (
    BrokenStore,
    Store,
    UnreadableStore,
    UnwritableStore,
    attempt,
    create_another_batch,
    create_batch,
    recorded_batch,
    show_list,
    upload_file,
)
from tests.server.standin import Answer, StandIn, batch_body
from tests.support.answers import html_page, provider_error

pytestmark = pytest.mark.usefixtures("connection", "short_backoff")

OTHER_REQUEST = ["file-2", {"endpoint": "/v1/embeddings"}]


@pytest.fixture(autouse=True)
def batches_in_flight(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    standin.course = [(0, "in_progress")]
    # How long a batch may still appear is tested in test_creation.py.
    monkeypatch.setattr(attempts, "SETTLING_TIME", 0)


@pytest.fixture(params=["with the store of Airflow 3.3", "without a store"])
def store(request: pytest.FixtureRequest) -> Any:
    return Store() if request.param == "with the store of Airflow 3.3" else None


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Any:
    """Return the warnings of the task so far."""
    return lambda: [r.getMessage() for r in caplog.records if (r.name, r.levelno) == ("task", logging.WARNING)]


class TestOtherRequests:
    """A previous attempt's batch was for other requests, as where a prompt has the time in it."""

    def test_a_warning_names_the_old_batch_its_status_and_how_to_cancel_it(self, store: Any, warnings: Any) -> None:
        batch = recorded_batch(attempt(1, store))
        assert attempt(2, store, OTHER_REQUEST).recover("create") is None
        [warning] = warnings()
        assert warning.split("\n") == [
            "A previous attempt's batch was for other requests: cancel it if nobody needs it",
            f"Batch {batch.id} is in_progress: 0 succeeded, 0 failed, {batch.request_counts.total} in all.",
            "The requests, endpoint, completion_window or extra_body of the task have changed since then.",
            f"To cancel it: PortkeyHook('portkey_default').cancel_batch('{batch.id}')",
        ]

    def test_with_fail_a_batch_in_flight_fails_the_task(self, store: Any) -> None:
        batch = recorded_batch(attempt(1, store))
        with pytest.raises(PortkeyAttemptUnknownError) as caught:
            attempt(2, store, OTHER_REQUEST).recover("fail")
        first_line, *details = str(caught.value).split("\n")
        assert first_line == "A previous attempt's batch was for other requests: cancel it if nobody needs it"
        assert details[0].startswith(f"Batch {batch.id} is in_progress")
        assert details[-1] == "Nothing was created, since on_unknown is 'fail'."

    @pytest.mark.parametrize("status", ["completed", "failed", "expired", "cancelled"])
    def test_with_fail_a_batch_that_ended_is_a_warning_alone(
        self, status: str, store: Any, standin: StandIn, warnings: Any
    ) -> None:
        batch = recorded_batch(attempt(1, store))
        standin.script(batch.id, status)
        assert attempt(2, store, OTHER_REQUEST).recover("fail") is None
        [warning] = warnings()
        assert warning.startswith(
            f"A previous attempt's batch was for other requests: it is not used\nBatch {batch.id} is {status}"
        )

    def test_a_recorded_batch_is_reported_where_the_provider_drops_metadata(
        self, standin: StandIn, warnings: Any
    ) -> None:
        standin.drops_metadata = True
        store = Store()
        batch = recorded_batch(attempt(1, store))
        with pytest.raises(PortkeyAttemptUnknownError, match="was for other requests"):
            attempt(2, Store(store), OTHER_REQUEST).recover("fail")
        assert attempt(2, store, OTHER_REQUEST).recover("create") is None
        [warning] = warnings()
        assert batch.id in warning

    def test_each_of_several_batches_is_reported(self, store: Any, warnings: Any) -> None:
        batches = [recorded_batch(attempt(n, store, [f"file-{n}", {}])) for n in (1, 2)]
        assert attempt(3, store, OTHER_REQUEST).recover("create") is None
        assert sorted(batch.id for batch in batches for text in warnings() if batch.id in text) == (
            [batch.id for batch in batches]
        )

    def test_the_batch_of_another_task_instance_is_not_reported(self, store: Any, warnings: Any) -> None:
        recorded_batch(attempt(1, store, run_id="r2"))
        create_another_batch()
        assert attempt(2, store).recover("fail") is None
        assert warnings() == []

    def test_a_batch_for_these_requests_is_reused_though_another_is_in_flight(self, store: Any, warnings: Any) -> None:
        mine = recorded_batch(attempt(1, store))
        recorded_batch(attempt(2, store, OTHER_REQUEST))
        assert attempt(3, store).recover("fail") == mine
        assert warnings() == []


class TestKey:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ({"region_id": "loop", "region_index": 0}, {"region_id": "loop", "region_index": 1}),
            ({"region_id": "loop", "region_index": 0}, {"region_id": "inner", "region_index": 0}),
            ({"region_id": 1, "region_index": 0}, {"region_id": 2, "region_index": 0}),
            ({"region_id": "loop", "region_index": 0}, {}),
            ({"region_id": UUID(int=1), "region_index": 0}, {"region_id": UUID(int=1), "region_index": 1}),
            ({"region_id": UUID(int=1), "region_index": 0}, {"region_id": UUID(int=0), "region_index": 0}),
        ],
        ids=["iterations", "loops", "loops with numbers", "in and outside a loop", "of Airflow 3.4", "outside in 3.4"],
    )
    def test_iterations_of_a_loop_have_keys_of_their_own(self, one: Any, other: Any) -> None:
        assert attempt(1, **one).key != attempt(1, **other).key

    def test_a_task_instance_outside_a_loop_has_the_key_of_an_airflow_without_loops(self) -> None:
        assert attempt(1, region_id=None, region_index=None).key == attempt(1).key
        assert attempt(1, region_id=UUID(int=0), region_index=0).key == attempt(1).key

    def test_the_key_of_a_fixed_request_stays_the_same_over_versions(self) -> None:
        """Otherwise no attempt after an upgrade would find the batch of one before it."""
        assert attempt(1).key == "bb0e41201184e37d38dcac4eae86d6c67aeb54d7ee403d3e42dd88d0d38fe803"
        assert (
            attempt(1, region_id="loop", region_index=2).key
            == "c7df3d65dd9ca469ae77b38159ab12637aeb54d7ee403d3e42dd88d0d38fe803"
        )

    def test_the_key_does_not_depend_on_the_order_of_members(self) -> None:
        one = ["file-1", {"endpoint": "/v1/x", "extra_body": {"a": 1, "b": [1, 2]}}]
        assert attempt(1, request=one).key == attempt(2, request=["file-1", dict(reversed(one[1].items()))]).key  # type: ignore[attr-defined]


class TestStoredBatchThatIsNotReusable:
    def test_the_list_is_searched_for_another_one(self, standin: StandIn) -> None:
        store = Store()
        failed = recorded_batch(attempt(1, store))
        standin.script(failed.id, "failed")
        second = create_batch(attempt(2, store))  # which the store does not name
        assert attempt(3, store).recover("fail") == second

    def test_without_metadata_it_proves_that_there_is_no_other(self, standin: StandIn) -> None:
        standin.drops_metadata = True
        store = Store()
        first = attempt(1, store)
        first.record_intent(None)
        failed = create_batch(first)
        first.record_created(failed)
        standin.script(failed.id, {"status": "failed", "metadata": None})
        create_another_batch()
        assert attempt(2, store).recover("fail") is None


class TestEmptyStore:
    """The store was cleared, or its records have expired."""

    def test_after_a_first_attempt_it_proves_nothing(self, standin: StandIn) -> None:
        standin.drops_metadata = True
        recorded_batch(attempt(1, Store()))
        with pytest.raises(PortkeyAttemptUnknownError, match="Cannot determine whether a previous attempt"):
            attempt(2, Store()).recover("fail")
        assert attempt(2, Store()).recover("create") is None

    def test_the_record_of_the_attempt_before_proves_that_nothing_was_created(self, standin: StandIn) -> None:
        standin.drops_metadata = True
        create_another_batch()
        store = Store()
        attempt(1, store).recover("fail")
        assert attempt(2, store).recover("fail") is None

    def test_the_record_of_an_earlier_attempt_proves_nothing(self, standin: StandIn) -> None:
        standin.drops_metadata = True
        create_another_batch()
        store = Store()
        attempt(1, store).recover("fail")
        with pytest.raises(PortkeyAttemptUnknownError):
            attempt(3, store).recover("fail")


class TestExpiredAnswers:
    """A batch that completed long ago: its provider has deleted its files."""

    @pytest.fixture
    def completed(self, standin: StandIn, store: Any) -> Batch:
        batch = recorded_batch(attempt(1, store))
        standin.script(batch.id, "completed")
        return batch

    @pytest.mark.parametrize(
        "answer",
        [
            provider_error(404, "No such File object"),
            Answer(404, {"error": {"message": "File not found", "type": "invalid_request_error"}}),
            Answer(body={"id": "x", "status": "deleted"}),
        ],
        ids=["HTTP 404", "HTTP 404 that names no provider", "deleted"],
    )
    def test_another_batch_is_created_and_a_line_says_why(
        self, answer: Answer, completed: Batch, store: Any, standin: StandIn, warnings: Any
    ) -> None:
        output = f"file-{completed.id}-output"
        standin.fail("GET", f"/v1/files/{output}", *[answer] * 9)
        assert attempt(2, store).recover("fail") is None
        assert warnings()[0].startswith(
            f"Not reusing the batch of a previous attempt, since its file {output} has expired: "
            f"Batch {completed.id} is completed"
        )
        assert not [seen for seen in standin.requests if seen.raw_path.endswith("/content")]

    @pytest.mark.parametrize(
        "answer",
        [
            None,
            Answer(503),
            html_page(404, "404 page not found"),
            provider_error(400, "This provider does not support this"),
            Answer(body={"id": "x"}),
            Answer(body={"id": "x", "status": "uploaded"}),
        ],
        ids=["it is there", "outage", "a page in front of the gateway", "no such call", "no status", "uploaded"],
    )
    def test_a_batch_whose_answers_may_be_there_is_reused(
        self, answer: Answer | None, completed: Batch, store: Any, standin: StandIn
    ) -> None:
        if answer:
            standin.fail("GET", f"/v1/files/file-{completed.id}-output", *[answer] * 9)
        found = attempt(2, store).recover("fail")
        assert (found and found.id) == completed.id

    @pytest.mark.parametrize(
        "fields",
        [
            {"status": "completed", "output_file_id": "s3://bucket/out.jsonl", "error_file_id": None},
            {"status": "completed", "output_file_id": "gs://bucket/out/", "error_file_id": None},
            {"status": "completed", "output_file_id": None, "error_file_id": None},
            {"status": "in_progress", "output_file_id": "file-from-the-start"},
        ],
        ids=["in S3", "in Cloud Storage", "without a file", "in flight"],
    )
    def test_a_file_that_does_not_expire_or_does_not_exist_yet_is_not_retrieved(
        self, fields: dict[str, Any], store: Any, standin: StandIn
    ) -> None:
        batch = recorded_batch(attempt(1, store))
        standin.script(batch.id, {"request_counts": {"total": 1, "completed": 1, "failed": 0}} | fields)
        found = attempt(2, store).recover("fail")
        assert (found and found.id) == batch.id
        assert not [seen for seen in standin.requests if seen.raw_path.startswith("/v1/files/")]

    def test_a_batch_with_an_error_file_alone_counts_by_that(self, store: Any, standin: StandIn) -> None:
        batch = recorded_batch(attempt(1, store))
        counts = {"total": 3, "completed": 0, "failed": 0}
        fields = {"status": "completed", "output_file_id": None, "error_file_id": "file-e", "request_counts": counts}
        standin.script(batch.id, fields)
        del standin.files["file-e"]
        assert attempt(2, store).recover("fail") is None


#: What names the file of each batch, if all uploads have one name.
FIXED_NAME = "s3://bucket/requests.jsonl"


class TestInputFile:
    """A provider without metadata, after a creation whose outcome is unknown."""

    @pytest.fixture
    def second(self) -> Any:
        def second(file_id: str, began_at: float | None = None) -> Any:
            store = Store()
            first = attempt(1, store)
            first.recover("fail")
            first.record_intent(file_id)
            if began_at is not None:
                store["portkey_batch"]["began_at"] = began_at
            return attempt(2, store)

        return second

    def listed(self, standin: StandIn, file_id: str, age: float, status: str = "completed", **fields: Any) -> None:
        """Let the list have one batch of a file, created ``age`` seconds ago."""
        created_at = int(time.time() - age)
        show_list(
            standin, batch_body("batch_1", status, input_file_id=file_id, created_at=created_at, metadata=None) | fields
        )
        standin.files["file-batch_1-output"] = b""

    @pytest.mark.parametrize("status", ["completed", "in_progress"])
    def test_a_batch_of_its_file_created_since_then_is_found(self, status: str, second: Any, standin: StandIn) -> None:
        self.listed(standin, "file-7", 1, status)
        found = second("file-7", time.time() - 30).recover("fail")
        assert (found and found.id) == "batch_1"

    @pytest.mark.parametrize(
        ("file_id", "age", "fields"),
        [
            (FIXED_NAME, 1, {}),
            ("gs%3A%2F%2Fbucket%2Frequests.jsonl", 1, {}),
            ("file-7", 100, {}),
            ("file-7", 1, {"created_at": None}),
        ],
        ids=["a fixed name", "a fixed name, encoded", "created before", "created at an unknown time"],
    )
    def test_a_batch_that_may_be_another_run_s_is_not_adopted_and_leaves_the_search_inconclusive(
        self, file_id: str, age: float, fields: dict[str, Any], second: Any, standin: StandIn
    ) -> None:
        self.listed(standin, file_id, age, **fields)
        began_at = time.time() - 30
        with pytest.raises(PortkeyAttemptUnknownError):
            second(file_id, began_at).recover("fail")
        assert second(file_id, began_at).recover("create") is None

    def test_a_batch_of_its_file_with_another_key_is_not_adopted(self, second: Any, standin: StandIn) -> None:
        self.listed(standin, "file-7", 1, metadata={METADATA_KEY: "0" * 64})
        assert second("file-7", time.time() - 30).recover("fail") is None

    @pytest.mark.parametrize("file_id", ["file-7", FIXED_NAME])
    def test_a_batch_of_hours_before_is_another_run_s(self, file_id: str, second: Any, standin: StandIn) -> None:
        self.listed(standin, file_id, 7_200)
        assert second(file_id).recover("fail") is None


class TestHiccupOfTheStore:
    @pytest.mark.parametrize("hiccup", [UnreadableStore, UnwritableStore, BrokenStore])
    @pytest.mark.parametrize("drops_metadata", [False, True], ids=["with metadata", "without metadata"])
    def test_the_third_attempt_does_not_pay_for_what_the_second_created(
        self, hiccup: Any, drops_metadata: bool, standin: StandIn
    ) -> None:
        store = Store()
        first = attempt(1, store)
        first.recover("fail")
        failed = recorded_batch(first)
        standin.drops_metadata = drops_metadata
        standin.script(failed.id, {"status": "failed"} | ({"metadata": None} if drops_metadata else {}))

        broken = hiccup(store)
        second = attempt(2, broken)
        assert second.recover("create") is None
        batch = recorded_batch(second)
        store.update(broken if hiccup is UnreadableStore else {})

        third = attempt(3, store)
        if drops_metadata and hiccup is not UnreadableStore:
            with pytest.raises(PortkeyAttemptUnknownError):
                third.recover("fail")
        else:
            found = third.recover("fail")
            assert (found and found.id) == batch.id

    def test_with_fail_nothing_is_created_while_the_store_says_that_nothing_was(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = Store()
        first = attempt(1, store)
        first.recover("fail")
        monkeypatch.setattr(store, "set", UnwritableStore().set)
        with pytest.raises(PortkeyError, match="state store cannot be written: retry when Airflow") as caught:
            first.record_intent(upload_file())
        assert not isinstance(caught.value, AirflowFailException)

    @pytest.mark.parametrize("on_unknown", ["create", "fail"])
    def test_a_batch_is_created_though_the_store_is_down_from_the_start(self, on_unknown: Any) -> None:
        first = attempt(1, BrokenStore())
        first.recover(on_unknown)
        assert recorded_batch(first).status == "in_progress"

    def test_with_create_a_batch_is_created_all_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        store = Store()
        first = attempt(1, store)
        first.recover("create")
        monkeypatch.setattr(store, "set", UnwritableStore().set)
        assert recorded_batch(first).status == "in_progress"

    def test_a_read_that_fails_is_reported_by_its_type_alone(self, warnings: Any) -> None:
        create_another_batch()
        assert attempt(2, BrokenStore()).recover("fail") is None
        assert warnings() == [
            "Cannot read the task's state store: RuntimeError",
            "Cannot write the task's state store: RuntimeError",
        ]


class TestPageOfAProxy:
    """What stands in front of the gateway knows nothing of its batches, and is no evidence."""

    @pytest.mark.parametrize("status", [403, 404])
    def test_in_place_of_the_list_it_is_transient(self, status: int, standin: StandIn) -> None:
        batch = create_batch(attempt(1))
        standin.fail("GET", "/v1/batches", html_page(status, "no route"))
        with pytest.raises(PortkeyTransientError):
            attempt(2).recover("create")
        assert attempt(3).recover("create") == batch

    @pytest.mark.parametrize("status", [403, 404])
    def test_in_place_of_the_recorded_batch_it_is_transient(self, status: int, standin: StandIn) -> None:
        store = Store()
        first = attempt(1, store)
        first.recover("fail")
        batch = recorded_batch(first)
        standin.script(batch.id, html_page(status, "no route"), "in_progress")
        with pytest.raises(PortkeyTransientError):
            attempt(2, store).recover("create")
        found = attempt(3, store).recover("create")
        assert (found and found.id) == batch.id


class TestBatchThatIsGone:
    """The store names a batch that answers 404 by now."""

    @pytest.mark.parametrize("others", ["none", "with metadata", "without metadata"])
    @pytest.mark.parametrize("status", [404, 400])
    def test_with_fail_no_further_batch_is_created(self, status: int, others: str, standin: StandIn) -> None:
        store = Store()
        first = attempt(1, store)
        first.recover("fail")
        first.record_intent(upload_file())
        first.record_created(Batch.from_dict({"id": "batch_gone", "status": "validating"}))
        standin.drops_metadata = others == "without metadata"
        if others != "none":
            create_another_batch()
        standin.fail("GET", "/v1/batches/batch_gone", *[provider_error(status, "No batch found")] * 9)
        with pytest.raises(PortkeyAttemptUnknownError):
            attempt(2, store).recover("fail")
        assert attempt(2, store).recover("create") is None

    def test_the_batch_is_reused_if_the_list_has_one_of_its_key(self, standin: StandIn) -> None:
        store = Store()
        first = attempt(1, store)
        first.recover("fail")
        first.record_intent(None)
        first.record_created(Batch.from_dict({"id": "batch_gone", "status": "validating"}))
        batch = create_batch(first)
        assert attempt(2, store).recover("fail") == batch
