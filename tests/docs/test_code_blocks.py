"""Every code block of the documentation is a file, and what the file says works."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_portkey.answers import read_answers
from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.settings import Settings, task_headers
from tests.conftest import DAGS, REPO
from tests.server import __main__ as command_line
from tests.server.standin import StandIn
from tests.support.airflow_run import load_dag, run_dag
from tests.support.markdown import Document, documents

SNIPPETS = Path(__file__).parent / "snippets"


def by_name(document: Document) -> str:
    return document.name


@pytest.mark.parametrize("document", documents(), ids=by_name)
def test_every_code_block_is_the_file_that_the_comment_above_it_names(document: Document) -> None:
    for block in document.blocks:
        assert block.file, f"{document.name}: which file is this?\n{block.code}"
        assert block.code == (REPO / block.file).read_text(), f"{document.name} and {block.file} differ"


def test_every_snippet_is_shown_in_a_document_and_has_a_test_of_its_name() -> None:
    shown = {block.file for document in documents() for block in document.blocks}
    for path in SNIPPETS.iterdir():
        assert path.relative_to(REPO).as_posix() in shown
        assert f"test_{path.stem}" in globals()


def test_no_code_block_takes_a_file_id_by_its_key_from_a_task_s_output() -> None:
    """Airflow 3 mistakes a None there for a missing XCom: the DAG would fail for a perfect batch alone."""
    code = {block.file: block.code for document in documents() for block in document.blocks}
    code |= {path.name: path.read_text() for path in (REPO / "example_dags").glob("*.py")}
    assert [file for file, text in code.items() if re.search(r"\.output\[.(output|error)_file_id", text)] == []


def test_every_example_dag_is_linked_from_the_readme() -> None:
    readme = (REPO / "README.md").read_text()
    for path in (REPO / "example_dags").glob("*.py"):
        assert f"example_dags/{path.name}" in readme


def commands(name: str) -> list[list[str]]:
    """Return the commands of a shell snippet as lists of words."""
    text = (SNIPPETS / name).read_text().replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def test_install() -> None:
    [versions, words] = commands("install.sh")
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    given = dict(word.split("=") for word in versions)
    assert words[:4] == ["pip", "install", project["name"], "apache-airflow==$AIRFLOW"]
    assert words[4] == "--constraint" and {"$AIRFLOW", "$PYTHON"} == set(re.findall(r"\$[A-Z]+", words[5]))
    assert given.keys() == {"AIRFLOW", "PYTHON"}
    newest = re.findall(r"^([\d.]+) ", (REPO / ".ci" / "versions").read_text(), re.M)[0]
    assert given["AIRFLOW"].startswith(f"{newest}.")
    assert (
        f'`pip install . "apache-airflow~={newest}.0" --constraint .ci/constraints/airflow-{newest}.txt`'
        in (REPO / "README.md").read_text()
    )


def test_try() -> None:
    assert_make_has_targets(commands("try.sh"))


def test_checks() -> None:
    lines = commands("checks.sh")
    assert_make_has_targets([words for words in lines if words[0] == "make"])
    assert (REPO / ".pre-commit-config.yaml").exists()
    versions = re.findall(r"^([\d.]+) ", (REPO / ".ci" / "versions").read_text(), re.M)
    legs = [words[1:] for words in lines if words[0] == ".ci/run"]
    assert [leg for leg in legs if leg and leg != ["lowest"] and (leg[0] != "test" or leg[1] not in versions)] == []


def assert_make_has_targets(lines: list[list[str]]) -> None:
    targets = re.findall(r"^([a-z]+):", (REPO / "Makefile").read_text(), re.M)
    for make, *target in lines:
        assert make == "make"
        assert not target or target[0] in targets


@pytest.fixture
def sourced(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, str]]:
    """Set the connection that a shell snippet exports; return its base URL and the headers of a call that uses it."""

    def source(name: str) -> dict[str, str]:
        [(export, assignment)] = commands(name)
        assert export == "export"
        monkeypatch.setenv(*assignment.split("=", 1))
        hook = PortkeyHook()
        with hook.get_conn() as session:
            return {"base_url": hook.base_url} | {k.lower(): str(v) for k, v in session.headers.items()}

    return source


def test_connection(sourced: Callable[[str], dict[str, str]]) -> None:
    sent = sourced("connection.sh")
    assert sent["base_url"] == "https://gateway.example.com/v1"
    assert (sent["x-portkey-api-key"], sent["x-portkey-virtual-key"]) == ("pk-...", "openai-prod")


def test_connection_uri(sourced: Callable[[str], dict[str, str]]) -> None:
    sent = sourced("connection_uri.sh")
    assert sent["base_url"] == "https://gateway.example.com:8443/v1"
    assert (sent["x-portkey-api-key"], sent["x-portkey-virtual-key"]) == ("pk-...", "openai-prod")


def test_connection_open_source(sourced: Callable[[str], dict[str, str]]) -> None:
    sent = sourced("connection_open_source.sh")
    assert sent["base_url"] == "http://gateway.example.com:8787/v1"
    assert (sent["x-portkey-provider"], sent["authorization"]) == ("openai", "Bearer sk-...")
    assert "x-portkey-api-key" not in sent


def test_standin() -> None:
    [words] = commands("standin.sh")
    assert words[:3] == ["python", "-m", "tests.server"]
    given = command_line.parser().parse_args(words[3:])
    printed = command_line.connection(StandIn(port=given.port))
    assert printed == (SNIPPETS / "connection_standin.sh").read_text().strip()
    page = (REPO / "docs" / "connection.md").read_text()
    assert f"completes after {command_line.COURSE[-1][0]} s." in page
    assert all(f"`{batch_id}`" in page for batch_id in command_line.BATCHES)


@pytest.mark.usefixtures("airflow_db", "connection")
def test_connection_standin(standin: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user's own DAG creates a batch there, waits for it, and downloads answers and errors."""
    monkeypatch.setattr(command_line, "COURSE", [(0, "validating"), (0.5, "completed")])
    command_line.set_up(standin)
    monkeypatch.setenv(*command_line.connection(standin).removeprefix("export ").replace("'", "").split("=", 1))
    (DAGS / "mine.py").write_text(f"""
from datetime import datetime
from airflow.providers.common.compat.sdk import DAG
from airflow_provider_portkey.operators.batch import *

with DAG("mine", schedule=None, start_date=datetime(2026, 1, 1)) as dag:
    body = {{"model": "gpt-4o-mini", "messages": [{{"role": "user", "content": "Hello."}}]}}
    create = PortkeyCreateBatchOperator(
        task_id="create",
        requests=[{{"custom_id": name, "body": body}} for name in ("good", "fail-1")],
        wait_for_completion=True,
        deferrable=True,
        poke_interval=0.1,
    )
    PortkeyDownloadBatchOperator(task_id="download", batch_id=create.output, path={str(tmp_path)!r})
""")
    try:
        result = run_dag(load_dag("mine"))
    finally:
        (DAGS / "mine.py").unlink()
    assert result.states == {"create": "success", "download": "success"}
    manifest = result.xcoms["download"]["return_value"]
    assert (manifest["answered"], manifest["failed"], manifest["missing"]) == (1, 1, [])
    assert {answer.custom_id for answer in read_answers(manifest) if answer.error} == {"fail-1"}


