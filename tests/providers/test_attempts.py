"""Several batches through one connection, and several attempts at one batch, at each provider."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_provider_portkey.exceptions import PortkeyAttemptUnknownError, PortkeyInputError
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from tests.providers.bedrock import Bedrock
from tests.providers.collect import Client, contents
from tests.providers.conftest import NAMES, SCRIPTED, Clouds, connect
from tests.providers.job import Ending
from tests.providers.prompts import prompts
from tests.providers.provider import Provider
from tests.providers.tasks import create, download
from tests.support.connections import set_connection

#: As in Portkey's own examples: one name, with which each upload would replace the one before.
FIXED_NAME = {"x-portkey-provider-file-name": "requests.jsonl"}
PROMPTS = prompts(12)
OTHERS = {custom_id: f"{text} (again)" for custom_id, text in PROMPTS.items()}
#: Those that return a batch's metadata, or the name of its file.
IDENTIFIED = [name for name in NAMES + SCRIPTED if name not in ("cohere", "anthropic")]
#: Those that take a file of requests.
WITH_FILES = [name for name in NAMES + SCRIPTED if name != "anthropic"]


@pytest.fixture
def provider(request: pytest.FixtureRequest, clouds: Clouds, monkeypatch: pytest.MonkeyPatch) -> Provider:
    """Each provider that the test names, through a connection that gives all uploads one name."""
    provider = connect(clouds, request.param, monkeypatch, **FIXED_NAME)
    provider.processed_after = 0
    return provider


@pytest.fixture
def client(provider: Provider, clouds: Clouds) -> Client:
    return Client(clouds.gateway, provider)


@pytest.mark.parametrize("provider", NAMES + SCRIPTED, indirect=True)
def test_two_batches_at_once_answer_their_own_requests(provider: Provider, client: Client, tmp_path: Path) -> None:
    batches = [create(provider, asked, task_id=f"task_{n}") for n, asked in enumerate((PROMPTS, OTHERS))]

    for n, asked in enumerate((PROMPTS, OTHERS)):
        client.wait(batches[n]["id"])
        manifest, answers = download(batches[n], tmp_path / str(n))
        assert contents(answers) == provider.expected(asked)
        assert manifest["missing"] == ([] if provider.reads_input else None)


@pytest.mark.parametrize("provider", WITH_FILES, indirect=True)
def test_two_uploads_of_a_bare_hook_are_two_files(provider: Provider, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in provider.requests(PROMPTS)))
    hook = PortkeyHook()

    assert hook.upload_file(path) != hook.upload_file(path)


@pytest.mark.parametrize("provider", ["bedrock"], indirect=True)
def test_a_connection_with_one_object_key_for_all_uploads_creates_nothing(
    provider: Bedrock, clouds: Clouds, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(clouds, "bedrock", monkeypatch, **{"x-portkey-aws-s3-object-key": "requests.jsonl"})
    before = len(provider.received)

    with pytest.raises(PortkeyInputError, match="a batch would answer the requests of the one after it"):
        create(provider, PROMPTS)

    assert len(provider.received) == before


@pytest.mark.parametrize("state", ["in flight", "ended"])
@pytest.mark.parametrize("provider", IDENTIFIED, indirect=True)
def test_a_second_attempt_without_a_state_store_re_attaches_to_the_batch_of_the_first(
    provider: Provider, client: Client, state: str
) -> None:
    if state == "in flight":
        provider.ending = Ending(polls=1_000)
    first = create(provider, PROMPTS, on_unknown="fail")
    other = create(provider, PROMPTS, task_id="another_task", on_unknown="fail")
    if state == "ended":
        client.wait(first["id"])

    second = create(provider, PROMPTS, try_number=2, on_unknown="fail")

    assert second["id"] == first["id"] != other["id"]


@pytest.mark.parametrize("provider", IDENTIFIED, indirect=True)
def test_a_second_attempt_at_other_requests_does_not_re_attach(provider: Provider) -> None:
    first = create(provider, PROMPTS)

    second = create(provider, OTHERS, try_number=2)

    assert second["id"] != first["id"]


@pytest.mark.parametrize("provider", ["cohere", "anthropic"], indirect=True)
class TestProviderThatIdentifiesNoBatch:
    def test_a_second_attempt_without_a_state_store_fails_rather_than_pay_twice(self, provider: Provider) -> None:
        create(provider, PROMPTS)

        with pytest.raises(PortkeyAttemptUnknownError, match="Nothing was created, since on_unknown is 'fail'"):
            create(provider, PROMPTS, try_number=2, on_unknown="fail")

    def test_or_creates_another_batch_with_a_warning(
        self, provider: Provider, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first = create(provider, PROMPTS)

        second = create(provider, PROMPTS, try_number=2)

        assert second["id"] != first["id"]
        logged = caplog.text + capsys.readouterr().out  # Airflow 2 logs to the former, Airflow 3 to the latter
        assert "Cannot determine whether a previous attempt created a batch: creating one" in logged


#: What of a connection is a task's own: where its files go, and what answers it.
OF_A_TASK = {
    "bedrock": ["x-portkey-aws-s3-bucket", "x-portkey-provider-model", "x-portkey-aws-region"],
    "vertex-ai": ["x-portkey-vertex-storage-bucket-name", "x-portkey-provider-model", "x-portkey-vertex-region"],
}


@pytest.mark.parametrize("provider", OF_A_TASK, indirect=True)
def test_bucket_model_and_region_of_a_task_take_precedence_over_those_of_the_connection(
    provider: Provider, clouds: Clouds, client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    headers = {name: provider.headers[name] for name in OF_A_TASK[provider.name]}
    fields = provider.connection(clouds.gateway.base_url)
    fields["extra"]["headers"] |= dict.fromkeys(headers, "of-another-task")
    set_connection(monkeypatch, **fields)

    batch = create(provider, PROMPTS, headers=headers)
    client.wait(batch["id"])
    manifest, answers = download(batch, tmp_path, headers=headers)

    assert contents(answers) == provider.expected(PROMPTS)
    assert manifest["missing"] == []
