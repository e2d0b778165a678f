"""Every other call of the hook, whatever comes back: no result, message or log line shows a secret."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest

from airflow_provider_portkey.exceptions import PortkeyError
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.retry import MAX_ATTEMPTS
from tests.secrets.scene import ALL_SECRETS, EXTRA, Run, Scene, text_cut_at
from tests.server.standin import HOST, Answer
from tests.support.answers import html_page, portkey_error, provider_error
from tests.support.evidence import API_KEY, AWS_KEY, PROVIDER_KEY, PROXY_PASSWORD

CANCEL = ("POST", "/v1/batches/batch_1/cancel")


def called(
    *answers: Answer, during: Callable[[Scene], AbstractContextManager[object]] | None = None, **extra: object
) -> Run:
    """Make each call, with these answers to every attempt and this extra."""

    def run(scene: Scene) -> None:
        world, evidence, hook = scene.world, scene.evidence, PortkeyHook()
        world.set_connection(**EXTRA | extra)
        source, target = str(world.write_file("requests.jsonl", b"{}\n" * 1_000)), str(world.folder / "output.jsonl")
        world.standin.files["file-1"] = b"{}\n" * 1_000
        world.standin.script("batch_1", "in_progress")
        calls: dict[tuple[str, str], Callable[[], object]] = {
            ("POST", "/v1/files"): lambda: hook.upload_file(source),
            ("POST", "/v1/batches"): lambda: hook.create_batch("file-1", "/v1/embeddings", metadata={"a": "b"}),
            ("GET", "/v1/batches"): lambda: list(hook.list_batches()),
            CANCEL: lambda: hook.cancel_batch("batch_1"),
            ("GET", "/v1/files/file-1/content"): lambda: hook.download_file("file-1", target),
        }
        if scene.stack == "aiohttp":
            calls = {CANCEL: lambda: asyncio.run(hook.acancel_batch("batch_1"))}
        for (method, path), call in calls.items():
            world.standin.fail(method, path, *answers * MAX_ATTEMPTS)
            with during(scene) if during else nullcontext():
                try:
                    evidence.add_object(f"result of {method} {path}", call())
                except (PortkeyError, OSError) as error:
                    evidence.add_error(error)
        evidence.add_object("hook", hook)

    return run


RUNS: dict[str, Run] = {
    "success": called(),
    "401 with all secrets": called(portkey_error(401, ALL_SECRETS)),
    "400 of the provider, cut": called(provider_error(400, text_cut_at(API_KEY, 300))),
    "409 in HTML": called(html_page(409, f"{API_KEY} <b>{PROVIDER_KEY}</b> {AWS_KEY}")),
    "429 with all secrets": called(portkey_error(429, ALL_SECRETS)),
    "503 with all secrets": called(Answer(503, ALL_SECRETS)),
    "200 with an error": called(Answer(200, {"error": {"message": ALL_SECRETS}})),
    "200 without JSON": called(Answer(200, ALL_SECRETS)),
    "a redirect with secrets": called(
        Answer(302, headers={"Location": f"http://me:{PROXY_PASSWORD}@elsewhere.invalid/{API_KEY}/x?k={AWS_KEY}"})
    ),
    "a connection reset": called(Answer(how="reset", after_bytes=500)),
    "a truncated body": called(Answer(how="truncate", after_bytes=20)),
    "no HTTP": called(Answer(body=f"{API_KEY} {PROVIDER_KEY}\r\n\r\n".encode(), how="raw")),
    "read timeout": called(Answer(delay=60), timeout=0.1),
    "connection refused": called(during=lambda scene: scene.world.standin.outage()),
    "a proxy that is down": called(proxy=f"http://me:{PROXY_PASSWORD}@{HOST}:1"),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_no_call_reveals_a_secret(run: Run, scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    run(scene)
    assert scene.leaks(capfd) == []
