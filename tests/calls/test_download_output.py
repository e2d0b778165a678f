"""A batch's output, as Portkey makes it of the provider's files: rows of answers, or an error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.exceptions import PortkeyInputError, PortkeyTransientError
from tests.calls.world import CallWorld
from tests.server.batches import output_line
from tests.server.standin import Answer
from tests.support.answers import html_page

PATH = "/v1/batches/batch_1/output"
ROWS = output_line("a") + output_line("b")
#: What must not be taken for answers although its status is 200.
NOT_ANSWERS = {
    "nothing": Answer(200, b""),
    "blank lines": Answer(200, b"\n\n"),
    "the errors of a failed batch": Answer(
        200, json.dumps({"object": "list", "data": [{"code": "x", "message": "y"}]})
    ),
    "a list": Answer(200, b"[1]\n"),
    "a page of text": Answer(200, b"Service temporarily unavailable\n"),
    "an error of the provider": Answer(200, {"error": {"message": "Try later"}, "provider": "bedrock"}),
    "a page that the gateway wraps": Answer(200, b'{"html-message":"Try later"}'),
}


@pytest.fixture(autouse=True)
def output(world: CallWorld) -> None:
    world.standin.script("batch_1", {"status": "completed", "output_file_id": "file-output"})
    world.standin.files["file-output"] = ROWS


@pytest.mark.parametrize(
    "batch", ["batch_1", Batch.from_dict({"id": "batch_1", "status": "completed"})], ids=["id", "batch"]
)
def test_an_output_is_downloaded_and_counted(batch: Any, world: CallWorld) -> None:
    download = world.hook.download_output(batch, world.target)

    assert world.target.read_bytes() == ROWS
    assert (download.file_id, download.path, download.stats.answered) == (None, str(world.target), 2)


@pytest.mark.parametrize("response", NOT_ANSWERS.values(), ids=NOT_ANSWERS)
@pytest.mark.parametrize("existing", [b"old", None], ids=["a file is there", "no file is there"])
def test_a_response_without_answers_is_an_error_and_the_target_stays(
    response: Answer, existing: bytes | None, world: CallWorld
) -> None:
    if existing is not None:
        world.target.parent.mkdir()
        world.target.write_bytes(existing)
    world.standin.fail("GET", PATH, *[response] * 3)

    with pytest.raises(PortkeyTransientError, match="while downloading the output of batch 'batch_1'"):
        world.hook.download_output("batch_1", world.target)
    assert (world.target.read_bytes() if world.target.exists() else None) == existing
    assert [path.name for path in world.target.parent.glob(".*")] == []


def test_a_page_of_a_proxy_is_transient(world: CallWorld) -> None:
    world.standin.fail("GET", PATH, html_page(502, "Bad Gateway"), Answer(200, b""))

    assert world.hook.download_output("batch_1", world.target).stats.lines == 2


def test_the_first_byte_may_take_longer_than_the_connection_s_timeout(world: CallWorld) -> None:
    world.set_connection(timeout=0.2)
    world.standin.fail("GET", PATH, Answer(delay=0.5))

    assert world.hook.download_output("batch_1", world.target).stats.lines == 2
    assert len(world.standin.requests) == 1


@pytest.mark.parametrize(
    "extra",
    [
        {"headers": {"x-portkey-custom-host": "https://llm.example.com/v1"}},
        {"config": {"provider": "openai", "custom_host": "https://llm.example.com/v1"}},
        {"config": {"targets": [{"provider": "openai", "customHost": "https://llm.example.com/v1"}]}},
    ],
    ids=["header", "config", "target of a config"],
)
def test_a_provider_at_a_host_of_its_own_has_no_output_since_the_key_would_go_elsewhere(
    extra: dict[str, Any], world: CallWorld
) -> None:
    world.set_connection(**extra)

    with pytest.raises(PortkeyInputError, match=r"^No output of a batch with x-portkey-custom-host"):
        world.hook.download_output("batch_1", world.target)
    assert world.standin.requests == []
