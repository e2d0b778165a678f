"""Reads the project's Markdown: its documents, and their code blocks, tables, headings and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import airflow_provider_portkey

REPO = Path(__file__).parent.parent.parent
#: Where the package is: in the checkout, or installed.
PACKAGE = Path(airflow_provider_portkey.__file__).parent


@dataclass(frozen=True)
class Block:
    """A fenced code block, and the file that it shows, which an HTML comment on the line before it names."""

    language: str
    file: str | None
    code: str


@dataclass(frozen=True)
class Document:
    """One Markdown file of the repository."""

    path: Path

    @property
    def name(self) -> str:
        """Its path in the repository."""
        return self.path.relative_to(REPO).as_posix()

    @property
    def text(self) -> str:
        """All of it."""
        return self.path.read_text()

    @property
    def prose(self) -> str:
        """All of it but its code blocks."""
        return re.sub(r"^```.*?^```$", "", self.text, flags=re.M | re.S)

    @property
    def blocks(self) -> list[Block]:
        """Its code blocks."""
        found = re.finditer(r"(?:^<!-- (\S+) -->\n)?^```(\w*)\n(.*?)^```$", self.text, re.M | re.S)
        return [Block(match[2], match[1], match[3]) for match in found]

    @property
    def anchors(self) -> set[str]:
        """What a link to one of its headings has behind the ``#``."""
        anchors: set[str] = set()
        for heading in re.findall(r"^#+ (.+)$", self.prose, re.M):
            slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
            copies = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", anchor) is not None for anchor in anchors)
            anchors.add(f"{slug}-{copies}" if copies else slug)
        return anchors

    @property
    def links(self) -> list[str]:
        """The targets of its links and pictures."""
        return re.findall(r"\]\(([^)\s]+)\)", self.prose) + re.findall(r'<img src="([^"]+)"', self.prose)

    @property
    def words_in_code_font(self) -> set[str]:
        """What stands between single backquotes."""
        return set(re.findall(r"`([^`\n]+)`", self.prose))

    def section(self, heading: str) -> str:
        """Return the text below a heading of the second or third level, up to the next heading."""
        match = re.search(rf"^###? {re.escape(heading)}\n(.*?)(?=^##|\Z)", self.text, re.M | re.S)
        if not match:
            raise LookupError(f"{self.name} has no section {heading!r}")
        return match[1]


def documents() -> list[Document]:
    """Return every Markdown file of the repository, in its root and in the folders with documentation."""
    patterns = ("*.md", "docs/*.md", "tests/**/*.md", "example_dags/*.md")
    return [Document(path) for pattern in patterns for path in sorted(REPO.glob(pattern))]


def document(name: str) -> Document:
    """Return one by its path in the repository."""
    return Document(REPO / name)


def rows(text: str, *first_cells: str) -> Iterator[list[str]]:
    """Return the cells of the rows of each table whose header begins with ``first_cells``."""
    for table in re.findall(r"(?:^\|.*\|$\n?)+", text, re.M):
        header, _, *lines = ([cell.strip() for cell in line[1:-1].split("|")] for line in table.strip().split("\n"))
        if header[: len(first_cells)] == list(first_cells):
            yield from lines


def names(cell: str) -> list[str]:
    """Return what a table's cell has in code font."""
    return re.findall(r"`([^`]+)`", cell)
