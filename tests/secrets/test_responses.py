"""Responses that quote secrets: no message, log line, event or XCom of a wait shows one."""

from __future__ import annotations

import pytest

from tests.secrets.scene import ALL_SECRETS, SENT, Run, Scene, text_cut_at
from tests.server.standin import Answer, Scripted, batch_body
from tests.support.answers import html_page, portkey_error, provider_error
from tests.support.evidence import API_KEY, AWS_KEY, CONFIG_KEY, PROVIDER_KEY, PROXY_PASSWORD, SECRETS, VIRTUAL_KEY

PREFIX = len("openai error: ")


def answered(*answers: Scripted) -> Run:
    return lambda scene: scene.wait_with_retries(*answers)


def key_rotated(scene: Scene) -> None:
    scene.world.standin.api_key = "pk-another"
    scene.wait("completed")


def failed_with_errors(*messages: str) -> dict[str, object]:
    errors = [{"code": "x", "message": message} for message in messages]
    return {"status": "failed", "errors": {"object": "list", "data": errors}}


RUNS: dict[str, Run] = {
    "success": answered("in_progress", "completed"),
    "a bad end": answered("in_progress", "failed"),
    "401 with the key": answered("in_progress", portkey_error(401, f"Invalid API Key: {API_KEY}")),
    "401 after a rotation of the key": key_rotated,
    "401 of the provider with its key": answered(provider_error(401, f"Incorrect API key provided: {PROVIDER_KEY}")),
    "400 with the virtual key": answered(portkey_error(400, f"Following keys are not valid: {VIRTUAL_KEY}")),
    "400 with the config": answered(portkey_error(400, f"Invalid config: {SECRETS['config']}")),
    "400 with the key in the config": answered(portkey_error(400, f"Invalid key {CONFIG_KEY} in config")),
    "400 with a header": answered(portkey_error(400, f"x-portkey-aws-secret-access-key: {AWS_KEY}?")),
    "403 with all secrets": answered(portkey_error(403, ALL_SECRETS)),
    "401 in HTML": answered(html_page(401, f"{API_KEY} <b>{PROVIDER_KEY}</b> {AWS_KEY}")),
    "401 cut after 200 characters": answered(provider_error(401, text_cut_at(API_KEY, 200))),
    "401 cut after 300 characters": answered(provider_error(401, text_cut_at(API_KEY, 300))),
    "401 in text, cut": answered(Answer(401, text_cut_at(API_KEY, 200 + PREFIX))),
    "503 with all secrets": answered("in_progress", Answer(503, ALL_SECRETS)),
    "503 in JSON": answered("in_progress", Answer(503, {"error": {"message": ALL_SECRETS}})),
    "200 with an error": answered(Answer(200, {"error": {"message": ALL_SECRETS}})),
    "200 with an error, cut": answered(Answer(200, {"error": text_cut_at(API_KEY, 300 + PREFIX)})),
    "200 without JSON": answered(Answer(200, ALL_SECRETS)),
    "200 with secrets as names": answered(Answer(200, {API_KEY: 1, VIRTUAL_KEY: 2, AWS_KEY: 3})),
    "another batch with a secret as id": answered(Answer(200, batch_body(API_KEY, "completed"))),
    "a secret as status": answered({"status": VIRTUAL_KEY}),
    "a failed batch with secrets in its errors": answered(failed_with_errors(*(f"Key {secret}" for secret in SENT))),
    "a failed batch with a cut secret in its errors": answered(
        failed_with_errors(*(text_cut_at(API_KEY, length + PREFIX) for length in (200, 500)))
    ),
    "a redirect with secrets": answered(
        Answer(302, headers={"Location": f"http://elsewhere.invalid/{API_KEY}/x?k={AWS_KEY}"})
    ),
    "a redirect with credentials": answered(
        Answer(302, headers={"Location": f"http://me:{PROXY_PASSWORD}@elsewhere.invalid/"})
    ),
    "no HTTP": answered(Answer(body=f"{API_KEY} {PROVIDER_KEY}\r\n\r\n".encode(), how="raw")),
    "an invalid header": answered(Answer(body=b"HTTP/1.1 200 OK\r\nno header\r\n\r\n", how="raw")),
    "an invalid Content-Length": answered(
        Answer(body=f"HTTP/1.1 200 OK\r\nContent-Length: {API_KEY}\r\n\r\n".encode(), how="raw")
    ),
    "a connection closed within the body": answered(
        Answer(body=b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", how="raw")
    ),
    "a connection reset": answered(Answer(how="reset")),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_no_response_reveals_a_secret(run: Run, scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    run(scene)
    assert scene.leaks(capfd) == []
