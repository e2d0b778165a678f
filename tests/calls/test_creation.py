"""The creation of one batch: it waits for its file, and a call that fails leaves behind what finds the batch again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_portkey import attempts, creation
from airflow_provider_portkey.attempts import METADATA_KEY, Attempts
from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.creation import Source
from airflow_provider_portkey.exceptions import (
    PortkeyApiError,
    PortkeyOutcomeUnknownError,
    PortkeyQuotaError,
    PortkeyRefusedError,
    PortkeyTransientError,
)
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from tests.calls.attempt import ENDPOINT, Store, attempt, create_another_batch, show_list
from tests.server.standin import Answer, StandIn, batch_body
from tests.support.answers import provider_error
from tests.support.clock import FakeTime

pytestmark = pytest.mark.usefixtures("connection")

#: The id of the first upload.
FILE_ID = "file-1001"
#: The file of a user, that was uploaded before.
GIVEN = Source("file-mine", file_id="file-mine")
NO_ROUTE = Answer(404, {"error": {"message": "This provider does not support files"}, "provider": "x"})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    clock = FakeTime()
    for module in (attempts, creation):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def requests(tmp_path: Path) -> Source:
    """Requests that the task uploads."""
    path = tmp_path / "requests.jsonl"
    path.write_text("{}\n")
    return Source("digest", path=path)


def create(source: Source, made_by: Attempts | None = None, *, check_alive: Callable[[], None] = lambda: None) -> Batch:
    metadata = {METADATA_KEY: made_by.key} if made_by else None
    fields = {"endpoint": ENDPOINT, "metadata": metadata}
    return creation.create_batch(
        PortkeyHook(), source, fields, made_by, check_alive=check_alive, log=logging.getLogger("task")
    )


def file_in(status: str | None, **members: Any) -> Answer:
    """What a provider responds about the uploaded file."""
    return Answer(body={"id": FILE_ID, "object": "file", "status": status} | members)


def script_file(standin: StandIn, upload: Answer, *later: Answer) -> None:
    """Set the responses to the upload of a file, and to each GET of it."""
    standin.fail("POST", "/v1/files", upload, after=True)
    standin.fail("GET", f"/v1/files/{FILE_ID}", *later)


def polls(standin: StandIn) -> int:
    return sum(seen.raw_path.startswith("/v1/files/") for seen in standin.requests)


class TestWaitForFile:
    @pytest.mark.parametrize("status", ["pending", "Processing", "validating", "running", "queued"])
    def test_a_file_in_work_is_polled_every_five_seconds_until_it_is_processed(
        self, status: str, requests: Source, standin: StandIn, clock: FakeTime
    ) -> None:
        script_file(standin, file_in(status), *[file_in(status)] * 3, file_in("processed"))
        create(requests)
        assert clock.sleeps == [5.0, 5.0, 5.0]
        assert polls(standin) == 4
        assert [seen.method for seen in standin.requests] == ["POST", *["GET"] * 4, "POST"]
        assert standin.batches[0].body["input_file_id"] == FILE_ID

    def test_a_file_that_stays_pending_is_given_to_the_provider_after_ten_minutes(
        self,
        requests: Source,
        standin: StandIn,
        clock: FakeTime,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        caplog.set_level(logging.INFO)
        monkeypatch.setattr(creation, "FILE_POLL_INTERVAL", 45.0)
        script_file(standin, file_in("pending"), *[file_in("pending")] * 50)
        create(requests)
        assert clock.passed == pytest.approx(600)
        assert len(standin.batches) == 1
        assert caplog.text.count(f"File {FILE_ID} is pending: waiting for it, at most 10 min") == 1

    @pytest.mark.parametrize(
        ("upload", "later"),
        [
            (file_in("uploaded"), file_in("uploaded")),
            (file_in(None), file_in("uploaded")),
            (file_in("uploaded"), Answer(503)),
            (file_in(None), Answer(503)),
        ],
        ids=["uploaded", "uploaded, which the upload did not say", "uploaded, then an outage", "no status, an outage"],
    )
    def test_a_file_that_may_be_ready_is_waited_for_one_minute_at_most(
        self, upload: Answer, later: Answer, requests: Source, standin: StandIn, clock: FakeTime
    ) -> None:
        script_file(standin, upload, *[later] * 50)
        create(requests)
        assert clock.passed == pytest.approx(60)
        assert len(standin.batches) == 1

    @pytest.mark.parametrize(
        ("upload", "later"),
        [(file_in(None), file_in(None)), (file_in(None), NO_ROUTE), (file_in("pending"), NO_ROUTE)],
        ids=["no status", "no such call", "pending, and no such call"],
    )
    def test_a_file_of_a_provider_that_reports_no_status_is_not_waited_for(
        self, upload: Answer, later: Answer, requests: Source, standin: StandIn, clock: FakeTime
    ) -> None:
        script_file(standin, upload, later)
        create(requests)
        assert (clock.sleeps, polls(standin), len(standin.batches)) == ([], 1, 1)

    def test_a_file_that_was_processed_at_once_is_not_polled(
        self, requests: Source, standin: StandIn, clock: FakeTime
    ) -> None:
        create(requests)
        assert (clock.sleeps, polls(standin), len(standin.batches)) == ([], 0, 1)

    def test_an_uploaded_file_that_begins_to_be_validated_is_waited_for_as_one_in_work(
        self, requests: Source, standin: StandIn, clock: FakeTime
    ) -> None:
        validating = [file_in("validating")] * 20
        script_file(standin, file_in("uploaded"), file_in("uploaded"), *validating, file_in("validated"))
        create(requests)
        assert clock.passed == pytest.approx(105)

    def test_a_file_that_a_user_uploaded_is_waited_for_too(self, standin: StandIn, clock: FakeTime) -> None:
        standin.files["file-mine"] = b"{}\n"
        standin.fail("GET", "/v1/files/file-mine", *[Answer(body={"id": "file-mine", "status": "pending"})] * 2)
        create(GIVEN)
        assert clock.sleeps == [5.0, 5.0]
        assert standin.batches[0].body["input_file_id"] == "file-mine"

    @pytest.mark.parametrize("answers", [0, 1, 3], ids=["at once", "at the first poll", "later"])
    @pytest.mark.parametrize("status", ["error", "failed"])
    def test_a_file_that_failed_raises_an_error_with_the_reason_and_nothing_is_created(
        self, status: str, answers: int, requests: Source, standin: StandIn, clock: FakeTime
    ) -> None:
        failed = file_in(status, status_details="Line 7 has no custom_id")
        script_file(standin, *[file_in("pending")] * answers, failed)
        with pytest.raises(PortkeyRefusedError) as caught:
            create(requests)
        assert str(caught.value).split("\n") == [
            "The provider could not process the input file: check its requests",
            f"File {FILE_ID} is {status}: Line 7 has no custom_id.",
            "Nothing was created.",
        ]
        assert standin.batches == []

    @pytest.mark.parametrize("status", ["pending", "uploaded"])
    @pytest.mark.parametrize("source", ["uploaded by the task", "given"])
    def test_a_kill_ends_the_wait_for_a_file(
        self, source: str, status: str, requests: Source, standin: StandIn, clock: FakeTime
    ) -> None:
        kills: list[float] = []
        clock.after(12, lambda: kills.append(clock.passed))

        def check_alive() -> None:
            if kills:
                raise InterruptedError

        script_file(standin, file_in(status), *[file_in(status)] * 20)
        standin.files["file-mine"] = b"{}\n"
        standin.fail("GET", "/v1/files/file-mine", *[Answer(body={"id": "file-mine", "status": status})] * 20)
        with pytest.raises(InterruptedError):
            create(GIVEN if source == "given" else requests, check_alive=check_alive)
        assert clock.passed == pytest.approx(15)
        assert standin.batches == []


def test_a_killed_task_creates_nothing_after_its_upload(requests: Source, standin: StandIn) -> None:
    def check_alive() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        create(requests, check_alive=check_alive)
    assert (len(standin.uploads), standin.batches) == (1, [])


class TestUnknownOutcome:
    @pytest.fixture(autouse=True)
    def batches_in_flight(self, standin: StandIn) -> None:
        standin.course = [(0, "in_progress")]

    @pytest.mark.parametrize("seconds", [3, 40, 118])
    def test_a_batch_that_appears_within_two_minutes_is_found(
        self, seconds: float, requests: Source, standin: StandIn, clock: FakeTime
    ) -> None:
        store = Store()
        first = attempt(1, store)
        first.recover("fail")
        standin.fail("POST", "/v1/batches", Answer(502))
        metadata = {METADATA_KEY: first.key}
        clock.after(seconds, lambda: PortkeyHook().create_batch(FILE_ID, ENDPOINT, metadata=metadata))
        batch = create(requests, first)
        assert [batch.id] == [created.id for created in standin.batches]
        assert clock.passed >= seconds
        # The next attempt finds it in the store.
        standin.requests.clear()
        assert attempt(2, store).recover("fail") == batch
        assert [seen.raw_path for seen in standin.requests] == [f"/v1/batches/{batch.id}"]

    def test_a_batch_that_does_not_appear_is_searched_for_two_minutes_with_growing_pauses(
        self, requests: Source, standin: StandIn, clock: FakeTime
    ) -> None:
        standin.fail("POST", "/v1/batches", Answer(502))
        with pytest.raises(PortkeyOutcomeUnknownError, match="HTTP 502"):
            create(requests, attempt(1))
        assert clock.sleeps == pytest.approx([5, 10, 20, 40, 45])
        assert standin.batches == []

    def test_a_list_that_fails_or_is_rejected_does_not_end_the_search(
        self, requests: Source, standin: StandIn, clock: FakeTime, short_backoff: None
    ) -> None:
        standin.fail("POST", "/v1/batches", Answer(502), after=True)
        standin.fail("GET", "/v1/batches", *[Answer(503)] * 3, Answer(403, {"status": "failure"}))
        batch = create(requests, attempt(1))
        assert [batch.id] == [created.id for created in standin.batches]
        assert clock.sleeps == pytest.approx([5, 10])

    def test_a_list_that_fails_throughout_raises_the_error_of_the_creation(
        self, requests: Source, standin: StandIn, clock: FakeTime, short_backoff: None
    ) -> None:
        standin.fail("POST", "/v1/batches", Answer(502))
        standin.fail("GET", "/v1/batches", *[Answer(503)] * 50)
        with pytest.raises(PortkeyOutcomeUnknownError, match="HTTP 502"):
            create(requests, attempt(1))
        assert clock.passed == pytest.approx(120)

    def test_without_attempts_nothing_is_searched_for(self, requests: Source, standin: StandIn) -> None:
        standin.fail("POST", "/v1/batches", Answer(502), after=True)
        with pytest.raises(PortkeyOutcomeUnknownError):
            create(requests)
        assert not [seen for seen in standin.requests if seen.method == "GET"]

    @pytest.mark.parametrize("appears", [True, False], ids=["it appears", "it does not"])
    def test_the_next_attempt_goes_on_searching_for_a_batch_whose_creation_had_an_unknown_outcome(
        self, appears: bool, standin: StandIn, clock: FakeTime
    ) -> None:
        store = Store()
        first = attempt(1, store)
        first.recover("fail")
        first.record_intent(None)
        first.record_unknown_outcome()
        create_another_batch()  # so that the list shows that metadata is kept, and the search is conclusive
        clock.sleep(30)
        if appears:
            metadata = {METADATA_KEY: first.key}
            clock.after(80, lambda: PortkeyHook().create_batch(standin.uploads[0].file_id, ENDPOINT, metadata=metadata))
        found = attempt(2, store).recover("create")
        assert (found and found.id) == (standin.batches[1].id if appears else None)
        assert clock.passed >= 80 if appears else clock.passed == pytest.approx(120)

    def test_the_unknown_outcome_is_recorded_before_the_search(
        self, requests: Source, standin: StandIn, clock: FakeTime
    ) -> None:
        store = Store()
        first = attempt(1, store)
        first.recover("fail")
        standin.fail("POST", "/v1/batches", Answer(502))

        def kill() -> None:
            raise KeyboardInterrupt

        clock.after(10, kill)
        with pytest.raises(KeyboardInterrupt):
            create(requests, first)
        assert attempt(2, store).recover("create") is None
        assert clock.passed == pytest.approx(120)

    def test_a_batch_that_another_task_made_of_the_same_given_file_is_not_adopted(
        self, standin: StandIn, clock: FakeTime
    ) -> None:
        standin.files["file-mine"] = b"{}\n"
        standin.fail("POST", "/v1/batches", Answer(502))
        created_at = int(clock.time()) + 1
        others = batch_body("batch_2", "completed", input_file_id="file-mine", created_at=created_at)
        show_list(standin, others)
        with pytest.raises(PortkeyOutcomeUnknownError):
            create(GIVEN, attempt(1, Store()))


#: Refusals of a creation that are about its file.
ABOUT_FILE = {
    "names the file": provider_error(400, f"{FILE_ID} is in state pending"),
    "says file": Answer(400, {"error": {"message": "The file is not ready", "code": "fileNotReady"}, "provider": "x"}),
    "says dataset": provider_error(400, "Dataset x must be validated before use"),
    "unknown file": provider_error(404, f"No such File object: {FILE_ID}"),
}
#: Refusals that are not.
OTHER_REFUSALS = {
    "endpoint": provider_error(400, "Invalid value: '/v1/x'"),
    "profile": provider_error(400, "Unknown profile"),
    "credential": provider_error(401, "Your key may not read files"),
}
#: What Azure says when the queue of batches is full: of a code alone, or in words too.
QUOTA = {
    "code": {"code": "token_limit_exceeded", "message": "Try later."},
    "words": {"code": "BadRequest", "message": "Enqueued token limit reached for gpt-4o-mini."},
}


class TestRefusal:
    @pytest.mark.parametrize("refusal", ABOUT_FILE.values(), ids=ABOUT_FILE)
    def test_a_refusal_of_the_file_that_was_just_uploaded_may_be_retried(
        self, refusal: Answer, requests: Source, standin: StandIn, short_backoff: None
    ) -> None:
        error = self.refuse(requests, standin, refusal)
        assert type(error) is PortkeyTransientError
        assert not isinstance(error, AirflowFailException)
        assert error.status_code == refusal.status
        first_line, *details = str(error).split("\n")
        assert first_line == "The provider rejects the file that was just uploaded: usually temporary, retry later"
        assert f"HTTP {refusal.status} from" in "\n".join(details)

    @pytest.mark.parametrize("refusal", ABOUT_FILE.values(), ids=ABOUT_FILE)
    def test_a_refusal_of_a_given_file_fails_at_once(
        self, refusal: Answer, standin: StandIn, short_backoff: None
    ) -> None:
        assert type(self.refuse(GIVEN, standin, refusal)) is PortkeyRefusedError

    @pytest.mark.parametrize("refusal", OTHER_REFUSALS.values(), ids=OTHER_REFUSALS)
    def test_a_refusal_that_is_not_about_the_file_fails_at_once(
        self, refusal: Answer, requests: Source, standin: StandIn
    ) -> None:
        assert type(self.refuse(requests, standin, refusal)) is PortkeyRefusedError

    @pytest.mark.parametrize("source", ["uploaded by the task", "given"])
    @pytest.mark.parametrize("error", QUOTA.values(), ids=QUOTA)
    def test_a_full_queue_of_batches_may_be_retried(
        self, error: dict[str, str], source: str, requests: Source, standin: StandIn
    ) -> None:
        refusal = Answer(400, {"error": error, "provider": "azure-openai"})
        caught = self.refuse(GIVEN if source == "given" else requests, standin, refusal)
        assert type(caught) is PortkeyQuotaError
        assert not isinstance(caught, AirflowFailException)
        assert str(caught).startswith(
            "The provider's queue of batches is full (HTTP 400): retry when others have ended\n"
        )

    @pytest.mark.parametrize(
        "refusal",
        [ABOUT_FILE["says file"], OTHER_REFUSALS["endpoint"], Answer(400, {"error": QUOTA["code"]})],
        ids=["file", "endpoint", "quota"],
    )
    def test_after_a_refusal_the_store_proves_that_nothing_was_created(
        self, refusal: Answer, standin: StandIn, clock: FakeTime
    ) -> None:
        store = Store()
        first = attempt(1, store)
        first.recover("fail")
        self.refuse(GIVEN, standin, refusal, first)
        standin.drops_metadata = True
        create_another_batch()
        assert attempt(2, store).recover("fail") is None

    def refuse(
        self, source: Source, standin: StandIn, refusal: Answer, made_by: Attempts | None = None
    ) -> PortkeyApiError:
        """Let the creation be refused, and return the error."""
        standin.files["file-mine"] = b"{}\n"
        standin.fail("POST", "/v1/batches", *[refusal] * (3 if refusal.status == 404 else 1))
        with pytest.raises(PortkeyApiError) as caught:
            create(source, made_by)
        assert standin.batches == []
        return caught.value
