"""The supported versions and the linters' versions are the same in every file that names them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())
LINES = [line.split() for line in (REPO / ".ci" / "versions").read_text().splitlines() if not line.startswith("#")]
AIRFLOWS = [line[0] for line in LINES]


def read_constraints(airflow: str) -> dict[str, str]:
    return read_pins(f"airflow-{airflow}")


def read_pins(name: str) -> dict[str, str]:
    lines = (REPO / ".ci" / "constraints" / f"{name}.txt").read_text().splitlines()
    pairs = [line.partition("==") for line in lines if not line.startswith("#")]
    return {name: version for name, _, version in pairs}


def as_numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_the_newest_airflow_is_listed_first_because_make_test_uses_it() -> None:
    assert sorted(AIRFLOWS, key=as_numbers, reverse=True) == AIRFLOWS


@pytest.mark.parametrize("airflow", AIRFLOWS)
def test_each_supported_airflow_has_constraints_that_pin_it(airflow: str) -> None:
    assert read_constraints(airflow)["apache-airflow"].startswith(f"{airflow}.")


def test_the_oldest_supported_airflow_is_the_lower_bound_of_the_requirement() -> None:
    [requirement] = [d for d in PYPROJECT["project"]["dependencies"] if d.startswith("apache-airflow>")]
    assert requirement.startswith(f"apache-airflow>={AIRFLOWS[-1]},")


def test_the_lowest_version_that_each_dependency_may_have_is_tested() -> None:
    allowed = dict(re.findall(r"^([\w-]+)>=([\d.]+)", "\n".join(PYPROJECT["project"]["dependencies"]), re.MULTILINE))
    assert len(allowed) == len(PYPROJECT["project"]["dependencies"])
    pins = read_pins("lowest")
    assert {name: version for name, version in allowed.items() if not f"{pins[name]}.".startswith(f"{version}.")} == {}


def test_the_classifiers_name_every_python_that_is_tested() -> None:
    classifiers = PYPROJECT["project"]["classifiers"]
    assert not [line for line in LINES if f"Programming Language :: Python :: {line[1]}" not in classifiers]


def test_pre_commit_runs_the_linters_in_the_versions_of_make_lint() -> None:
    config = (REPO / ".pre-commit-config.yaml").read_text()
    revisions = dict(re.findall(r"repo: \S+/(\S+)\n +rev: (\S+)", config))
    pinned = read_constraints(AIRFLOWS[0])
    assert revisions == {"ruff-pre-commit": f"v{pinned['ruff']}", "codespell": f"v{pinned['codespell']}"}


@pytest.mark.parametrize("airflow", AIRFLOWS)
def test_the_constraints_of_each_airflow_pin_every_linter(airflow: str) -> None:
    assert set(PYPROJECT["dependency-groups"]["lint"]) <= read_constraints(airflow).keys()


def test_the_constraints_of_the_newest_airflow_pin_what_builds_and_checks_the_wheel() -> None:
    assert set(PYPROJECT["dependency-groups"]["dist"]) <= read_constraints(AIRFLOWS[0]).keys()
