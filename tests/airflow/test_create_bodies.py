"""What the create operator sends besides a file of requests: inline requests, a provider's own input, an expiry."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_portkey import attempts, batch_input, creation
from airflow_provider_portkey.attempts import METADATA_KEY
from airflow_provider_portkey.exceptions import (
    PortkeyAttemptUnknownError,
    PortkeyInputError,
    PortkeyOutcomeUnknownError,
)
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.operators.batch import PortkeyCreateBatchOperator
from tests.calls.attempt import Store
from tests.providers.shim import HOST, Received, Reply, Route, Shim
from tests.support.airflow_run import run_task
from tests.support.clock import FakeTime
from tests.support.connections import set_connection

REQUESTS = [{"custom_id": f"r{n}", "body": {"model": "m", "n": n}} for n in range(3)]
BODY = {"requests": [{"custom_id": f"r{n}", "params": {"model": "m", "n": n}} for n in range(3)]}
BLOB = {"input_blob": "https://a.blob.example/in.jsonl", "output_folder": {"url": "https://a.blob.example/out"}}
#: A batch as Anthropic's list has it: without metadata and input file.
ANTHROPIC = {"id": "msgbatch_1", "status": "in_progress"}


class Portkey(Shim):
    """Accepts each upload and each batch, and keeps what it received."""

    def __init__(self) -> None:
        super().__init__()
        self.creation = Reply(body={"id": "batch_1", "status": "validating"})
        self.listed: list[dict[str, Any]] = []

    def routes(self) -> Sequence[Route]:
        return (
            ("POST", "/v1/files", lambda request: Reply(body={"id": "file-1", "status": "processed"})),
            ("POST", "/v1/batches", lambda request: self.creation),
            ("GET", "/v1/batches", lambda request: Reply(body={"data": self.listed, "has_more": False})),
            ("GET", "/v1/batches/([^/]+)", lambda request, batch_id: Reply(body=ANTHROPIC | {"id": batch_id})),
        )

    @property
    def calls(self) -> list[str]:
        return [f"{request.method} {request.path}" for request in self.received]

    @property
    def created(self) -> list[Received]:
        """The calls that create a batch."""
        return [request for request in self.received if (request.method, request.path) == ("POST", "/v1/batches")]


@pytest.fixture
def portkey(monkeypatch: pytest.MonkeyPatch) -> Iterator[Portkey]:
    with Portkey() as portkey:
        set_connection(monkeypatch, host=f"http://{HOST}:{portkey.port}", password="pk-0123", extra={"provider": "@p"})
        yield portkey


def create(try_number: int = 1, store: Any = None, **kwargs: Any) -> dict[str, Any]:
    ids = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}
    ti = SimpleNamespace(**ids, try_number=try_number, max_tries=1, xcom_push=lambda key, value: None)
    context: Any = {"ti": ti} | ({} if store is None else {"task_state_store": store})
    return PortkeyCreateBatchOperator(task_id="t", **kwargs).execute(context)


def test_the_key_of_fixed_requests_stays_the_same_over_versions(portkey: Portkey) -> None:
    """Otherwise no attempt after an upgrade would find the batch of one before it."""
    create(requests=REQUESTS, extra_body={"model": "m", "b": [1, {"a": None}]})
    [batch] = portkey.created
    assert batch.json()["metadata"] == {
        METADATA_KEY: "bb0e41201184e37d38dcac4eae86d6c62db132a546d7025db6b6cca6b417d505"
    }


class TestInline:
    @pytest.mark.parametrize("source", ["requests", "input_path"])
    def test_the_body_has_the_requests_and_nothing_else(self, source: str, portkey: Portkey, tmp_path: Path) -> None:
        given: Any = REQUESTS
        if source == "input_path":
            given = tmp_path / "requests.jsonl"
            given.write_text("\n\n".join(json.dumps(request) for request in REQUESTS))
        batch = create(inline=True, **{source: given})
        assert batch["id"] == "batch_1"
        assert portkey.calls == ["POST /v1/batches"]
        [request] = portkey.created
        assert request.json() == BODY
        assert request.headers["Content-Type"] == "application/json"

    def test_extra_body_adds_members(self, portkey: Portkey) -> None:
        create(inline=True, requests=REQUESTS, extra_body={"portkey_options": {"a": "é"}})
        assert portkey.created[0].json() == BODY | {"portkey_options": {"a": "é"}}

    def test_extra_body_may_not_have_requests(self, portkey: Portkey) -> None:
        with pytest.raises(PortkeyInputError) as caught:
            create(inline=True, requests=REQUESTS, extra_body={"requests": []})
        assert str(caught.value) == "extra_body must not have 'requests' with inline=True\nNothing was sent."
        assert portkey.received == []

    def test_requests_are_checked_before_anything_is_sent(self, portkey: Portkey) -> None:
        with pytest.raises(PortkeyInputError, match="line 2: custom_id 'r0' is a duplicate of line 1"):
            create(inline=True, requests=[REQUESTS[0], REQUESTS[0]])
        assert portkey.received == []

    def test_more_than_100_000_requests_are_too_many(self, portkey: Portkey) -> None:
        requests = [{"custom_id": str(n), "body": {}} for n in range(100_001)]
        with pytest.raises(PortkeyInputError, match="more than 100,000 requests: use several batches"):
            create(inline=True, requests=requests)
        assert portkey.received == []

    def test_more_than_256_megabytes_are_too_many(self, portkey: Portkey, tmp_path: Path) -> None:
        path = tmp_path / "requests.jsonl"
        with path.open("wb") as file:
            file.truncate(256_000_001)
        with pytest.raises(PortkeyInputError, match="more than 256,000,000 bytes, reached at line 1"):
            create(inline=True, input_path=path)
        assert portkey.received == []

    def test_the_limits_of_a_file_do_not_apply(self, portkey: Portkey, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(batch_input, "MAX_REQUESTS", 2)
        monkeypatch.setattr(batch_input, "MAX_BYTES", 10)
        create(inline=True, requests=REQUESTS)
        assert len(portkey.created) == 1

    @pytest.mark.parametrize(("name", "limit"), [("max_requests", 2), ("max_bytes", 60)])
    def test_the_limits_of_the_task_apply(self, name: str, limit: int, portkey: Portkey) -> None:
        with pytest.raises(PortkeyInputError, match=f"more than {limit}"):
            create(inline=True, requests=REQUESTS, **{name: limit})
        assert portkey.received == []

    @pytest.mark.parametrize(
        "kwargs",
        [
            {"requests": REQUESTS, "metadata": {"a": "b"}},
            {"requests": REQUESTS, "metadata": {}},
            {"input_file_id": "file-1"},
            {"extra_body": BLOB},
        ],
        ids=["metadata", "empty metadata", "input_file_id", "no requests"],
    )
    def test_what_is_not_sent_raises_when_the_dag_is_parsed(self, kwargs: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="inline=True needs requests or input_path, and sends no metadata"):
            PortkeyCreateBatchOperator(task_id="t", inline=True, **kwargs)

    @pytest.mark.parametrize("durable", [True, False])
    def test_nothing_marks_the_batch_of_an_attempt(self, durable: bool, portkey: Portkey) -> None:
        create(inline=True, requests=REQUESTS, durable=durable)
        assert portkey.created[0].json() == BODY

    def test_the_next_attempt_re_attaches_to_a_recorded_batch(self, portkey: Portkey) -> None:
        store = Store()
        first = create(inline=True, requests=REQUESTS, store=store)
        portkey.listed = [ANTHROPIC]
        assert create(2, store, inline=True, requests=REQUESTS, on_unknown="fail")["id"] == first["id"]
        assert len(portkey.created) == 1

    @pytest.mark.parametrize("store", [Store(), None], ids=["with the store of Airflow 3.3", "without a store"])
    def test_the_next_attempt_after_an_unknown_outcome_asks_on_unknown(
        self, store: Any, portkey: Portkey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (attempts, creation):
            monkeypatch.setattr(module, "time", FakeTime())
        portkey.creation, accepted = Reply(502), portkey.creation
        with pytest.raises(PortkeyOutcomeUnknownError):
            create(inline=True, requests=REQUESTS, store=store)
        portkey.creation, portkey.listed = accepted, [ANTHROPIC]
        with pytest.raises(PortkeyAttemptUnknownError):
            create(2, store, inline=True, requests=REQUESTS, on_unknown="fail")
        assert len(portkey.created) == 1
        create(2, store, inline=True, requests=REQUESTS)
        assert len(portkey.created) == 2


class TestOwnInput:
    """A batch whose input is the provider's own, as Azure's blobs are, needs no file."""

    def test_the_batch_is_created_without_an_upload(self, portkey: Portkey) -> None:
        create(extra_body=BLOB, endpoint="/v1/embeddings", metadata={"owner": "us"})
        assert portkey.calls == ["POST /v1/batches"]
        body = portkey.created[0].json()
        assert body.pop("metadata").keys() == {"owner", METADATA_KEY}
        assert body == BLOB | {"endpoint": "/v1/embeddings", "completion_window": "24h"}

    @pytest.mark.usefixtures("airflow_db")
    def test_a_template_may_turn_out_to_have_it(self, portkey: Portkey) -> None:
        extra_body = {"input_blob": "{{ dag_run.conf['blob'] }}"}
        run = run_task("PortkeyCreateBatchOperator", {"blob": BLOB["input_blob"]}, extra_body=extra_body)
        assert run.states == {"wait": "success"}
        assert portkey.created[0].json()["input_blob"] == BLOB["input_blob"]

    def test_another_blob_is_another_batch(self, portkey: Portkey) -> None:
        for name in ("a", "b"):
            create(extra_body={"input_blob": name})
        keys = [request.json()["metadata"][METADATA_KEY] for request in portkey.created]
        assert len(set(keys)) == 2

    @pytest.mark.parametrize(
        ("source", "inline"),
        [(source, inline) for source in ("requests", "input_path") for inline in (False, True)]
        + [("input_file_id", False)],
    )
    def test_another_input_beside_it_is_rejected(
        self, source: str, inline: bool, portkey: Portkey, tmp_path: Path
    ) -> None:
        path = tmp_path / "requests.jsonl"
        path.write_text("".join(json.dumps(request) + "\n" for request in REQUESTS))
        given: dict[str, Any] = {"requests": REQUESTS, "input_path": str(path), "input_file_id": "file-1"}
        with pytest.raises(PortkeyInputError, match="extra_body has 'input_blob': pass no requests, input_path or"):
            create(extra_body=BLOB, inline=inline, **{source: given[source]})
        assert portkey.received == []

    def test_neither_it_nor_requests_raises_when_the_dag_is_parsed(self) -> None:
        with pytest.raises(ValueError, match="one of requests, input_path and input_file_id"):
            PortkeyCreateBatchOperator(task_id="t", extra_body={"model": "m"})

    def test_a_template_without_it_is_rejected_before_anything_is_sent(self, portkey: Portkey) -> None:
        task = PortkeyCreateBatchOperator(task_id="t", extra_body="{{ rendered }}")  # type: ignore[arg-type]
        task.extra_body = {"model": "m"}
        context: Any = {"ti": SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1)}
        with pytest.raises(PortkeyInputError, match="requests, input_path and input_file_id are None"):
            task.execute(context)
        assert portkey.received == []


class TestExpiry:
    @pytest.mark.parametrize(
        ("given", "seconds"), [(timedelta(days=2), b"172800"), (3_600, b"3600"), (7_200.4, b"7200")], ids=str
    )
    def test_the_upload_has_the_fields_that_openai_documents(
        self, given: Any, seconds: bytes, portkey: Portkey, tmp_path: Path
    ) -> None:
        create(requests=REQUESTS, input_expires_after=given)
        path = tmp_path / "requests.jsonl"
        path.write_text("{}\n")
        PortkeyHook().upload_file(path, expires_after=given)
        for form in self.forms(portkey):
            content = form.pop("file")
            assert content
            assert form == {
                "purpose": b"batch",
                "expires_after[anchor]": b"created_at",
                "expires_after[seconds]": seconds,
            }

    def test_without_it_the_provider_decides(self, portkey: Portkey) -> None:
        create(requests=REQUESTS)
        [form] = self.forms(portkey)
        assert form.keys() == {"purpose", "file"}

    @pytest.mark.parametrize("given", [-1, float("nan"), "1h"], ids=str)
    def test_an_invalid_one_raises_when_the_dag_is_parsed(self, given: Any) -> None:
        with pytest.raises(ValueError, match="input_expires_after"):
            PortkeyCreateBatchOperator(task_id="t", requests=REQUESTS, input_expires_after=given)

    def forms(self, portkey: Portkey) -> list[dict[str, bytes]]:
        forms = [request.form() for request in portkey.received if request.path == "/v1/files"]
        assert forms
        return forms
