"""The shape of the source: who may import whom, how long things get, what is never named."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from parsed_source import (
    NATIVE_SUFFIXES,
    PACKAGE,
    ROOT,
    Module,
    absolute,
    functions_of,
    package_of,
    screening_modules,
    sources,
    tree_of,
)

import screening

# Lowest first. A module may import from its own layer and those below it; docs/architecture.md draws the same list.
LAYERS = (
    ("arrays", "errors", "config", "machine", "locking", "signals", "version", "files"),
    ("ops",),
    ("crystals", "predictions", "relaxation_limits", "runs.plan"),
    ("store", "enumerate"),
    ("graphs", "query", "report"),
    ("models", "pretrained"),
    ("training", "inference", "relaxation"),
    ("runs", "doctor"),
    ("cli", "__main__"),
)
# The package's own face re-exports from any layer, lazily; only the command line may look at it.
FACE = "screening"
# Who writes through to the disk: the one way to write files, and what is rewritten in place, because other hosts see
# that sooner than another file of the same name.
SYNCHRONISES = {
    *("screening.files.lines", "screening.files.sink", "screening.files.whole"),
    *("screening.runs.claim", "screening.training.together"),
}
SOLE_CORE_IMPORTER = "screening.ops.core"
NEEDS_TORCH = (
    "screening.models",
    "screening.training",
    "screening.inference",
    "screening.relaxation",
    "screening.ops.message",
    "screening.ops.steady",
    "screening.runs.predictor",
)
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "manager", "data", "info", "misc"}
FILE_LINES, NATIVE_FILE_LINES, FUNCTION_LINES = 500, 400, 80


@dataclass(frozen=True)
class Import:
    """One imported module, the line, and whether it happens when the importing module is loaded."""

    name: str
    line: int
    at_load: bool


def imports_of(module: Module, known: frozenset[str]) -> Iterator[Import]:
    """Every import of a module, inside functions too, but not those for type checkers alone: they never run."""

    def walk(node: ast.AST, at_load: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for otherwise in node.orelse:
                yield from walk(otherwise, at_load)
            return
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, at_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = absolute(module, node)
            for alias in node.names:
                member = f"{source}.{alias.name}"
                is_module = member in known or member == "screening._core"
                yield Import(member if is_module else source, node.lineno, at_load)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_load and not inside)

    return walk(module.tree, True)


def layer_of(name: str) -> int | None:
    """The layer of a module by the longest entry that it is or lies in; None when it has none."""
    if name == FACE:
        return len(LAYERS)
    inside = name.removeprefix("screening.")
    entries = {entry: level for level, layer in enumerate(LAYERS) for entry in layer}
    fitting = [entry for entry in entries if inside == entry or inside.startswith(entry + ".")]
    return entries[max(fitting, key=len)] if fitting else None


def upward_imports(modules: dict[str, Module]) -> list[str]:
    """Imports that go up, in words."""
    known = frozenset(modules)
    found = []
    for module in modules.values():
        own = layer_of(module.name)
        for imported in imports_of(module, known):
            theirs = layer_of(imported.name) if imported.name in known else None
            allowed = theirs is None or own is None or theirs <= own
            if imported.name == FACE and module.name.startswith("screening.cli"):
                allowed = True
            if not allowed:
                found.append(f"{module.name}:{imported.line} imports {imported.name}, which lies above it")
    return found


def import_cycle(modules: dict[str, Module]) -> list[str]:
    """One import cycle among the modules, late imports counted; empty when there is none."""
    known = frozenset(modules)
    graph = {name: {i.name for i in imports_of(module, known)} & known - {name} for name, module in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_module_has_a_layer() -> None:
    homeless = [name for name in screening_modules() if layer_of(name) is None]
    assert not homeless, f"{homeless} belong to no layer; add them to LAYERS here and to docs/architecture.md"


def test_no_import_goes_up() -> None:
    assert upward_imports(screening_modules()) == []


def test_no_import_cycle() -> None:
    assert import_cycle(screening_modules()) == []


def test_native_module_has_one_importer() -> None:
    modules = screening_modules()
    importers = {m.name for m in modules.values() for i in imports_of(m, frozenset(modules)) if "_core" in i.name}
    assert importers <= {SOLE_CORE_IMPORTER}, f"only {SOLE_CORE_IMPORTER} may import _core"


def test_only_the_face_imports_by_name() -> None:
    by_name = ("import_module", "__import__")
    users = {m.name for m in screening_modules().values() if any(word in ast.unparse(m.tree) for word in by_name)}
    assert users <= {FACE}, "an import by name hides from the tests above"


def borrowed_names(modules: dict[str, Module], users: Iterable[Module]) -> list[str]:
    """Names that are taken from a module which only imports them, or handed on as `X as X`, in words."""
    lent = {name: imported_names(m) for name, m in modules.items() if not m.is_package}
    found = []
    for user in users:
        opened = {}
        for node in ast.walk(user.tree):
            if isinstance(node, ast.ImportFrom):
                source = absolute(user, node)
                for alias in node.names:
                    opened[alias.asname or alias.name] = f"{source}.{alias.name}"
                    if alias.name in lent.get(source, ()) and f"{source}.{alias.name}" not in modules:
                        found.append(f"{user.name}:{node.lineno} takes {alias.name} from {source}, which imports it")
                    elif alias.name == alias.asname and not user.is_package:
                        found.append(f"{user.name}:{node.lineno} hands {alias.name} on")
        for node in ast.walk(user.tree):
            is_read = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
            if is_read and isinstance(node.value, ast.Name):
                source = opened.get(node.value.id, "")
                if node.attr in lent.get(source, ()):
                    found.append(f"{user.name}:{node.lineno} takes {node.attr} from {source}, which imports it")
    return found


def imported_names(module: Module) -> set[str]:
    """What a module imports when it is loaded, by the names it has there."""
    imports = (node for node in module.tree.body if isinstance(node, ast.ImportFrom))
    return {alias.asname or alias.name for node in imports for alias in node.names}


def test_every_name_has_one_home() -> None:
    modules = screening_modules()
    outside = [path for path in sources() if path.suffix == ".py" and PACKAGE not in path.parents]
    others = [Module(str(p.relative_to(ROOT)), p, tree_of(p), False) for p in outside]
    assert borrowed_names(modules, [*modules.values(), *others]) == [], "import it from the module that defines it"


def synchronisers(modules: Iterable[Module]) -> set[str]:
    """Modules that name fsync or fdatasync, however they came by it."""
    calls = ("fsync", "fdatasync")
    return {
        module.name
        for module in modules
        for node in ast.walk(module.tree)
        if getattr(node, "attr", "") in calls or (isinstance(node, ast.alias) and node.name in calls)
    }


def test_files_are_written_in_one_way() -> None:
    assert synchronisers(screening_modules().values()) == SYNCHRONISES, "write it with screening/files/whole.py"


def test_torch_is_loaded_late_outside_the_models() -> None:
    modules = screening_modules()
    early = [
        f"{m.name}:{i.line}"
        for m in modules.values()
        if not m.name.startswith(NEEDS_TORCH)
        for i in imports_of(m, frozenset(modules))
        if i.at_load and i.name.split(".")[0] == "torch"
    ]
    assert early == [], "login-node commands must start without torch: import it in the function that needs it"


@pytest.mark.parametrize("module", ["screening", "screening.cli", "screening.doctor", "screening.ops.neighbors"])
def test_start_up_loads_no_heavy_package(module: str) -> None:
    heavy = ("torch", "pymatgen", "ase", "polars", "pandas", "matplotlib", "scipy")
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & set({heavy!r})))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == []


def test_the_face_names_where_each_public_name_lives() -> None:
    """Type checkers read imports, programs a table: both list the same, in order, and each name is there."""
    typed = next(node for node in screening_modules()[FACE].tree.body if isinstance(node, ast.If))
    imported = [(alias.asname, node.module) for node in typed.body for alias in node.names]  # type: ignore[attr-defined]
    assert screening.__all__ == sorted(screening.__all__)
    assert dict(imported) == {name: screening._HOME[name] for name in screening.__all__}
    assert [name for name in screening.__all__ if getattr(screening, name).__name__ != name] == []


def test_architecture_page_draws_these_layers(root: Path) -> None:
    page = (root / "docs/architecture.md").read_text(encoding="utf-8")
    drawn = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| ") and "`" in line]
    named = {
        int(level): tuple(part.strip(" `") for part in names.split(","))
        for level, names in drawn
        if level.strip().isdigit()
    }
    assert named == dict(enumerate(LAYERS))


def test_no_file_has_a_name_that_says_nothing() -> None:
    empty = [path for path in sources() if path.stem in FORBIDDEN_NAMES or path.parent.name in FORBIDDEN_NAMES]
    assert empty == [], "name a file for the one thing that it owns"


def test_no_file_is_long() -> None:
    limits = {path: NATIVE_FILE_LINES if path.suffix in NATIVE_SUFFIXES else FILE_LINES for path in sources()}
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in limits}
    assert [f"{p.relative_to(ROOT)}: {n} lines" for p, n in lines.items() if n > limits[p]] == []


def length_without_docstring(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (function.end_lineno or 0) - (body[0].lineno if body else function.lineno) + 1


def test_no_function_is_long() -> None:
    python = [path for path in sources() if path.suffix == ".py"]
    long = [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
        for path in python
        for function in functions_of(tree_of(path))
        if length_without_docstring(function) > FUNCTION_LINES
    ]
    assert long == []


def test_nothing_is_called_get() -> None:
    named = [f"{m.name}.{f.name}" for m in screening_modules().values() for f in functions_of(m.tree)]
    assert [name for name in named if ".get_" in name] == [], "say what is made or found, not that it is got"


# The rules above must be able to fail: small packages that break each of them.


@pytest.mark.parametrize(
    "text",
    [
        "from screening import cli",
        "import screening.cli",
        "from .. import cli",
        "from ..cli import main",
        "def late():\n    from screening.cli import main",
        "try:\n    from screening.cli import main\nexcept ImportError:\n    pass",
    ],
)
def test_an_upward_import_is_found(tmp_path: Path, text: str) -> None:
    modules = package_of(tmp_path, crystals__read=text, cli="def main(): ...")
    assert [found.split(" imports ")[1] for found in upward_imports(modules)] == ["screening.cli, which lies above it"]


def test_downward_and_type_only_imports_are_fine(tmp_path: Path) -> None:
    type_only = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from screening import cli"
    modules = package_of(tmp_path, crystals__read=type_only, cli="from screening.crystals import read")
    assert upward_imports(modules) == []
    assert import_cycle(modules) == []


def test_a_cycle_of_late_imports_is_found(tmp_path: Path) -> None:
    modules = package_of(
        tmp_path,
        crystals__a="def f():\n    from screening.crystals import b",
        crystals__b="from screening.crystals import c",
        crystals__c="from .a import f",
    )
    assert {f"screening.crystals.{name}" for name in "abc"} <= set(import_cycle(modules))


def test_a_name_with_two_homes_is_found(tmp_path: Path) -> None:
    modules = package_of(
        tmp_path,
        errors="class Error: ...",
        ops__a="from screening.errors import Error\nX = 1",
        ops__b="from screening.ops.a import Error, X",
        ops__c="from screening.ops import a\nprint(a.Error, a.X)",
        ops__d="from screening.ops.a import X as X",
    )
    modules["screening"] = replace(modules["screening.ops.d"], name="screening", is_package=True)
    assert borrowed_names(modules, modules.values()) == [
        "screening.ops.b:1 takes Error from screening.ops.a, which imports it",
        "screening.ops.c:2 takes Error from screening.ops.a, which imports it",
        "screening.ops.d:1 hands X on",
    ]


def test_another_way_to_write_files_is_found(tmp_path: Path) -> None:
    modules = package_of(
        tmp_path,
        ops__a="import os\nos.fsync(1)",
        ops__b="from os import fdatasync as late",
        ops__c="import os\ndef f():\n    os.sync()",
    )
    assert synchronisers(modules.values()) == {"screening.ops.a", "screening.ops.b"}


def test_a_module_without_a_layer_is_found(tmp_path: Path) -> None:
    assert [layer_of(name) for name in package_of(tmp_path, elsewhere="")] == [None]
    assert layer_of("screening.runs.plan") == layer_of("screening.crystals.batch")
    assert layer_of("screening.runs.worker") == layer_of("screening.doctor")
