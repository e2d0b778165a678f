"""No attempt pays for what an earlier one has created: each state that one may leave, met by the next."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_portkey.attempts import MAX_LISTED, METADATA_KEY, Attempts
from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.exceptions import PortkeyAttemptUnknownError, PortkeyTransientError
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.verdict import Outcome, Policy, judge
from tests.server.standin import Answer, StandIn

pytestmark = pytest.mark.usefixtures("connection")

ASKED = ["file-1", {"endpoint": "/v1/embeddings"}]


class Store(dict[str, Any]):
    """A task's state store as Airflow 3.3 has it, as far as it matters here."""

    def set(self, key: str, value: Any) -> None:
        assert value is not None
        self[key] = value


class BrokenStore:
    def get(self, key: str) -> Any:
        raise RuntimeError("the backend is down")

    set = get


def attempts(number: int, store: Any = None, asked: Any = ASKED, **who: Any) -> Attempts:
    ti = SimpleNamespace(**{"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, "try_number": number} | who)
    context: Any = {"ti": ti} if store is None else {"ti": ti, "task_state_store": store}
    return Attempts(context, asked, hook=PortkeyHook(), is_of_use=is_of_use, log=logging.getLogger("task"))


def is_of_use(batch: Batch) -> bool:
    return judge(batch, Policy()).outcome in (Outcome.WAIT, Outcome.SUCCEED)


def create(made_by: Attempts | None, **fields: Any) -> Batch:
    hook = PortkeyHook()
    file_id = fields.pop("file_id", None) or upload(hook)
    metadata = {METADATA_KEY: made_by.key} if made_by else {"whose": "another's"}
    return hook.create_batch(file_id, "/v1/embeddings", metadata=metadata)


def upload(hook: PortkeyHook) -> str:
    return hook.upload_file(__file__)


@pytest.fixture(autouse=True)
def slow_batches(standin: StandIn) -> None:
    standin.course = [(0, "in_progress")]


@pytest.fixture(params=["Airflow 3.3", "before"])
def store(request: pytest.FixtureRequest) -> Any:
    return Store() if request.param == "Airflow 3.3" else None


def test_the_first_attempt_asks_nobody(store: Any, standin: StandIn) -> None:
    assert attempts(1, store).find("fail") is None
    assert standin.requests == []


def test_the_next_goes_on_with_what_is_there(store: Any, standin: StandIn) -> None:
    first = attempts(1, store)
    first.begin(None)
    batch = create(first)
    first.created(batch)
    create(None)
    assert attempts(2, store).find("fail") == batch
    # Cleared after it has ended well.
    standin.script(batch.id, "completed")
    found = attempts(3, store).find("fail")
    assert found is not None
    assert (found.id, found.status) == (batch.id, "completed")


def test_the_next_finds_what_its_creator_could_not_take_note_of(store: Any) -> None:
    first = attempts(1, store)
    first.begin(None)
    batch = create(first)
    for _ in range(120):
        create(None, file_id=batch.input_file_id)
    assert attempts(2, store).find("fail") == batch


def test_what_never_came_to_be_is_not_found(store: Any) -> None:
    create(None)
    # One without metadata, where others show theirs.
    PortkeyHook().create_batch(upload(PortkeyHook()), "/v1/embeddings")
    attempts(1, store).begin(None)
    assert attempts(2, store).find("fail") is None


@pytest.mark.parametrize("end", ["failed", "expired", "cancelled"])
@pytest.mark.parametrize("is_noted", [True, False], ids=["noted", "not noted"])
def test_a_batch_that_ended_badly_is_left(end: str, is_noted: bool, store: Any, standin: StandIn) -> None:
    first = attempts(1, store)
    first.begin(None)
    batch = create(first)
    if is_noted:
        first.created(batch)
    standin.script(batch.id, end)
    assert attempts(2, store).find("fail") is None
    again = create(attempts(2, store))
    attempts(2, store).begin(None)
    assert attempts(3, store).find("fail") == again


@pytest.mark.parametrize(
    "other",
    [
        {"run_id": "r2"},
        {"map_index": 1},
        {"task_id": "t2"},
        {"dag_id": "d2"},
        {"asked": ["file-2", {"endpoint": "/v1/embeddings"}]},
    ],
    ids=str,
)
def test_another_task_or_another_question_has_a_batch_of_its_own(other: Any, store: Any) -> None:
    first = attempts(1, store)
    first.begin(None)
    first.created(create(first))
    assert attempts(2, store, **other).find("fail") is None


class TestAProviderThatDropsMetadata:
    @pytest.fixture(autouse=True)
    def dropped(self, standin: StandIn) -> None:
        standin.drops_metadata = True

    def test_a_noted_batch_is_found(self) -> None:
        store = Store()
        first = attempts(1, store)
        first.begin(None)
        batch = create(first)
        first.created(batch)
        assert attempts(2, store).find("fail") == batch

    def test_a_batch_of_a_file_that_the_attempt_uploaded_is_found(self) -> None:
        store = Store()
        first = attempts(1, store)
        file_id = upload(PortkeyHook())
        first.begin(file_id)
        batch = create(first, file_id=file_id)
        create(None)
        assert attempts(2, store).find("fail") == batch

    def test_a_file_without_a_batch_has_none(self) -> None:
        store = Store()
        attempts(1, store).begin(upload(PortkeyHook()))
        create(None)
        assert attempts(2, store).find("fail") is None

    def test_else_nothing_tells(self, store: Any, caplog: pytest.LogCaptureFixture) -> None:
        attempts(1, store).begin(None)
        create(attempts(1, store))
        with pytest.raises(PortkeyAttemptUnknownError, match="Nothing was created"):
            attempts(2, store).find("fail")
        assert attempts(2, store).find("create") is None
        assert "Creating one, since on_unknown is 'create'" in caplog.text

    def test_another_question_was_not_asked_before(self) -> None:
        store = Store()
        first = attempts(1, store)
        first.begin(None)
        first.created(create(first))
        assert attempts(2, store, asked=["file-2", {}]).find("fail") is None

    def test_an_attempt_that_began_nothing_leaves_nothing(self) -> None:
        create(None)
        assert attempts(2, Store()).find("fail") is None

    def test_a_noted_batch_that_is_gone_is_replaced(self, no_pause: None) -> None:
        store = Store()
        create(None)
        first = attempts(1, store)
        first.begin(None)
        first.created(Batch.from_dict({"id": "batch_gone", "status": "validating"}))
        assert attempts(2, store).find("fail") is None

    def test_an_empty_list_tells(self, store: Any) -> None:
        attempts(1, store).begin(None)
        assert attempts(2, store).find("fail") is None


def test_a_list_that_is_refused_tells_nothing(store: Any, standin: StandIn) -> None:
    attempts(1, store).begin(None)
    refusal = Answer(403, {"status": "failure", "message": "Portkey Error: Forbidden!"})
    standin.fail("GET", "/v1/batches", refusal, refusal)
    with pytest.raises(PortkeyAttemptUnknownError):
        attempts(2, store).find("fail")
    assert attempts(2, store).find("create") is None


def test_a_list_that_fails_may_tell_the_next_attempt(store: Any, standin: StandIn, no_pause: None) -> None:
    first = attempts(1, store)
    first.begin(None)
    batch = create(first)
    standin.fail("GET", "/v1/batches", *[Answer(500)] * 3)
    with pytest.raises(PortkeyTransientError):
        attempts(2, store).find("create")
    assert attempts(3, store).find("fail") == batch


def test_a_list_without_end_tells_nothing(store: Any, standin: StandIn) -> None:
    attempts(1, store).begin(None)
    entries = [{"id": f"batch_{n}", "status": "completed", "metadata": {"a": "b"}} for n in range(100)]
    pages = [Answer(body={"data": entries, "has_more": True, "last_id": f"{n}"}) for n in range(MAX_LISTED // 100 + 1)]
    standin.fail("GET", "/v1/batches", *pages)
    with pytest.raises(PortkeyAttemptUnknownError, match="too many"):
        attempts(2, store).find("fail")
    assert len(standin.requests) == MAX_LISTED // 100


def test_a_store_that_was_down_when_it_began_does_no_harm() -> None:
    first = attempts(1, BrokenStore())
    first.begin(None)
    batch = create(first)
    assert attempts(2, Store()).find("fail") == batch


def test_a_store_that_is_down_does_no_harm() -> None:
    first = attempts(1, BrokenStore())
    assert first.find("fail") is None
    first.begin(None)
    batch = create(first)
    first.created(batch)
    assert attempts(2, BrokenStore()).find("fail") == batch


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_portkey.api.MAX_PAUSE", 0.01)
