"""No secret is ever shown: all that waits log, raise, store or print is searched for all that a connection hides."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_portkey import api
from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.exceptions import PortkeyError
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.operators.batch import PortkeyRetrieveBatchOperator
from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor
from airflow_provider_portkey.triggers.batch import PortkeyBatchTrigger
from tests.conftest import files_with
from tests.server.standin import HOST, Answer, Scripted, StandIn, batch_body
from tests.test_hostile import STACKS, Stack, World, be_deaf, page, portkey_error, provider_error, tls, wait

# No two have a part in common, so that each is found for itself.
API_KEY = "pk-Zq8vT3nLr5XwYb1Ks7Hd"
VIRTUAL_KEY = "vk-acme-prod-9f31c07e"
CONFIG_KEY = "sk-Gm4JuPe2RcVi6OaWx0Nt"
CONFIG = {"provider": "openai", "api_key": CONFIG_KEY, "retry": {"attempts": 1}}
AWS_KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY="
PROVIDER_KEY = "sk-5DfBhQy9SkUz8EoMl3Cg"
PROXY_PASSWORD = "hunter2-horse-battery"  # noqa: S105 - so that it is searched for
PROXY_BASIC = base64.b64encode(f"me:{PROXY_PASSWORD}".encode()).decode()
SECRETS = {
    "API key": API_KEY,
    "virtual key": VIRTUAL_KEY,
    "config": json.dumps(CONFIG, separators=(",", ":")),
    "key within the config": CONFIG_KEY,
    "AWS key in a header": AWS_KEY,
    "provider's key in a header": PROVIDER_KEY,
    "proxy's password": PROXY_PASSWORD,
    "proxy's credentials, encoded": PROXY_BASIC,
}
#: So many characters of a secret in a row give it away; "sk-abcde***" does not.
TELLING = 10

EXTRA: dict[str, Any] = {
    "virtual_key": VIRTUAL_KEY,
    "config": CONFIG,
    "headers": {"x-portkey-aws-secret-access-key": AWS_KEY, "x-portkey-forward-key": PROVIDER_KEY},
}


class Evidence:
    """All that could be read by somebody, and where."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []

    def add(self, where: str, text: str) -> None:
        self.texts.append((where, text))

    def add_object(self, where: str, thing: object) -> None:
        self.add(f"repr of {where}", repr(thing))
        self.add(f"str of {where}", str(thing))

    def add_error(self, error: BaseException) -> None:
        """Take an exception with all that hangs on it, shown by a traceback or not."""
        self.add("traceback", "".join(traceback.format_exception(error)))
        seen: list[BaseException] = []
        ahead: list[BaseException | None] = [error]
        while ahead:
            link = ahead.pop()
            if link is None or any(link is known for known in seen):
                continue
            assert link not in (link.__cause__, link.__context__), "an exception that caused itself"
            seen.append(link)
            self.add_object(f"{type(link).__name__} in the exception's chain", link)
            ahead += [link.__cause__, link.__context__]

    def found(self) -> list[str]:
        """Say which secrets, or telling parts of them, can be read where."""
        found = []
        for name, secret in SECRETS.items():
            parts = {secret[n : n + TELLING] for n in range(len(secret) - TELLING + 1)}
            if secret.startswith("{"):  # of a config's JSON, only the whole is a secret; its key is one by itself
                parts = {secret, secret.replace('"', '\\"')}
            for where, text in self.texts:
                if part := next((part for part in parts if part in text), None):
                    at = text.index(part)
                    found.append(f"{name} in {where}: …{text[max(0, at - 60) : at + 60]}…")
        return found


class _Handler(logging.Handler):
    def __init__(self, evidence: Evidence) -> None:
        super().__init__(logging.DEBUG)
        self.evidence = evidence

    def emit(self, record: logging.LogRecord) -> None:
        self.evidence.add(f"log of {record.name}", f"{self.format(record)} {record.args!r}")


