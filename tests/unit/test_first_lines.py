"""The first line of every error says cause and remedy in at most 100 characters, however long ids and texts are."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from airflow_provider_portkey import exceptions
from airflow_provider_portkey.exceptions import PortkeyApiError, PortkeyError
from airflow_provider_portkey.text import MAX_FIRST_LINE
from tests.unit.error_cases import CASES, Case

#: Base classes that the package never raises themselves.
NEVER_RAISED = {PortkeyApiError}


@pytest.mark.parametrize("case", CASES, ids=[f"{case.kind.__name__}: {case.name}" for case in CASES])
def test_the_first_line_says_cause_and_remedy_in_100_characters(case: Case) -> None:
    with pytest.raises(PortkeyError) as caught:
        case.run()
    assert type(caught.value) is case.kind
    first, *details = str(caught.value).splitlines()
    assert len(first) <= MAX_FIRST_LINE == 100
    assert [words for words in case.words if words not in first] == []
    assert bool(details) is case.has_details


def test_every_error_class_has_a_case() -> None:
    classes = {kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, PortkeyError)}
    assert {case.kind for case in CASES} == classes - NEVER_RAISED


def test_the_package_raises_none_of_the_base_classes() -> None:
    names = {kind.__name__ for kind in NEVER_RAISED}
    calls = [
        f"{file}:{node.lineno}"
        for file in sorted(Path(exceptions.__file__).parent.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    ]
    assert calls == []
