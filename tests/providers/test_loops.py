"""
The whole loop of each provider: requests in, answers out.

All but those of :mod:`tests.providers.scripted` are reached through Portkey's real gateway.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_portkey import exceptions
from airflow_provider_portkey.batch import Batch, BatchStatus
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from tests.providers.azure import Azure
from tests.providers.collect import Client, contents, error_codes
from tests.providers.conftest import Clouds
from tests.providers.job import Ending
from tests.providers.prompts import LONG, prompts
from tests.providers.provider import Provider
from tests.providers.scripted import jsonl
from tests.providers.tasks import create, download
from tests.support.airflow_run import Run, run_task

pytestmark = pytest.mark.usefixtures("airflow_db")

PROMPTS = prompts()
#: In the middle, so that neither is the first or last of a chunk; a failed one in Chinese.
FAILED, LOST = "request-104", "request-107"
#: The providers that keep what an expired batch has; Cohere has no such status.
EXPIRING = [
    "openai",
    "azure-openai",
    "bedrock",
    "vertex-ai",
    "portkey",
]


def run_batch(provider: Provider, **kwargs: Any) -> Run:
    """Create the batch of all requests in a DAG, and wait for its end."""
    fixed: dict[str, Any] = {"wait_for_completion": True, "poke_interval": 0.1, "timeout": 60}
    task = {"requests": provider.requests(PROMPTS)} | fixed | provider.parameters | kwargs
    return run_task("PortkeyCreateBatchOperator", **task)


@pytest.mark.parametrize("deferrable", [False, True], ids=["poke", "deferred"])
def test_each_request_has_its_answer(provider: Provider, deferrable: bool, tmp_path: Path) -> None:
    run = run_batch(provider, deferrable=deferrable)

    assert run.states == {"wait": "success"}
    batch = run.xcoms["wait"]["return_value"]
    assert batch["status"] == "completed"
    manifest, answers = download(batch, tmp_path)
    assert contents(answers) == provider.expected(PROMPTS)
    assert len(answers) == len(PROMPTS) == 200
    assert (manifest["answered"], manifest["failed"], manifest["unknown"]) == (200, 0, 0)
    assert manifest["missing"] == ([] if provider.reads_input else None)
    assert manifest["source"] == provider.source


@pytest.mark.parametrize("source", ["requests", "input_path"])
@pytest.mark.parametrize("provider", ["openai", "vertex-ai"], indirect=True)
def test_no_character_of_many_in_long_requests_and_answers_is_damaged(
    provider: Provider, clouds: Clouds, source: str, tmp_path: Path
) -> None:
    provider.processed_after = 0
    requests: Any = provider.requests(LONG)
    if source == "input_path":
        requests = tmp_path / "requests.jsonl"
        requests.write_bytes(jsonl(provider.requests(LONG)))

    batch = create(provider, {}, **{"requests": None, source: requests})
    Client(clouds.gateway, provider).wait(batch["id"])

    _, answers = download(batch, tmp_path)
    assert contents(answers) == provider.expected(LONG)


def test_a_failed_and_a_lost_request_are_named_and_the_others_whole(provider: Provider, tmp_path: Path) -> None:
    failed = frozenset([FAILED] if provider.reports_failures else [])
    provider.ending = Ending(failed=failed, lost=frozenset([LOST]))

    run = run_batch(provider)

    assert run.states == {"wait": "success"}
    manifest, answers = download(run.xcoms["wait"]["return_value"], tmp_path)
    assert contents(answers) == provider.expected(PROMPTS)
    assert error_codes(answers).keys() == failed
    assert (manifest["answered"], manifest["failed"], manifest["unknown"]) == (199 - len(failed), len(failed), 0)
    assert manifest["missing"] == ([LOST] if provider.reads_input else None)
    assert not manifest["counts_match"]


@pytest.mark.parametrize("provider", EXPIRING, indirect=True)
def test_an_expired_batch_has_the_answers_of_its_first_half(provider: Provider, tmp_path: Path) -> None:
    provider.ending = Ending(expired=True)

    run = run_batch(provider, allowed_statuses=["completed", "expired"])

    assert run.states == {"wait": "success"}
    batch = run.xcoms["wait"]["return_value"]
    assert batch["status"] == "expired"
    manifest, answers = download(batch, tmp_path)
    assert contents(answers) == provider.expected(PROMPTS)
    assert error_codes(answers) == (
        dict.fromkeys(list(PROMPTS)[100:], "batch_expired") if provider.names_unreached else {}
    )
    unnamed = 0 if provider.names_unreached else 100
    assert manifest["missing_count"] == (unnamed if provider.reads_input else None)


@pytest.mark.parametrize("provider", EXPIRING, indirect=True)
def test_an_expired_batch_fails_the_task_unless_it_is_allowed(provider: Provider) -> None:
    provider.ending = Ending(expired=True)

    run = run_batch(provider)

    assert run.states == {"wait": "failed"}
    assert [type(error) for error in run.errors] == [exceptions.PortkeyBatchExpiredError]
    assert run.xcoms["wait"]["output_file_id"]


def test_a_batch_can_be_cancelled(provider: Provider, clouds: Clouds) -> None:
    provider.ending, provider.processed_after = Ending(polls=1_000), 0
    batch_id = create(provider, PROMPTS)["id"]

    batch = PortkeyHook().cancel_batch(batch_id)

    assert batch.status in (BatchStatus.CANCELLING, BatchStatus.CANCELLED)
    ended = Batch.from_dict(Client(clouds.gateway, provider).wait(batch_id))
    # Anthropic's batches have one word for each end.
    assert ended.status is (BatchStatus.COMPLETED if provider.name == "anthropic" else BatchStatus.CANCELLED)


@pytest.mark.parametrize("provider", ["anthropic"], indirect=True)
def test_anthropic_names_what_an_expired_batch_did_not_reach_though_it_calls_the_batch_ended(
    provider: Provider, tmp_path: Path
) -> None:
    provider.ending = Ending(expired=True)

    run = run_batch(provider)

    batch = run.xcoms["wait"]["return_value"]
    assert (batch["status"], batch["output_file_id"]) == ("completed", None)
    manifest, answers = download(batch, tmp_path)
    assert contents(answers) == provider.expected(PROMPTS)
    assert error_codes(answers) == dict.fromkeys(list(PROMPTS)[100:], "expired")
    assert (manifest["source"], manifest["answered"], manifest["failed"]) == ("output", 100, 100)
    assert (manifest["missing"], manifest["counts_match"]) == (None, None)


@pytest.mark.parametrize("provider", ["azure-openai"], indirect=True)
def test_azure_reads_the_requests_from_a_blob_and_writes_the_answers_to_blobs(
    provider: Azure, clouds: Clouds, tmp_path: Path
) -> None:
    failed = frozenset([FAILED])
    provider.ending = Ending(failed=failed)
    provider.blobs["/container/in.jsonl"] = jsonl(provider.requests(PROMPTS))
    container = "https://account.blob.core.windows.net/container"
    blobs = {"input_blob": f"{container}/in.jsonl", "output_folder": {"url": f"{container}/out"}}

    batch = create(provider, PROMPTS, requests=None, extra_body=blobs)
    Client(clouds.gateway, provider).wait(batch["id"])

    assert (batch["input_file_id"], batch["output_file_id"]) == (None, None)
    manifest, answers = download(batch, tmp_path)
    assert contents(answers) == provider.expected(PROMPTS)
    # The error blob comes through neither route: that a request has no answer shows in the counts alone.
    assert (manifest["source"], manifest["answered"], manifest["missing"]) == ("output", 199, None)
    assert manifest["counts_match"] is False