def listen_to_logging(evidence: Evidence, closing: ExitStack) -> None:
    """Hear every logger of the standard library at DEBUG, whatever Airflow has set."""
    handler = _Handler(evidence)
    loggers = [logging.getLogger(name) for name in (*logging.root.manager.loggerDict, "urllib3", "aiohttp", "asyncio")]
    for logger in (logging.root, *loggers):
        closing.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.DEBUG)
        # One that hands nothing on is heard itself.
        if logger is logging.root or not logger.propagate:
            logger.addHandler(handler)
            closing.callback(logger.removeHandler, handler)
    closing.callback(logging.disable, logging.root.manager.disable)
    logging.disable(logging.NOTSET)


def listen_to_structlog(evidence: Evidence, closing: ExitStack) -> None:
    """Hear what Airflow 3 logs, before it masks anything."""
    if importlib.util.find_spec("structlog") is None:  # Airflow 2
        return
    import structlog

    def hear(logger: Any, level: str, event: Any) -> Any:
        if event.get("exc_info"):
            evidence.add("structlog's traceback", traceback.format_exc())
        evidence.add(f"structlog, {level}", repr(event))
        raise structlog.DropEvent

    config: dict[str, Any] = structlog.get_config()
    closing.callback(lambda: structlog.configure(**config))
    structlog.configure(processors=[hear], wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))


@dataclass
class Scene:
    """A world whose every word is taken down."""

    world: World
    evidence: Evidence
    stack: Stack

    def wait(self, *answers: Scripted, **task: Any) -> None:
        world, evidence = self.world, self.evidence
        world.standin.script("batch_1", *answers)
        wait(self.stack, world, "batch_1", **task)
        if world.error:
            evidence.add_error(world.error)
        for where, what in {"event": world.event, "XCom": world.xcoms, "return value": world.answer}.items():
            evidence.add(where, json.dumps(what))
            evidence.add(where, json.dumps(what, ensure_ascii=False))

    def wait_out(self, *answers: Scripted) -> None:
        """Wait until the last answer, if it is none that ends the wait, has outlasted a call's attempts."""
        self.wait(*answers[:-1], *[answers[-1]] * 4, "completed")
        self.world.standin.script("batch_1", answers[-1])

    def look_around(self) -> None:
        """Take down the public objects, used ones as they are used."""
        for kind in (PortkeyBatchSensor, PortkeyRetrieveBatchOperator):
            task = kind(task_id="look", batch_id="batch_1")
            self.evidence.add_object(kind.__name__, task)
            self.evidence.add("templates", repr([getattr(task, name) for name in task.template_fields]))
        trigger = PortkeyBatchTrigger("batch_1")
        self.evidence.add_object("trigger", trigger)
        self.evidence.add("trigger's arguments", repr(trigger.serialize()))
        hook = PortkeyHook()
        try:
            self.evidence.add("test_connection", repr(hook.test_connection()))
            self.evidence.add_object("session", hook.get_conn())
            hook.get_conn().close()
        except PortkeyError as error:
            self.evidence.add_error(error)
        else:
            [settings] = [value for value in vars(hook).values() if isinstance(value, api.Settings)]
            self.evidence.add_object("Settings", settings)
            self.evidence.add_object("Request", api.retrieve_batch(settings, "batch_1"))
        looks: list[Callable[[], Batch]] = [
            lambda: hook.get_batch("batch_1"),
            lambda: asyncio.run(hook.aget_batch("batch_1")),
        ]
        for look in looks:
            try:
                self.evidence.add_object("Batch", look())
            except PortkeyError as error:
                self.evidence.add_error(error)
        self.evidence.add_object("hook", hook)


@pytest.fixture(params=STACKS)
def scene(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Scene]:
    be_deaf(monkeypatch)
    monkeypatch.setattr(api, "MAX_PAUSE", 0.02)
    evidence = Evidence()
    with ExitStack() as closing:
        world = World(monkeypatch, tmp_path, closing)
        world.standin = closing.enter_context(StandIn(api_key=API_KEY, virtual_key=VIRTUAL_KEY))
        world.connect(**EXTRA)
        listen_to_logging(evidence, closing)
        listen_to_structlog(evidence, closing)
        yield Scene(world, evidence, request.param)


