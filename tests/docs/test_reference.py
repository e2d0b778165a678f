"""What the documentation lists is what the code has: classes, parameters, defaults, fields, keys, files, numbers."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from dataclasses import MISSING, fields
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    BaseHook,
    BaseSensorOperator,
    conf,
)

from airflow_provider_portkey import exceptions, retry
from airflow_provider_portkey.attempts import MAX_LISTED, METADATA_KEY
from airflow_provider_portkey.batch import TERMINAL_STATUSES, Batch, BatchStatus
from airflow_provider_portkey.get_provider_info import CONNECTION_TYPE, get_provider_info
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.manifest import manifest
from airflow_provider_portkey.operators.batch import (
    PortkeyCancelBatchOperator,
    PortkeyCreateBatchOperator,
    PortkeyDownloadBatchOperator,
    PortkeyRetrieveBatchOperator,
)
from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor
from airflow_provider_portkey.settings import DEFAULT_BASE_URL, Settings
from tests.support.markdown import PACKAGE, REPO, document, names, rows

OPERATORS = document("docs/operators.md")
README = document("README.md")
TASKS = (
    PortkeyBatchSensor,
    PortkeyCreateBatchOperator,
    PortkeyRetrieveBatchOperator,
    PortkeyDownloadBatchOperator,
    PortkeyCancelBatchOperator,
)


def parameters(task: type) -> dict[str, inspect.Parameter]:
    """Return what a task's class takes by name, with what the sensor documents of Airflow's own."""
    found = dict(inspect.signature(task).parameters)
    if issubclass(task, BaseSensorOperator):
        inherited = inspect.signature(BaseSensorOperator).parameters
        found = {name: inherited[name] for name in ("timeout", "poke_interval")} | found
    return {name: found[name] for name in found if name != "kwargs"}


def documented(task: type) -> dict[str, str]:
    """Return the parameters of a task in ``docs/operators.md``, each with the cell of its default."""
    section = OPERATORS.section(task.__name__)
    found = list(rows(section, "parameter"))
    if "(#parameters-of-a-wait)" in section:
        waits = rows(OPERATORS.section("Parameters of a wait"), "parameter")
        # Its section says so: a sensor always waits.
        found += [row for row in waits if task is not PortkeyBatchSensor or row[0] != "`wait_for_completion`"]
    return {names(name)[0]: default for name, default, *_ in found}


def is_default(cell: str, default: Any) -> bool:
    """Whether a table's cell says what a parameter's default is."""
    if not cell:
        return default is inspect.Parameter.empty
    [text] = names(cell)
    if config := re.fullmatch(r"\[(\w+)\] (\w+)", text):
        if default in (None, True, False):
            return default is None or default == conf.getboolean(*config.groups(), fallback=False)
        return bool(default == conf.getfloat(*config.groups()))
    return bool(ast.literal_eval(text) == default)


@pytest.mark.parametrize("task", TASKS)
def test_operators_md_has_each_parameter_with_its_default_and_no_other(task: type) -> None:
    has = parameters(task)
    table = documented(task)
    assert table.keys() == has.keys()
    assert [name for name in has if not is_default(table[name], has[name].default)] == []


def test_the_readme_s_parameters_have_the_defaults_of_operators_md() -> None:
    table = {row[0]: row[1] for row in rows(OPERATORS.section("Parameters of a wait"), "parameter")}
    short = {row[0]: row[1] for row in rows(README.section("Parameters of a wait"), "parameter")}
    assert short
    for name, default in short.items():
        assert names(default) == names(table[name])


#: What a reader of the README alone must find out, the section that says so, and the words that do.
QUESTIONS = {
    "Must a triggerer run?": ("2. Write a DAG", ["`airflow triggerer` must run"]),
    "Virtual key, provider or config?": ("1. Add a connection", ["`virtual_key` |", "`provider` |", "`config` |"]),
    "What may the key do?": ("1. Add a connection", ["scope `completions.write`"]),
    "How can I try it without Portkey?": ("1. Add a connection", ["`python -m tests.server`"]),
    "wait_for_completion, or deferrable?": (
        "2. Write a DAG",
        ["operator without `wait_for_completion` | does not wait"],
    ),
    "Which constraints?": ("Install", ["--constraint"]),
    "Which providers?": ("Providers", ["OpenAI", "Azure", "Bedrock", "Vertex", "Cohere", "Anthropic", "Portkey's own"]),
    "What is a line of the files?": ("3. Use what comes back", ['`{"custom_id": "1", "response"', "In the error file"]),
    "What follows a failed mapped sensor?": ("3. Use what comes back", ["`upstream_failed`", '"all_done"', "by `id`"]),
    "Why does None fail a task?": ("3. Use what comes back", ['`wait.output["error_file_id"]`', "a perfect batch"]),
    "What may cancel_from_trigger cancel?": ("When things go wrong", ["may also cancel paid batches"]),
}


@pytest.mark.parametrize(("section", "words"), QUESTIONS.values(), ids=QUESTIONS)
def test_the_readme_answers_what_a_new_user_asks(section: str, words: list[str]) -> None:
    text = " ".join(README.section(section).split())
    assert [answer for answer in words if answer not in text] == []


def test_the_first_sentence_on_cancel_from_trigger_says_that_it_may_cancel_paid_batches() -> None:
    [cell] = [row[2] for row in rows(OPERATORS.text, "parameter") if row[0] == "`cancel_from_trigger`"]
    docstring = inspect.getdoc(PortkeyCreateBatchOperator) or ""
    [sentence] = re.findall(r":param cancel_from_trigger: (.*?)\. ", " ".join(docstring.split()))
    for text in (cell, sentence):
        assert "up to Airflow 3.3.2 this may also cancel a paid batch" in text


def test_the_readme_lists_each_public_class() -> None:
    info = get_provider_info()
    modules = [m for kind in ("hooks", "operators", "sensors", "triggers") for m in info[kind][0]["python-modules"]]
    public = {
        (name, module.removeprefix("airflow_provider_portkey."))
        for module in modules
        for name, value in vars(importlib.import_module(module)).items()
        if name.startswith("Portkey") and isinstance(value, type) and not issubclass(value, exceptions.PortkeyError)
        if kind_of(value) in module
    }
    table = rows(README.section("Classes"), "class")
    assert {(names(name)[0], names(module)[0]) for name, module, *_ in table} == public


def kind_of(value: type) -> str:
    """Return the folder that a class belongs to, such as ``operators``."""
    return value.__module__.split(".")[1]


def test_operators_md_lists_each_public_method_of_the_hook() -> None:
    inherited = {"get_ui_field_behaviour"} | {name for name in dir(BaseHook) if name != "get_conn"}
    public = {
        name
        for name in dir(PortkeyHook)
        if not name.startswith("_")
        if name not in inherited
        if callable(getattr(PortkeyHook, name)) or isinstance(getattr(PortkeyHook, name), property)
    }
    listed = {name for row in rows(OPERATORS.section("PortkeyHook"), "method") for name in names(row[0])}
    assert listed == public | {"test_connection"}


def test_the_xcom_keys() -> None:
    keys = set(Batch("b", BatchStatus.COMPLETED).to_xcoms())
    assert {key for row in rows(README.text, "XCom key") for key in names(row[0])} <= keys
    listed = {key for row in rows(OPERATORS.section("XComs"), "key") for key in names(row[0])}
    assert listed == keys | {"batch_id"}


def test_the_manifest_s_keys() -> None:
    result = manifest(Batch("b", BatchStatus.COMPLETED), "files", {"output": None, "error": None}, None)
    section = OPERATORS.section("PortkeyDownloadBatchOperator")
    assert {key for row in rows(section, "key") for key in names(row[0])} == result.keys()


def test_the_statuses() -> None:
    [row] = rows(OPERATORS.section("Statuses"), "in flight")
    assert [set(names(cell)) for cell in row] == [set(BatchStatus) - set(TERMINAL_STATUSES), set(TERMINAL_STATUSES)]


def test_connection_md_has_each_field_with_its_default_and_no_other() -> None:
    others: dict[str, object] = {"auth": "portkey", "managed": False}
    defaults = others | {field.name: field.default for field in fields(Settings) if field.default is not MISSING}
    table = {row[0]: names(row[1]) for row in rows(document("docs/connection.md").section("Fields"), "field")}
    assert table.pop("password") == table.pop("port") == []
    assert table.pop("host") == [DEFAULT_BASE_URL]
    extra = {names(name)[0]: default for name, default in table.items()}
    assert extra.keys() == CONNECTION_TYPE["conn-fields"].keys()
    for name, default in extra.items():
        assert default == as_json(defaults.get(name)), name


def as_json(value: object) -> list[str]:
    """Return how a value is written in the connection's JSON, in a list, which is empty for none."""
    if value is None or isinstance(value, (bool, str)):
        return [] if value is None else [str(value).lower()]
    assert isinstance(value, (int, float))
    return [f"{value:g}"]


