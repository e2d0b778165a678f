"""Every link leads somewhere, and every path, target and name that the documentation mentions exists."""

from __future__ import annotations

import importlib
import pkgutil
import re

import pytest

import airflow_provider_portkey
from tests.support.markdown import PACKAGE, REPO, Document, document, documents

DOCUMENTS = pytest.mark.parametrize("document", documents(), ids=lambda document: document.name)
#: A path of the repository in code font, with ``*`` for any name.
PATH = re.compile(r"(?:airflow_provider_portkey|tests|docs|example_dags|\.ci)/[\w./*-]*|[A-Z]+\.md|pyproject\.toml")


@DOCUMENTS
def test_every_relative_link_leads_to_a_file_and_a_heading(document: Document) -> None:
    for link in document.links:
        if re.match(r"[a-z]+:", link):
            assert link.startswith("https://"), link
            continue
        file, _, anchor = link.partition("#")
        path = (document.path.parent / file).resolve() if file else document.path
        assert path.exists(), f"{document.name}: {link}"
        assert not anchor or anchor in Document(path).anchors, f"{document.name}: {link}"


def test_every_document_is_linked_from_the_readme() -> None:
    linked = {link.partition("#")[0] for link in document("README.md").links}
    assert {found.name for found in documents() if "/" not in found.name or found.name.startswith("docs/")} <= (
        linked | {"README.md"}
    )


def test_every_picture_is_shown_in_a_document() -> None:
    shown = {(found.path.parent / link).resolve() for found in documents() for link in found.links}
    assert set((REPO / "docs").glob("*.png")) <= shown


@DOCUMENTS
def test_every_path_in_code_font_exists(document: Document) -> None:
    for path in filter(PATH.fullmatch, document.words_in_code_font):
        # In a test of the installed wheel the package is elsewhere.
        inside = path.removeprefix("airflow_provider_portkey/")
        root = REPO if inside == path else PACKAGE
        assert list(root.glob(inside)) if inside else root.exists(), f"{document.name}: {path}"


@DOCUMENTS
def test_every_make_target_and_leg_exists(document: Document) -> None:
    targets = re.findall(r"^([a-z]+):", (REPO / "Makefile").read_text(), re.M)
    for target in re.findall(r"^make ([a-z]+)", "\n".join(document.words_in_code_font), re.M):
        assert target in targets, f"{document.name}: make {target}"


@DOCUMENTS
def test_every_class_of_ours_exists(document: Document) -> None:
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.walk_packages(airflow_provider_portkey.__path__, "airflow_provider_portkey.")
    ]
    known = {name for module in modules for name in vars(module)}
    for name in re.findall(r"\bPortkey[A-Z]\w+", document.text):
        assert name in known, f"{document.name}: {name}"


def test_the_readme_has_at_most_200_lines() -> None:
    assert len(document("README.md").text.splitlines()) <= 200