def proxy(scene: Scene, *, refuses: bool = False, port: int | str | None = None) -> str:
    """Return the URL of a proxy that wants credentials."""
    world = scene.world
    world.proxy = world.serve_proxy(refuses=refuses)
    return f"http://me:{PROXY_PASSWORD}@{HOST}:{port or world.proxy.port}"


def serve_tls(scene: Scene, **how: Any) -> None:
    world = scene.world
    context = tls(**how)(world)
    world.standin = world.closing.enter_context(StandIn(api_key=API_KEY, virtual_key=VIRTUAL_KEY, ssl_context=context))


def answered(*answers: Scripted) -> Callable[[Scene], None]:
    return lambda scene: scene.wait_out(*answers)


def connected(*answers: Scripted, **extra: Any) -> Callable[[Scene], None]:
    def run(scene: Scene) -> None:
        scene.world.connect(**EXTRA | extra)
        scene.wait_out(*(answers or ["completed"]))

    return run


def in_environment(conn: str) -> Callable[[Scene], None]:
    def run(scene: Scene) -> None:
        scene.world.environ(AIRFLOW_CONN_PORTKEY_DEFAULT=conn)
        scene.wait("completed", timeout=0.4)  # a trigger goes on while it cannot read its connection

    return run


def rotated(scene: Scene) -> None:
    scene.world.standin.api_key = "pk-another"
    scene.wait("completed")


def refused_connection(scene: Scene) -> None:
    with scene.world.standin.outage():
        scene.wait("completed", timeout=0.4)


def http_proxy(
    *, refuses: bool = False, port: int | str | None = None, setting: bool = False
) -> Callable[[Scene], None]:
    def run(scene: Scene) -> None:
        url = proxy(scene, refuses=refuses, port=port)
        if setting:
            scene.world.connect(**EXTRA, proxy=url)
        else:
            scene.world.environ(HTTP_PROXY=url)
        scene.wait("in_progress", "completed", timeout=0.4 if refuses or port else 10.0)

    return run


def https_proxy(*, refuses: bool = False, port: int | str | None = None, **how: Any) -> Callable[[Scene], None]:
    def run(scene: Scene) -> None:
        serve_tls(scene, **how)
        scene.world.connect(**EXTRA, verify=str(scene.world.folder / "ca.pem"))
        scene.world.environ(HTTPS_PROXY=proxy(scene, refuses=refuses, port=port))
        scene.wait("in_progress", "completed", timeout=0.4 if refuses or port or how else 10.0)
        if not refuses and not port:
            evidence = [head for head in scene.world.proxy.heads if API_KEY in head or VIRTUAL_KEY in head]
            assert evidence == []

    return run


def over_tls(**how: Any) -> Callable[[Scene], None]:
    def run(scene: Scene) -> None:
        serve_tls(scene, **how)
        scene.world.connect(**EXTRA, **({"verify": str(scene.world.folder / "ca.pem")} if how else {}))
        scene.wait("completed", timeout=0.4)

    return run


def socks_proxy(scene: Scene) -> None:
    scene.world.environ(ALL_PROXY=f"socks5://me:{PROXY_PASSWORD}@{HOST}:1")
    scene.wait("completed")


def quoting(text: str, length: int) -> str:
    """Let a message end in the midst of ``text`` when it is cut at ``length``."""
    return "x" * (length - 12 - len("openai error: ")) + " " + text


