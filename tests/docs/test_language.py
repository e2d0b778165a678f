"""The documentation and the example DAGs use the words of CONTRIBUTING.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.markdown import REPO, document, documents

AVOIDED = re.compile(
    r"\b(a look|looks? (again|at)|to look(?! up)|nothing tells|of use|told|goes on|can't be meant|doubled|by then"
    r"|alike)\b",
    re.IGNORECASE,
)
# The changelog names what was renamed.
FILES = [found.path for found in documents() if found.name != "CHANGELOG.md"] + sorted(
    (REPO / "example_dags").glob("*.py")
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(REPO).as_posix())
def test_no_word_of_the_list_of_avoided_words_is_used(path: Path) -> None:
    text = path.read_text()
    if path.name == "CONTRIBUTING.md":
        text = text.replace(document("CONTRIBUTING.md").section("Words"), "")
    assert [match[0] for match in AVOIDED.finditer(text)] == []
