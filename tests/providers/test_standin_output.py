"""The stand-in's ``/output``, compared with that of the real gateway in front of the stand-in."""

from __future__ import annotations

import json

import pytest

from tests.providers.conftest import Clouds, connect
from tests.providers.openai import OpenAI
from tests.server.client import HOSTED, Client
from tests.server.standin import batch_body

ONLY_ERRORS = batch_body("batch_errors", "completed", output_file_id=None)


@pytest.mark.parametrize(
    ("batch_id", "answer", "status"),
    [
        pytest.param("batch_whole", "completed", 200, id="output file"),
        pytest.param("batch_errors", ONLY_ERRORS, 404, id="error file alone"),
        pytest.param("batch_failed", "failed", 200, id="failed"),
    ],
)
def test_the_stand_in_responds_as_the_gateway(
    clouds: Clouds, monkeypatch: pytest.MonkeyPatch, batch_id: str, answer: str, status: int
) -> None:
    openai = connect(clouds, "openai", monkeypatch)
    assert isinstance(openai, OpenAI)
    openai.standin.script(batch_id, answer)
    path = f"/batches/{batch_id}/output"

    through = Client(clouds.gateway.base_url, {"x-portkey-provider": "openai", **openai.headers}).call("GET", path)
    hosted = Client(openai.standin.base_url, HOSTED).call("GET", path)

    assert hosted.status_code == through.status_code
    assert [json.loads(row) for row in hosted.iter_lines()] == [json.loads(row) for row in through.iter_lines()]
    assert hosted.headers["content-type"].partition(";")[0] == through.headers["content-type"].partition(";")[0]
    assert hosted.status_code == status
