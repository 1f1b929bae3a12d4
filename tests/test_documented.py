"""What is public says what it does, and with which types."""

import ast
import pkgutil
from collections.abc import Iterator
from pathlib import Path

from parsed_source import Module, absolute, functions_of, package_of, screening_modules


def contracts(modules: dict[str, Module]) -> set[str]:
    """Names of methods that some class of the package declares abstract and documents."""
    return {
        function.name
        for module in modules.values()
        for function in functions_of(module.tree)
        if ast.get_docstring(function) and any("abstract" in ast.unparse(d) for d in function.decorator_list)
    }


def public_members(tree: ast.Module) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Public classes and functions of a module, and public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                methods = [m for m in node.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef)]
                yield from ((f"{node.name}.{m.name}", m) for m in methods if not m.name.startswith("_"))


def is_overload(node: ast.AST) -> bool:
    return any("overload" in ast.unparse(d) for d in getattr(node, "decorator_list", []))


def foreign_contract(module: Module, node: ast.ClassDef) -> set[str]:
    """Names of what a class inherits from bases outside the package, such as `io.RawIOBase`, documented there."""
    names: set[str] = set()
    for statement in module.tree.body:
        if isinstance(statement, ast.Import):
            origins = {alias.asname or alias.name: alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and not absolute(module, statement).startswith("screening"):
            origins = {alias.asname or alias.name: f"{statement.module}.{alias.name}" for alias in statement.names}
        else:
            continue
        for base in (ast.unparse(base).split("[")[0] for base in node.bases):
            first, *rest = base.split(".")
            if first in origins:
                names |= set(dir(pkgutil.resolve_name(".".join([origins[first], *rest]))))
    return names


def undocumented(modules: dict[str, Module]) -> list[str]:
    """Public names without a docstring; a method may inherit it from what it overrides."""
    inherited = contracts(modules)
    found = []
    for module in modules.values():
        foreign: set[str] = set()
        for name, node in public_members(module.tree):
            if isinstance(node, ast.ClassDef):
                foreign = foreign_contract(module, node)
            overrides = "." in name and node.name in inherited | foreign
            if not ast.get_docstring(node) and not is_overload(node) and not overrides:
                found.append(f"{module.name}:{node.lineno} {name}")
    return found


def unannotated(modules: dict[str, Module]) -> list[str]:
    """Public functions with a parameter or a result without a type."""
    found = []
    for module in modules.values():
        for name, node in public_members(module.tree):
            if isinstance(node, ast.ClassDef):
                continue
            takes = node.args
            extra = [a for a in (takes.vararg, takes.kwarg) if a]
            parameters = [*takes.posonlyargs, *takes.args, *takes.kwonlyargs, *extra]
            bare = [a.arg for a in parameters if a.annotation is None and a.arg not in ("self", "cls")]
            if bare or node.returns is None:
                found.append(f"{module.name}:{node.lineno} {name}")
    return found


def test_public_names_are_documented() -> None:
    assert undocumented(screening_modules()) == []


def test_modules_are_documented() -> None:
    bare = [m.name for m in screening_modules().values() if m.tree.body and not ast.get_docstring(m.tree)]
    assert bare == []


def test_public_functions_are_annotated() -> None:
    assert unannotated(screening_modules()) == []


def test_missing_docstrings_and_types_are_found(tmp_path: Path) -> None:
    lines = [
        "import io",
        "def documented(x: int) -> int: 'Add.'",
        "def bare(x): ...",
        "class Thing:",
        "    def act(self): ...",
        "class Sink(io.RawIOBase):",
        "    'Takes.'",
        "    def readable(self) -> bool: ...",
        "    def own(self) -> None: ...",
    ]
    modules = package_of(tmp_path, ops__case="\n".join(lines))
    bare = ["3 bare", "4 Thing", "5 Thing.act", "9 Sink.own"]
    assert undocumented(modules) == [f"screening.ops.case:{name}" for name in bare]
    assert unannotated(modules) == ["screening.ops.case:3 bare", "screening.ops.case:5 Thing.act"]
