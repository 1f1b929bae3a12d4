"""The source, parsed, for tests of its shape; and small packages that break a rule."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "screening"
NATIVE_SUFFIXES = {".cpp", ".hpp", ".cu", ".cuh"}


@dataclass(frozen=True)
class Module:
    """A parsed source file of a package."""

    name: str
    path: Path
    tree: ast.Module
    is_package: bool


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def modules_of(package: Path) -> dict[str, Module]:
    """Parse every file of a package, by dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        found[name] = Module(name, path, tree_of(path), is_package)
    return found


@cache
def screening_modules() -> dict[str, Module]:
    return modules_of(PACKAGE)


def absolute(module: Module, node: ast.ImportFrom) -> str:
    """The module that a `from` import names, relative ones resolved."""
    if node.level == 0:
        return node.module or ""
    package = module.name.split(".") if module.is_package else module.name.split(".")[:-1]
    kept = package[: len(package) - (node.level - 1)]
    return ".".join([*kept, *([node.module] if node.module else [])])


def sources() -> list[Path]:
    folders = [PACKAGE, ROOT / "tests", ROOT / "benchmarks", ROOT / "csrc", ROOT / "experiments"]
    kinds = {".py", ".pyi", *NATIVE_SUFFIXES}
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in kinds]


def functions_of(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def package_of(folder: Path, **files: str) -> dict[str, Module]:
    for name, text in files.items():
        path = folder / "screening" / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return modules_of(folder / "screening")
