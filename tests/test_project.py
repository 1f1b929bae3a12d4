"""What stands beside the code says what the code does: conventions, README, pins, make commands."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml

from screening import errors
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal, Reason
from screening.crystals.labels import targets_table
from screening.models import header
from screening.ops.edges import EdgeArrays
from screening.ops.neighbors import neighbor_list
from screening.predictions import FailureReason
from screening.training.config import SplitSettings

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
DTYPES = {"u8": np.uint8, "i32": np.int32, "f64": np.float64, "bool": np.bool_}


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def table(text: str, *header: str) -> list[list[str]]:
    """Cells of the rows below the header that starts with these words, without backticks."""
    lines = text.splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith(f"| {' | '.join(header)} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return rows


def two_crystals() -> Crystals:
    """Two crystals of different size with every optional column."""
    made = [
        Crystal(
            f"c{atoms}",
            np.full(atoms, 14, np.uint8),
            np.arange(3.0 * atoms).reshape(atoms, 3),
            5 * np.eye(3),
            labels={"band_gap": 1.0},
            forces=np.zeros((atoms, 3)),
            stress=np.zeros((3, 3)),
            source="made",
        )
        for atoms in (2, 3)
    ]
    return Crystals.of(made)


def arrays_by_class() -> dict[str, dict[str, Any]]:
    crystals = two_crystals()
    edges = neighbor_list(crystals.positions, crystals.lattice, crystals.pbc, crystals.atom_offsets, cutoff=4.0)
    columns = {field.name: getattr(crystals, field.name) for field in fields(crystals)}
    return {"Crystals": columns, "EdgeArrays": edges._asdict()}


def test_the_table_of_arrays_names_every_field() -> None:
    rows = table(page("docs/conventions.md"), "name", "shape", "dtype", "in")
    listed = {kind: [row[0] for row in rows if row[3] == kind] for kind in ("Crystals", "EdgeArrays")}
    assert sorted(listed["Crystals"]) == sorted(field.name for field in fields(Crystals))
    assert listed["EdgeArrays"] == list(EdgeArrays._fields)


def test_the_table_of_arrays_tells_shapes_and_dtypes() -> None:
    arrays = arrays_by_class()
    sizes = {"atoms": 5, "crystals": 2, "edges": len(arrays["EdgeArrays"]["edge_source"])}
    assert sizes["edges"] > 0
    for name, shape, dtype, kind, *_ in table(page("docs/conventions.md"), "name", "shape", "dtype", "in"):
        value = arrays[kind][name]
        value = value["band_gap"] if name == "labels" else value
        dimensions = shape.removesuffix(" each").strip("()").rstrip(",").split(", ")
        expected = tuple(sum(sizes.get(term) or int(term) for term in d.split(" + ")) for d in dimensions)
        if dtype == "text":
            assert (len(value),) == expected, name
            assert all(isinstance(text, str) for text in value), name
        else:
            assert (value.shape, value.dtype) == (expected, DTYPES[dtype]), name


def test_the_equation_of_edges_holds() -> None:
    assert "r_ij = r_j - r_i + S @ lattice" in page("docs/conventions.md")
    crystals, edges = two_crystals(), arrays_by_class()["EdgeArrays"]
    centre = np.repeat(np.arange(5), np.diff(edges["edge_offsets"]))
    lattice = crystals.lattice[np.repeat([0, 1], crystals.atom_counts)[centre]]
    shift = np.einsum("ea,eab->eb", edges["edge_shift"], lattice)
    vector = crystals.positions[edges["edge_source"]] - crystals.positions[centre] + shift
    np.testing.assert_allclose(edges["edge_vector"], vector, atol=1e-12)


def test_the_table_of_targets_is_the_code() -> None:
    text = page("docs/conventions.md")
    shown = text.split("<!-- targets:")[1].split("-->\n", 1)[1].split("<!-- end of targets -->")[0]
    assert shown == targets_table(), "run the command above the table and paste what it prints"


def test_the_table_of_rejections_names_every_reason() -> None:
    codes = [row[0] for row in table(page("docs/conventions.md"), "code", "the crystal was refused because")]
    assert codes == [reason.value for reason in Reason]


def test_the_table_of_failures_names_every_reason() -> None:
    codes = [row[0] for row in table(page("docs/conventions.md"), "code", "the crystal has no prediction because")]
    assert codes == [reason.value for reason in FailureReason]


def test_the_table_of_errors_names_every_exit_code() -> None:
    kinds: list[type[errors.ScreeningError]] = [errors.ScreeningError, *errors.ScreeningError.__subclasses__()]
    ours = [kind for kind in kinds if kind.__module__ == errors.__name__]
    shown = [(int(row[0]), row[1]) for row in table(page("docs/conventions.md"), "code", "error", "meaning")]
    assert shown == [(kind.exit_code, kind.__name__) for kind in ours]


def test_the_tables_of_model_files_name_every_field() -> None:
    shown = {
        head: [row[0] for row in table(page("docs/conventions.md"), head, "meaning")] for head in ("field", "card")
    }
    assert shown == {"field": list(header.Header.model_fields), "card": list(header.Card.model_fields)}
    assert f"`{header.METADATA_KEY}`" in page("docs/conventions.md")


def test_the_citation_is_of_this_version_and_names_what_the_readme_names() -> None:
    project, cited = tomllib.loads(page("pyproject.toml"))["project"], yaml.safe_load(page("CITATION.cff"))
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert cited["authors"] == [{"name": "The screening developers"}]
    assert "doi" not in cited
    for paper in cited["references"]:
        named = paper["doi"] if "doi" in paper else paper["url"]
        assert named in page("README.md"), paper["title"]


def test_the_table_of_splits_names_every_way() -> None:
    ways = [row[0] for row in table(page("docs/conventions.md"), "`data.split.by`", "parts")]
    assert sorted(ways) == sorted(get_args(SplitSettings.model_fields["by"].annotation))


def test_the_quickstart_runs(tmp_path: Path) -> None:
    """Every Python and shell block of the README, in order, in one folder; prints give what their comments say."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    ran = 0
    for language, text in re.findall(r"^```(python|sh)\n(.*?)^```", page("README.md"), re.MULTILINE | re.DOTALL):
        if language == "python":
            printed = run([sys.executable, "-c", text], tmp_path)
            assert printed.splitlines() == re.findall(r"^print\(.*\)  # (.*)$", text, re.MULTILINE)
            ran += 1
            continue
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["screening"]:
                run([sys.executable, "-c", "from screening.cli import main; main()", *words[1:]], tmp_path)
                ran += 1
    assert ran >= 3


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def make_targets() -> set[str]:
    return {word for line in page("Makefile").splitlines() if line.startswith(".PHONY:") for word in line.split()[1:]}