def test_retries_and_cost_md_says_of_each_exception_whether_airflow_retries_it() -> None:
    table = {
        name: row[1] for row in rows(document("docs/retries-and-cost.md").text, "exception") for name in names(row[0])
    }
    assert table
    for name, answer in table.items():
        error = getattr(exceptions, name)
        is_retried = not issubclass(error, (AirflowFailException, AirflowSensorTimeout))
        assert answer.split(";")[0] == ("yes" if is_retried else "no"), name


def test_retries_and_cost_md_has_the_numbers_of_the_code() -> None:
    page = document("docs/retries-and-cost.md")
    table = {row[0]: row[1] for row in rows(page.section("How often a call is sent"), "what")}
    first = retry.INITIAL_BACKOFF
    assert table["attempts per call"] == str(retry.MAX_ATTEMPTS)
    assert table["backoff before the second and third attempt"].startswith(f"{first:g} s and {2 * first:g} s")
    assert f"`Retry-After` of up to {retry.MAX_INLINE_RETRY_AFTER:g} s" in table
    assert table["the longest `Retry-After` that is honored"] == f"{retry.MAX_RETRY_AFTER:g} s"
    assert f"newest {MAX_LISTED:,}" in page.text
    assert f"`{METADATA_KEY}`" in page.text


def test_architecture_md_lists_each_file_of_the_package() -> None:
    listed = {
        name for row in rows(document("docs/architecture.md").section("The rooms"), "file") for name in names(row[0])
    }
    sources = {path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent == PACKAGE}
    assert listed == {path.relative_to(PACKAGE).as_posix() for path in sources}


def test_the_readme_names_the_oldest_and_the_newest_airflow() -> None:
    versions = re.findall(r"^([\d.]+) ", (REPO / ".ci" / "versions").read_text(), re.M)
    install = README.section("Install")
    assert f"Airflow {versions[-1]} " in install
    assert f" to {versions[0]} " in install
