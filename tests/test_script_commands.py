"""Commands that docstrings of benchmarks and experiments, the pages and the Makefile name: each is one that parses."""

import argparse
import ast
import re
import runpy
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = [
    path
    for folder in ("benchmarks", "experiments")
    for path in sorted((ROOT / folder).glob("*.py"))
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# A line of its own, or in backticks; what is said of it follows after two blanks.
COMMAND = re.compile(
    r"(?:^ {4}|`)(?:PYTHONPATH=\. )?"
    r"(?:(?:\.venv/bin/)?python (?P<script>(?:benchmarks|experiments)/\w+\.py)|make (?P<target>bench[\w-]*))"
    r"(?P<words>[^`\n]*)",
    re.MULTILINE,
)
# What stands for a number.
NUMBERS = {"N", "H"}


def recipes() -> dict[str, list[str]]:
    """The scripts that each target of the Makefile runs with its ARGS."""
    found: dict[str, list[str]] = {}
    target = ""
    for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines():
        if head := re.match(r"([\w-]+):", line):
            target = head[1]
        elif ran := re.fullmatch(r"\t@\.venv/bin/python (benchmarks/\w+\.py) \$\(ARGS\)", line):
            found.setdefault(target, []).append(ran[1])
    return found


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Scripts and their words, as a shell would give them, in what a text names."""
    for found in COMMAND.finditer(re.sub(r" *\\\n *", " ", text)):
        words = words_of(re.split(r"\s{2,}|#", found["words"])[0])
        if found["script"]:
            yield found["script"], words
            continue
        inner = [word for argument in words for word in words_of(argument.removeprefix("ARGS="))]
        for script in recipes()[found["target"]]:
            yield script, inner


def words_of(text: str) -> list[str]:
    """Words without the brackets of what may be left out, and with what braces stand for."""
    words = [word.strip("[]").removesuffix("...") for word in shlex.split(text)]
    split = [re.fullmatch(r"(.*)\{(\w+),(\w+)\}(.*)", word) for word in words]
    both = [[f"{m[1]}{m[k]}{m[4]}" for k in (2, 3)] if m else [word] for m, word in zip(split, words, strict=True)]
    return ["1" if word in NUMBERS else word for each in both for word in each]


class Parsed(Exception):
    """Raised when the words of a script have been understood, in place of doing what they say."""


def understand(script: str, words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script up to where its words are parsed."""
    whole = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *given: object) -> None:
        whole(self, *given)  # type: ignore[call-overload]
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        patch.setattr(sys, "argv", [script, *words])
        patch.setattr(sys, "path", list(sys.path))
        with pytest.raises(Parsed):
            runpy.run_path(str(ROOT / script), run_name="__main__")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_in_a_docstring_parse(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = list(commands(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""))
    assert str(path.relative_to(ROOT)) in {script for script, _ in named}, "a script says how it is called"
    for script, words in named:
        understand(script, words, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_parse(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for script, words in commands(page.read_text(encoding="utf-8")):
        understand(script, words, monkeypatch)


def test_commands_are_found_and_wrong_ones_are_not_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        '    make bench ARGS="--only read_cif"   one of them\n'
        "then `make bench-cluster`, or\n"
        "    PYTHONPATH=. .venv/bin/python experiments/enumerate_volumes.py data/{train,val}.xyz\n"
        "    python benchmarks/cluster.py [--quick] \\\n        [--workers N]\n"
    )
    assert list(commands(text)) == [
        ("benchmarks/bench.py", ["--only", "read_cif"]),
        ("benchmarks/cluster.py", []),
        ("experiments/enumerate_volumes.py", ["data/train.xyz", "data/val.xyz"]),
        ("benchmarks/cluster.py", ["--quick", "--workers", "1"]),
    ]
    for script, wrong in (
        ("experiments/multitask_study.py", ["runs/multitask", "--share", "1/2"]),
        ("benchmarks/read_cif.py", ["--data", "FILE"]),
    ):
        with pytest.raises(SystemExit):
            understand(script, wrong, monkeypatch)


def test_pages_name_commands_of_both_kinds() -> None:
    named = {script for page in PAGES for script, _ in commands(page.read_text(encoding="utf-8"))}
    assert {"benchmarks/bench.py", "benchmarks/million.py", "benchmarks/neighbor_lists.py"} < named
    assert {"experiments/multitask_study.py", "experiments/crysgnn_study.py", "experiments/shell_tolerance.py"} < named