@pytest.mark.parametrize("name", PAGES)
def test_make_commands_of_the_pages_exist(name: str) -> None:
    mentioned = set(re.findall(r"(?:^ {4}|^|`|&& )make ([a-z]+)", page(name), re.MULTILINE))
    assert mentioned <= make_targets(), f"{mentioned - make_targets()} are no targets of the Makefile"


@pytest.mark.parametrize("name", PAGES)
def test_paths_of_the_pages_exist(name: str) -> None:
    named = re.findall(r"`((?:\.ci|csrc|docs|benchmarks|examples|experiments|tests|screening)/[\w./]*)`", page(name))
    assert [path for path in named if not (ROOT / path).exists()] == []


def anchors(text: str) -> set[str]:
    """What headings can be linked by, as GitHub makes it of them."""
    without_code = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.*)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", PAGES)
def test_links_of_the_pages_lead_somewhere(name: str) -> None:
    for path, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page(name)):
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), path
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), f"{path}#{anchor}"


def pins() -> dict[str, str]:
    lines = [line for line in page("constraints.txt").splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[a-z0-9.!]+", line) for line in lines), "only name==version, no local parts"
    assert lines == sorted(lines, key=lambda line: line.split("==")[0])
    return dict(line.split("==") for line in lines)


def required() -> set[str]:
    """Canonical names of all that pyproject.toml asks for."""
    project = tomllib.loads(page("pyproject.toml"))
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    wanted += [name for group in project["dependency-groups"].values() for name in group]
    wanted += [name for extra in project["project"].get("optional-dependencies", {}).values() for name in extra]
    return {re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower() for name in wanted}  # type: ignore[index]


def test_every_requirement_is_pinned() -> None:
    assert required() - pins().keys() == set(), "run `make constraints`"
    assert pins()["torch"] == "2.13.0"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A checkout in which everything was built an hour ago, of files from the day before."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    sources = [
        "pyproject.toml",
        "constraints.txt",
        "CMakeLists.txt",
        "csrc/kernels/a.cpp",
        ".ci/environment",
        ".ci/native",
    ]
    for name in [*sources, ".venv/.environment", ".venv/.native"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (1e9, 1e9))
    (tmp_path / ".venv/.environment").write_text(f"{tmp_path}\n", encoding="utf-8")
    (tmp_path / ".venv/.native").write_text(f"{tmp_path} CUDA=AUTO\n", encoding="utf-8")
    for stamp, time in {".environment": 1e9 + 1, ".native": 1e9 + 2}.items():
        os.utime(tmp_path / ".venv" / stamp, (time, time))
    return tmp_path