def parsed(name: str) -> Any:
    """Return what Airflow's command line makes of the one ``airflow`` command of a snippet."""
    from airflow.cli import cli_parser

    [words] = commands(name)
    words = [word for word in words if not word.startswith("AIRFLOW__")]
    assert words.pop(0) == "airflow"
    return cli_parser.get_parser().parse_args(words)


def test_run_example() -> None:
    assert (REPO / "example_dags" / f"{parsed('run_example.sh').dag_id}.py").exists()


def test_connections_add() -> None:
    args = parsed("connections_add.sh")
    assert (args.conn_id, args.conn_type) == (PortkeyHook.default_conn_name, PortkeyHook.conn_type)
    settings = Settings.from_connection(
        args.conn_id, host=args.conn_host, password=args.conn_password, extra=args.conn_extra
    )
    assert settings.base_url == "https://gateway.example.com/v1"
    assert dict(settings.headers)["x-portkey-virtual-key"] == "openai-prod"


def test_connections_test() -> None:
    assert parsed("connections_test.sh").conn_id == PortkeyHook.default_conn_name


def test_batch() -> None:
    batch = json.loads((SNIPPETS / "batch.json").read_text())
    assert Batch.from_dict(batch).to_dict() == batch


def run(name: str) -> dict[str, Any]:
    """Run a Python snippet; return what it defined."""
    defined: dict[str, Any] = {}
    exec(compile((SNIPPETS / name).read_text(), name, "exec"), defined)  # noqa: S102 - a file of this repository
    return defined


@pytest.mark.usefixtures("connection")
def test_hook(standin: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    standin.course = [(0, "completed")]
    standin.files["file-in"] = b'{"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": {}}\n'
    batch = PortkeyHook().create_batch("file-in", "/v1/embeddings")

    run("hook.py")

    assert capsys.readouterr().out.splitlines()[-1] == f"{batch.id} completed 1"


def test_careful_create() -> None:
    create = run("careful_create.py")["create"]
    assert (create.on_unknown, create.cancel_on_kill, create.retries) == ("fail", False, 3)


@pytest.mark.usefixtures("airflow_db", "connection")
def test_create_then_wait(standin: StandIn) -> None:
    standin.course = [(0, "completed")]
    copy = Path(shutil.copy(SNIPPETS / "create_then_wait.py", DAGS))
    try:
        result = run_dag(load_dag("create_then_wait"))
    finally:
        copy.unlink()
    assert result.states == {"create": "success", "wait": "success"}
    [batch] = standin.batches
    assert result.xcoms["wait"]["return_value"]["id"] == batch.id


def test_task_headers() -> None:
    create = run("task_headers.py")["create"]
    assert task_headers(create.headers) == create.headers
    assert create.extra_body["model"] == create.headers["x-portkey-provider-model"]