def called(
    *answers: Answer, within: Callable[[Scene], AbstractContextManager[object]] | None = None, **extra: Any
) -> Callable[[Scene], None]:
    """Make each call that the hook has beside the wait's, and let it be answered these."""

    def run(scene: Scene) -> None:
        world, evidence, hook = scene.world, scene.evidence, PortkeyHook()
        world.connect(**EXTRA | extra)
        source, target = str(world.file("requests.jsonl", b"{}\n" * 1_000)), str(world.folder / "output.jsonl")
        world.standin.files["file-1"] = b"{}\n" * 1_000
        world.standin.script("batch_1", "in_progress")
        calls: dict[tuple[str, str], Callable[[], object]] = {
            ("POST", "/v1/files"): lambda: hook.upload_file(source),
            ("POST", "/v1/batches"): lambda: hook.create_batch("file-1", "/v1/embeddings", metadata={"a": "b"}),
            ("GET", "/v1/batches"): lambda: list(hook.list_batches()),
            ("POST", "/v1/batches/batch_1/cancel"): lambda: hook.cancel_batch("batch_1"),
            ("GET", "/v1/files/file-1/content"): lambda: hook.download_file("file-1", target),
        }
        if scene.stack == "aiohttp":
            cancel = ("POST", "/v1/batches/batch_1/cancel")
            calls = {cancel: lambda: asyncio.run(hook.acancel_batch("batch_1"))}
        for (method, path), call in calls.items():
            world.standin.fail(method, path, *answers * api.ATTEMPTS)
            with within(scene) if within else nullcontext():
                try:
                    evidence.add_object(f"result of {method} {path}", call())
                except (PortkeyError, OSError) as error:
                    evidence.add_error(error)
        evidence.add_object("hook", hook)

    return run


#: What a server was sent, and can send back.
SENT = [API_KEY, VIRTUAL_KEY, SECRETS["config"], CONFIG_KEY, AWS_KEY, PROVIDER_KEY]
QUOTES = "; ".join(SENT)
WITHIN = {**EXTRA["headers"], "authorization": f"Bearer {PROVIDER_KEY}"}

