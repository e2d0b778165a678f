"""Connections, valid and not: neither their use nor a message about them shows a secret."""

from __future__ import annotations

import json

import pytest

from tests.secrets.scene import EXTRA, Run, Scene
from tests.server.standin import HOST, Answer, Scripted
from tests.support.answers import portkey_error, provider_error
from tests.support.evidence import API_KEY, AWS_KEY, CONFIG, CONFIG_KEY, PROVIDER_KEY, VIRTUAL_KEY

OWN_AUTHORIZATION = {**EXTRA["headers"], "authorization": f"Bearer {PROVIDER_KEY}"}


def connected(*answers: Scripted, **extra: object) -> Run:
    """Wait with these answers and this extra; without answers, for a completed batch."""

    def run(scene: Scene) -> None:
        scene.world.set_connection(**EXTRA | extra)
        scene.wait_with_retries(*(answers or ["completed"]))

    return run


def in_environment(text: str) -> Run:
    """Wait with this text as the connection."""

    def run(scene: Scene) -> None:
        scene.world.set_env(AIRFLOW_CONN_PORTKEY_DEFAULT=text)
        scene.wait("completed", timeout=0.4)  # A trigger keeps waiting while Airflow does not find its connection.

    return run


def as_json(**fields: object) -> str:
    return json.dumps({"conn_type": "portkey"} | fields)


RUNS: dict[str, Run] = {
    "read timeout": connected(Answer(delay=60), timeout=0.1),
    "bearer": connected(auth="bearer"),
    "bearer, rejected": connected(portkey_error(401, f"Bearer {API_KEY}"), auth="bearer"),
    "an authorization header, rejected": connected(
        provider_error(401, f"Incorrect API key provided: {PROVIDER_KEY}"), headers=OWN_AUTHORIZATION
    ),
    "config as text": connected(portkey_error(400, f"Invalid: {CONFIG_KEY}"), config=json.dumps(CONFIG)),
    "config that is not valid JSON": connected(config=f'{{"api_key": {CONFIG_KEY}'),
    "headers as text": connected(headers=json.dumps(EXTRA["headers"])),
    "headers that are not valid JSON": connected(headers=f"x-portkey-aws-secret-access-key: {AWS_KEY}"),
    "a header with a line break": connected(headers={"x-portkey-aws-secret-access-key": f"{AWS_KEY}\n{API_KEY}"}),
    "headers given twice": connected(headers={"x-portkey-api-key": API_KEY, "x-portkey-config": CONFIG_KEY}),
    "a number as config": connected(config=5, provider=["x"], auth="none", timeout=-1),
    "no provider": connected(virtual_key=None, config=None),
    "managed with a virtual key": connected(managed=True),
    "not valid JSON": in_environment(f'{{"conn_type": "portkey", "password": "{API_KEY}'),
    "an extra that is not valid JSON": in_environment(
        as_json(password=API_KEY, extra=f'{{"virtual_key": "{VIRTUAL_KEY}')
    ),
    "unknown fields": in_environment(as_json(password=API_KEY, secret=AWS_KEY, extra={"virtual_key": VIRTUAL_KEY})),
    "a broken URI": in_environment(f"portkey://:{API_KEY}@[broken:99999/v1?virtual_key={VIRTUAL_KEY}"),
    "credentials in the host": in_environment(as_json(host=f"http://me:{API_KEY}@{HOST}:1", extra=EXTRA)),
    "a key as the port": in_environment(as_json(host=f"http://{HOST}:{API_KEY}", extra=EXTRA)),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_no_connection_reveals_a_secret(run: Run, scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    run(scene)
    assert scene.leaks(capfd) == []
