"""Which credentials the stand-in accepts, as Portkey and as the provider, and in which words it rejects others."""

from __future__ import annotations

import pytest

from tests.server.client import (
    CONFIG,
    HOSTED,
    KEY,
    KEY_AS_BEARER,
    NO_ROUTE,
    PROVIDER_KEY,
    SLUG,
    VIRTUAL_KEY,
    get,
    openai_error,
    passed_on,
)
from tests.server.standin import StandIn

WRONG_KEY: dict[str, object] = {
    "status": "failure",
    "message": "Portkey Error: Invalid API Key. Error Code: 03",
    "error": {"message": "Portkey Error: Invalid API Key. Error Code: 03", "code": "03"},
}
WRONG_NAME: dict[str, object] = {"status": "failure", "message": "Following keys are not valid: other"}


@pytest.mark.parametrize(
    "headers",
    [
        KEY | VIRTUAL_KEY,
        KEY | SLUG,
        KEY | CONFIG,
        KEY_AS_BEARER | VIRTUAL_KEY,
        KEY_AS_BEARER | SLUG,
        KEY | PROVIDER_KEY | {"x-portkey-provider": "openai"},
        PROVIDER_KEY,
        PROVIDER_KEY | {"x-portkey-provider": "openai"},
    ],
    ids=lambda headers: ", ".join(headers),
)
def test_these_credentials_are_accepted(standin: StandIn, headers: dict[str, str]) -> None:
    standin.script("batch_1", "completed")
    assert get(f"{standin.base_url}/batches/batch_1", headers).json()["status"] == "completed"


@pytest.mark.parametrize(
    ("headers", "status", "body"),
    [
        pytest.param(VIRTUAL_KEY, 401, WRONG_KEY, id="no key"),
        pytest.param(VIRTUAL_KEY | {"x-portkey-api-key": "pk-wrong"}, 401, WRONG_KEY, id="wrong key"),
        pytest.param(VIRTUAL_KEY | {"Authorization": "Bearer pk-wrong"}, 401, WRONG_KEY, id="wrong bearer key"),
        pytest.param(KEY | {"x-portkey-virtual-key": "other"}, 400, WRONG_NAME, id="wrong virtual key"),
        pytest.param(KEY | {"x-portkey-provider": "@other"}, 400, WRONG_NAME, id="wrong provider"),
        pytest.param(
            {"Authorization": "Bearer sk-wrong-0123456789"},
            401,
            openai_error("Incorrect API key provided: sk-wrong************6789.", "invalid_api_key"),
            id="wrong key of the provider",
        ),
        pytest.param(
            KEY | VIRTUAL_KEY | {"Authorization": "Bearer sk-stray-0123456789"},
            401,
            passed_on("Incorrect API key provided: sk-stray************6789.", "invalid_api_key"),
            id="stray authorization header",
        ),
    ],
)
def test_these_credentials_are_rejected(
    standin: StandIn, headers: dict[str, str], status: int, body: dict[str, object]
) -> None:
    standin.script("batch_1", "completed")
    response = get(f"{standin.base_url}/batches/batch_1", headers)
    assert (response.status_code, response.json()) == (status, body)
    assert response.headers.get("x-portkey-provider") == body.get("provider")


def test_a_key_without_a_provider_reaches_only_managed_batches(standin: StandIn) -> None:
    standin.script("batch_1", "completed")
    standin.script("pk_batch_1", "completed")
    assert get(f"{standin.base_url}/batches/batch_1", KEY).status_code == 404
    assert get(f"{standin.base_url}/batches/pk_batch_1", KEY).status_code == 200


def test_a_rotated_key_replaces_the_previous_one(standin: StandIn) -> None:
    standin.script("batch_1", "completed")
    url = f"{standin.base_url}/batches/batch_1"
    standin.api_key = "pk-rotated"
    assert get(url, HOSTED).json() == WRONG_KEY
    assert get(url, HOSTED | {"x-portkey-api-key": "pk-rotated"}).status_code == 200


def test_an_unknown_batch_is_the_provider_s_404(standin: StandIn) -> None:
    message = "No batch found with id 'batch_x'."
    hosted = get(f"{standin.base_url}/batches/batch_x", HOSTED)
    provider = get(f"{standin.base_url}/batches/batch_x", PROVIDER_KEY)
    assert (hosted.status_code, hosted.json()) == (404, passed_on(message))
    assert (provider.status_code, provider.json()) == (404, openai_error(message))


def test_an_unknown_path_is_portkey_s_404(standin: StandIn) -> None:
    standin.script("batch_1", "completed")
    response = get(f"{standin.url}/batches/batch_1", HOSTED)
    assert (response.status_code, response.json()) == (404, NO_ROUTE)