def planned(folder: Path, *arguments: str) -> list[str]:
    """The scripts that make would run, in order."""
    command = ["make", "--dry-run", "--no-print-directory", *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "CUDA")}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return re.findall(r"\.ci/\w+|-m pytest", ran.stdout)


def test_what_is_fresh_is_left_alone(made: Path) -> None:
    assert planned(made, "test") == ["-m pytest"]
    assert planned(made, "check") == [".ci/check"]


@pytest.mark.parametrize(
    ("newer", "plan"),
    [
        ("pyproject.toml", [".ci/environment", ".ci/native", "-m pytest"]),
        ("constraints.txt", [".ci/environment", ".ci/native", "-m pytest"]),
        ("CMakeLists.txt", [".ci/native", "-m pytest"]),
        ("csrc/kernels/a.cpp", [".ci/native", "-m pytest"]),
        ("csrc/kernels/new.cu", [".ci/native", "-m pytest"]),
    ],
)
def test_what_is_stale_is_made_anew(made: Path, newer: str, plan: list[str]) -> None:
    (made / newer).touch()
    assert planned(made, "test") == plan


def test_a_missing_environment_a_moved_checkout_and_another_cuda_choice_are_stale(made: Path) -> None:
    assert planned(made, "test", "CUDA=OFF") == [".ci/native", "-m pytest"]
    moved = made.with_name("moved")
    made.rename(moved)
    assert planned(moved, "test") == [".ci/environment", ".ci/native", "-m pytest"]
    shutil.rmtree(moved / ".venv")
    assert planned(moved, "test") == [".ci/environment", ".ci/native", "-m pytest"]


def test_scripts_can_be_run() -> None:
    scripts = [path for path in (ROOT / ".ci").iterdir() if path.is_file()]
    assert {"run", "check", "environment", "native", "sanitize", "freeze"} <= {path.name for path in scripts}
    assert [path.name for path in scripts if not os.access(path, os.X_OK)] == []
    for path in scripts:
        if path.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash"):
            run(["bash", "-n", str(path)], ROOT)


def changelog_versions() -> list[tuple[int, ...]]:
    found = re.findall(r"^## \[(\d+)\.(\d+)\.(\d+)\]", page("CHANGELOG.md"), re.MULTILINE)
    return [tuple(int(part) for part in version) for version in found]


def test_the_changelog_is_kept() -> None:
    assert "## [Unreleased]" in page("CHANGELOG.md")
    assert all(newer > older for newer, older in pairwise(changelog_versions()))
    sections = set(re.findall(r"^### (\w+)", page("CHANGELOG.md"), re.MULTILINE))
    assert sections <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
