"""A parameter of one name is the same in every public class, and each is documented."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from typing import Any

import pytest

from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.operators import batch as operators
from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor
from airflow_provider_portkey.triggers.batch import PortkeyBatchTrigger
from airflow_provider_portkey.triggers.batch_ended import PortkeyBatchEndedTrigger

OPERATORS: list[type[Any]] = [PortkeyBatchSensor, *(getattr(operators, name) for name in operators.__all__)]
PUBLIC_CLASSES: list[type[Any]] = [PortkeyHook, *OPERATORS, PortkeyBatchTrigger, PortkeyBatchEndedTrigger]


def parameters(kind: type[Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a class's own constructor, without ``kwargs``."""
    found = inspect.signature(kind).parameters.values()
    return {one.name: one for one in found if one.kind is not inspect.Parameter.VAR_KEYWORD}


def documented(kind: type[Any]) -> dict[str, str]:
    """Return the text of each ``:param name:`` in a class's docstring, white space folded."""
    fields = re.findall(r"^:param (\w+):(.*?)(?=^:|^\S|\Z)", inspect.getdoc(kind) or "", re.MULTILINE | re.DOTALL)
    assert len(fields) == len(dict(fields)), f"{kind.__name__} documents a parameter twice"
    return {name: " ".join(text.split()) for name, text in fields}


def differences(values: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the parameters, by name, whose values differ between classes."""
    return {name: by_class for name, by_class in values.items() if len(set(map(repr, by_class.values()))) > 1}


def by_parameter(of: Any) -> dict[str, dict[str, Any]]:
    """Return what ``of(class, parameter)`` gives, by the parameter's name and then by the class's."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for kind in PUBLIC_CLASSES:
        for name, parameter in parameters(kind).items():
            found[name][kind.__name__] = of(kind, parameter)
    return found


def test_parameters_of_one_name_have_one_default() -> None:
    assert differences(by_parameter(lambda kind, parameter: parameter.default)) == {}


def test_parameters_of_one_name_have_one_annotation() -> None:
    assert differences(by_parameter(lambda kind, parameter: parameter.annotation)) == {}


def test_parameters_of_one_name_have_one_sentence_in_docstrings() -> None:
    assert differences(by_parameter(lambda kind, parameter: documented(kind).get(parameter.name))) == {}


@pytest.mark.parametrize("kind", PUBLIC_CLASSES)
def test_exactly_the_parameters_of_a_class_are_documented(kind: type[Any]) -> None:
    assert parameters(kind).keys() - documented(kind).keys() == set()
    assert documented(kind).keys() - parameters(kind).keys() - {"kwargs"} == set()
    assert all(documented(kind).values())


@pytest.mark.parametrize("kind", OPERATORS)
def test_exactly_the_templated_parameters_are_documented_as_such(kind: type[Any]) -> None:
    text = " ".join((inspect.getdoc(kind) or "").split())
    sentence = re.search(r"((?:``\w+``(?:, | and )?)+) are templated\.", text)
    assert sentence is not None
    assert re.findall(r"``(\w+)``", sentence[1]) == list(kind.template_fields)
    assert set(kind.template_fields) <= parameters(kind).keys()


def test_serialize_has_exactly_the_parameters_of_the_trigger() -> None:
    path, arguments = PortkeyBatchTrigger("batch_1").serialize()
    assert path == "airflow_provider_portkey.triggers.batch.PortkeyBatchTrigger"
    assert list(arguments) == list(parameters(PortkeyBatchTrigger))
