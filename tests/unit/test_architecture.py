"""The size of each file, the direction of imports, and what the pure modules may import."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import airflow_provider_portkey
from tests.conftest import REPO

PACKAGE = "airflow_provider_portkey"
#: The package that is imported: of the checkout, or in a test of the wheel the installed one.
PACKAGE_FOLDER = Path(airflow_provider_portkey.__file__).parent
MAX_PACKAGE_LINES, MAX_TEST_LINES = 450, 500

#: Modules, or whole folders, from the bottom to the top. A module imports only from layers below its own; the files of
#: one folder may import each other. A new module needs a place here.
LAYERS = [
    ["__init__", "get_provider_info"],
    ["text", "http", "headers", "fast_json", "row_figures", "lineage"],
    ["batch", "exceptions", "provider_file"],
    ["problems", "verdict", "wait"],
    ["settings", "events"],
    ["retry"],
    ["failures"],
    ["batch_input", "calls", "files"],
    ["answers"],
    ["manifest"],
    ["transport"],
    ["hooks"],
    ["attempts", "triggers"],
    ["creation"],
    ["task"],
    ["sensors", "operators"],
]
#: Modules that decide and do no I/O: of ours they import each other and ``exceptions`` alone, which is the one that
#: imports Airflow; of others only the standard library.
PURE = ["__init__", "get_provider_info", "text", "http", "headers", "batch", "problems", "verdict", "wait", "settings"]
PURE += ["events", "retry", "failures", "calls", "provider_file"]
#: Standard libraries that do I/O.
IO_LIBRARIES = {
    "asyncio",
    "http",
    "io",
    "os",
    "pathlib",
    "select",
    "shutil",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "urllib.request",
}
#: What a pure module may import in spite of that, inside a function.
ALLOWED_IN_FUNCTIONS = {("retry", "tenacity")}
#: Names of such libraries that do no I/O.
ALLOWED_NAMES = {("failures", "socket", "gaierror")}


@dataclass(frozen=True)
class Import:
    """An import statement that is executed: not one for type checkers alone."""

    file: Path
    line: int
    module: str
    #: The imported name; ``None`` if the module itself is imported.
    name: str | None
    in_function: bool

    def __str__(self) -> str:
        what = self.module if self.name is None else f"{self.module}.{self.name}"
        return f"{self.file}:{self.line} imports {what}"


@cache
def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def imports(file: Path) -> list[Import]:
    """Return the executed imports of a file, those inside functions included."""

    def walk(node: ast.AST, in_function: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, None, in_function)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno}: a relative import, which these tests do not resolve"
            for alias in node.names:
                yield Import(file, node.lineno, node.module or "", alias.name, in_function)
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        children: Iterable[ast.AST] = ast.iter_child_nodes(node)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            children = node.orelse
        for child in children:
            yield from walk(child, in_function or is_function)

    return list(walk(parse(file), False))


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def module_of(file: Path) -> str:
    """Return the name of a module within the package: ``text``, ``hooks.portkey``, ``hooks``."""
    parts = file.relative_to(PACKAGE_FOLDER).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_of(file): file for file in files(PACKAGE_FOLDER)}


def imported_module(found: Import) -> str | None:
    """Return which module of the package an import loads, ``None`` if it is not one of ours."""
    if found.module.partition(".")[0] != PACKAGE:
        return None
    module = found.module.removeprefix(PACKAGE).removeprefix(".")
    submodule = ".".join(filter(None, [module, found.name]))
    return submodule if submodule in MODULES else module or "__init__"


def layer_of(module: str) -> int | None:
    return next((n for n, layer in enumerate(LAYERS) if module in layer or module.partition(".")[0] in layer), None)


def is_in_same_folder(one: str, other: str) -> bool:
    return "." in one and one.partition(".")[0] == other.partition(".")[0]


PACKAGE_IMPORTS = [(module, found) for module, file in MODULES.items() for found in imports(file)]


def test_no_package_file_has_more_than_450_lines() -> None:
    sizes = {str(file): len(file.read_text().splitlines()) for file in MODULES.values()}
    assert {name: size for name, size in sizes.items() if size > MAX_PACKAGE_LINES} == {}


def test_no_test_file_has_more_than_500_lines() -> None:
    sizes = {str(file.relative_to(REPO)): len(file.read_text().splitlines()) for file in files(REPO / "tests")}
    assert {name: size for name, size in sizes.items() if size > MAX_TEST_LINES} == {}


def test_every_module_has_a_layer() -> None:
    assert [module for module in MODULES if layer_of(module) is None] == []


def test_every_layer_has_modules() -> None:
    folders = {module.partition(".")[0] for module in MODULES}
    assert [name for layer in LAYERS for name in layer if name not in folders] == []


def test_a_module_imports_only_from_lower_layers() -> None:
    wrong = []
    for module, found in PACKAGE_IMPORTS:
        imported = imported_module(found)
        if imported is None or is_in_same_folder(module, imported):
            continue
        own, other = layer_of(module), layer_of(imported)
        if own is not None and other is not None and other >= own:
            wrong.append(f"{found}, which is not below it")
    assert wrong == []


def test_no_modules_import_each_other_in_a_cycle() -> None:
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for module, found in PACKAGE_IMPORTS:
        if imported := imported_module(found):
            graph[module].add(imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle = " imports ".join(reversed(error.args[1]))
        raise AssertionError(f"An import cycle: {cycle}") from None


def test_pure_modules_import_neither_airflow_nor_libraries_nor_io() -> None:
    wrong = []
    for module, found in PACKAGE_IMPORTS:
        if module not in PURE:
            continue
        imported, library = imported_module(found), found.module.partition(".")[0]
        if imported is not None:
            is_pure = imported in [*PURE, "exceptions"]
        elif (module, library) in ALLOWED_IN_FUNCTIONS:
            is_pure = found.in_function
        elif (module, found.module, found.name) in ALLOWED_NAMES:
            is_pure = True
        else:
            is_pure = library in sys.stdlib_module_names and not {library, found.module} & IO_LIBRARIES
        if not is_pure:
            wrong.append(str(found))
    assert wrong == []


def test_names_with_a_leading_underscore_stay_in_their_file() -> None:
    wrong = []
    for file in MODULES.values():
        of_ours = [found for found in imports(file) if imported_module(found) is not None]
        wrong += [str(found) for found in of_ours if found.name and is_private(found.name)]
        names = {found.name or found.module for found in of_ours}
        for node in ast.walk(parse(file)):
            if isinstance(node, ast.Attribute) and is_private(node.attr) and ast.unparse(node.value) in names:
                wrong.append(f"{file}:{node.lineno} uses {ast.unparse(node)}")
    assert wrong == []


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def test_no_test_module_is_imported_by_another() -> None:
    def is_test_module(name: str | None) -> bool:
        return bool(name) and (str(name).startswith("test_") or name == "scenarios")

    wrong = []
    for file in files(REPO / "tests"):
        for found in imports(file):
            parts = [*found.module.split("."), found.name]
            if parts[0] == "tests" and any(map(is_test_module, parts)):
                wrong.append(str(found))
    assert wrong == []