SCENES: dict[str, Callable[[Scene], None]] = {
    "success": answered("in_progress", "completed"),
    "a bad end": answered("in_progress", "failed"),
    "401 quoting the key": answered("in_progress", portkey_error(401, f"Invalid API Key: {API_KEY}")),
    "401 of a rotated key": rotated,
    "401 from the provider quoting its key": answered(
        provider_error(401, f"Incorrect API key provided: {PROVIDER_KEY}")
    ),
    "400 quoting the virtual key": answered(portkey_error(400, f"Following keys are not valid: {VIRTUAL_KEY}")),
    "400 quoting the config": answered(portkey_error(400, f"Invalid config: {SECRETS['config']}")),
    "400 quoting the config's key": answered(portkey_error(400, f"Invalid key {CONFIG_KEY} in config")),
    "400 quoting a header": answered(portkey_error(400, f"x-portkey-aws-secret-access-key: {AWS_KEY}?")),
    "403 quoting everything": answered(portkey_error(403, QUOTES)),
    "401 in HTML": answered(page(401, f"{API_KEY} <b>{PROVIDER_KEY}</b> {AWS_KEY}")),
    **{
        f"401 cut after {length} characters": answered(provider_error(401, quoting(API_KEY, length)))
        for length in (200, 300)
    },
    "401 in text, cut": answered(Answer(401, quoting(API_KEY, 200 + len("openai error: ")))),
    "503 quoting everything": answered("in_progress", Answer(503, QUOTES)),
    "503 as JSON": answered("in_progress", Answer(503, {"error": {"message": QUOTES}})),
    "200 with an error": answered(Answer(200, {"error": {"message": QUOTES}})),
    "200 with an error, cut": answered(Answer(200, {"error": quoting(API_KEY, 300 + len("openai error: "))})),
    "200 with no JSON": answered(Answer(200, QUOTES)),
    "200 with names that quote": answered(Answer(200, {API_KEY: 1, VIRTUAL_KEY: 2, AWS_KEY: 3})),
    "another batch, whose id quotes": answered(Answer(200, batch_body(API_KEY, "completed"))),
    "a status that quotes": answered({"status": VIRTUAL_KEY}),
    "a failed batch whose errors quote": answered(
        {
            "status": "failed",
            "errors": {"object": "list", "data": [{"code": "x", "message": f"Key {s}"} for s in SENT]},
        }
    ),
    "a failed batch whose errors quote, cut": answered(
        {
            "status": "failed",
            "errors": {"data": [{"message": quoting(API_KEY, n + len("openai error: "))} for n in (200, 500)]},
        }
    ),
    "a redirect that quotes": answered(
        Answer(302, headers={"Location": f"http://elsewhere.invalid/{API_KEY}/x?k={AWS_KEY}"})
    ),
    "a redirect with credentials": answered(
        Answer(302, headers={"Location": f"http://me:{PROXY_PASSWORD}@elsewhere.invalid/"})
    ),
    "no HTTP": answered(Answer(body=f"{API_KEY} {PROVIDER_KEY}\r\n\r\n".encode(), how="raw")),
    "a header that is none": answered(Answer(body=b"HTTP/1.1 200 OK\r\nno header\r\n\r\n", how="raw")),
    "a broken length": answered(
        Answer(body=f"HTTP/1.1 200 OK\r\nContent-Length: {API_KEY}\r\n\r\n".encode(), how="raw")
    ),
    "closed in mid-body": answered(Answer(body=b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", how="raw")),
    "reset": answered(Answer(how="reset")),
    "read timeout": connected(Answer(delay=60), timeout=0.1),
    "connection refused": refused_connection,
    "bearer": connected(auth="bearer"),
    "bearer, refused": connected(portkey_error(401, f"Bearer {API_KEY}"), auth="bearer"),
    "authorization of its own": connected(
        provider_error(401, f"Incorrect API key provided: {PROVIDER_KEY}"), headers=WITHIN
    ),
    "config as text": connected(portkey_error(400, f"Invalid: {CONFIG_KEY}"), config=json.dumps(CONFIG)),
    "config that is no JSON": connected(config=f'{{"api_key": {CONFIG_KEY}'),
    "headers as text": connected(headers=json.dumps(EXTRA["headers"])),
    "headers that are no JSON": connected(headers=f"x-portkey-aws-secret-access-key: {AWS_KEY}"),
    "a header with a line break": connected(headers={"x-portkey-aws-secret-access-key": f"{AWS_KEY}\n{API_KEY}"}),
    "a header given twice": connected(headers={"x-portkey-api-key": API_KEY, "x-portkey-config": CONFIG_KEY}),
    "a config that is a number": connected(config=5, provider=["x"], auth="none", timeout=-1),
    "no provider": connected(virtual_key=None, config=None),
    "managed beside a virtual key": connected(managed=True),
    "a connection that is no JSON": in_environment(f'{{"conn_type": "portkey", "password": "{API_KEY}'),
    "a connection with an extra that is no JSON": in_environment(
        json.dumps({"conn_type": "portkey", "password": API_KEY, "extra": f'{{"virtual_key": "{VIRTUAL_KEY}'})
    ),
    "a connection with unknown fields": in_environment(
        json.dumps(
            {"conn_type": "portkey", "password": API_KEY, "secret": AWS_KEY, "extra": {"virtual_key": VIRTUAL_KEY}}
        )
    ),
    "a connection as a broken URI": in_environment(f"portkey://:{API_KEY}@[broken:99999/v1?virtual_key={VIRTUAL_KEY}"),
    "a host with credentials": in_environment(
        json.dumps({"conn_type": "portkey", "host": f"http://me:{API_KEY}@{HOST}:1", "extra": EXTRA})
    ),
    "a key in the host's place": in_environment(
        json.dumps({"conn_type": "portkey", "host": f"http://{HOST}:{API_KEY}", "extra": EXTRA})
    ),
    "TLS that is not trusted": over_tls(),
    "TLS with an expired certificate": over_tls(expired=True),
    "a proxy": http_proxy(),
    "a proxy of the connection": http_proxy(setting=True),
    "a proxy that refuses": http_proxy(refuses=True),
    "a proxy that is down": http_proxy(port=1),
    "a proxy of the connection that is down": http_proxy(port=1, setting=True),
    "a proxy without a port that is a number": http_proxy(port="port"),
    "a proxy of the connection without a port that is a number": http_proxy(port="port", setting=True),
    "a proxy for TLS": https_proxy(),
    "a proxy for TLS that refuses": https_proxy(refuses=True),
    "a proxy for TLS that is down": https_proxy(port=1),
    "a proxy for TLS to a server not trusted": https_proxy(expired=True),
    "a SOCKS proxy": socks_proxy,
    "calls: success": called(),
    "calls: 401 quoting everything": called(portkey_error(401, QUOTES)),
    "calls: 400 of the provider, cut": called(provider_error(400, quoting(API_KEY, 300))),
    "calls: 409 in HTML": called(page(409, f"{API_KEY} <b>{PROVIDER_KEY}</b> {AWS_KEY}")),
    "calls: 429 quoting everything": called(portkey_error(429, QUOTES)),
    "calls: 503 quoting everything": called(Answer(503, QUOTES)),
    "calls: 200 with an error": called(Answer(200, {"error": {"message": QUOTES}})),
    "calls: 200 with no JSON": called(Answer(200, QUOTES)),
    "calls: a redirect that quotes": called(
        Answer(302, headers={"Location": f"http://me:{PROXY_PASSWORD}@elsewhere.invalid/{API_KEY}/x?k={AWS_KEY}"})
    ),
    "calls: reset": called(Answer(how="reset", after_bytes=500)),
    "calls: truncated": called(Answer(how="truncate", after_bytes=20)),
    "calls: no HTTP": called(Answer(body=f"{API_KEY} {PROVIDER_KEY}\r\n\r\n".encode(), how="raw")),
    "calls: read timeout": called(Answer(delay=60), timeout=0.1),
    "calls: connection refused": called(within=lambda scene: scene.world.standin.outage()),
    "calls: a proxy that is down": called(proxy=f"http://me:{PROXY_PASSWORD}@{HOST}:1"),
}


@pytest.mark.parametrize("run", [pytest.param(run, id=name) for name, run in SCENES.items()])
def test_nothing_shows_a_secret(run: Callable[[Scene], None], scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    run(scene)
    scene.look_around()
    out, err = capfd.readouterr()
    scene.evidence.add("stdout", out)
    scene.evidence.add("stderr", err)

    assert scene.evidence.found() == []


def _raise_within(secret: str) -> BaseException:
    try:
        try:
            raise ValueError(secret)
        except ValueError:
            raise RuntimeError("nothing to see") from None
    except RuntimeError as error:
        return error


PLANTS: dict[str, Callable[[Scene, str], None]] = {
    "a sensor's log": lambda scene, secret: PortkeyBatchSensor(task_id="x", batch_id="b").log.debug("It is %s", secret),
    "a trigger's log": lambda scene, secret: PortkeyBatchTrigger("b").log.debug("It is %s", secret),
    "a hook's log": lambda scene, secret: PortkeyHook().log.debug("It is %s", secret),
    "a library's log": lambda scene, secret: logging.getLogger("urllib3.connectionpool").debug("It is %s", secret),
    "a new logger": lambda scene, secret: logging.getLogger("aiohttp.client.planted").debug("It is %s", secret),
    "an exception that is not shown": lambda scene, secret: scene.evidence.add_error(_raise_within(secret)),
    "an object": lambda scene, secret: scene.evidence.add_object("x", {"key": secret}),
}


class TestScanner:
    @pytest.mark.parametrize("plant", [pytest.param(plant, id=name) for name, plant in PLANTS.items()])
    @pytest.mark.parametrize("name", SECRETS)
    def test_it_finds_a_planted_secret(self, plant: Callable[[Scene, str], None], name: str, scene: Scene) -> None:
        assert scene.evidence.found() == []
        plant(scene, SECRETS[name])
        assert any(found.startswith(f"{name} in ") for found in scene.evidence.found())

    def test_it_finds_the_head_of_one(self, scene: Scene) -> None:
        scene.evidence.add("x", f"The key {API_KEY[:TELLING]}… is wrong")
        assert len(scene.evidence.found()) == 1

    def test_it_finds_what_a_batch_brings(self, scene: Scene) -> None:
        scene.wait({"status": "completed", "output_file_id": f"file-{API_KEY}"})
        places = {found.partition(" in ")[2].partition(":")[0] for found in scene.evidence.found()}
        assert {"XCom", "return value"} <= places
        assert ("event" in places) == (scene.stack == "aiohttp")


def test_the_scan_of_what_airflow_stored_finds_a_planted_secret(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "task.log").write_text(f"key={API_KEY}")
    (tmp_path / "airflow.db").write_bytes(b"\0SQLite")
    assert files_with([API_KEY, AWS_KEY], tmp_path) == ["logs/task.log"]
    assert files_with([AWS_KEY], tmp_path) == []
