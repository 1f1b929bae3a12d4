"""`screening enumerate` as a user runs it: output, errors in words, interruption, what is loaded."""

import itertools
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from specifications import enumerated, of

from screening import config
from screening.config import Settings
from screening.crystals.packed import PackedCrystals
from screening.crystals.read import read
from screening.crystals.write import write
from screening.enumerate.enumeration import Enumeration
from screening.enumerate.spec import PrototypeSettings, Specification
from screening.errors import InputError

COMMAND = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; from screening.cli import main; main()"]
SALTS = """
[[prototype]]
name = "rock-salt"
sites.A = ["alkali"]
sites.X = ["halogens"]
"""


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "enumerate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def salts(tmp_path: Path) -> Path:
    path = tmp_path / "salts.toml"
    path.write_text(SALTS)
    return path


def test_it_writes_a_packed_file_and_says_what_became_of_the_assignments(salts: Path, tmp_path: Path) -> None:
    ran = run(salts.name, "-o", "salts.h5", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    assert [line.split() for line in ran.stdout.splitlines()[:2]] == [
        ["prototype", "assignments", "neutral", "in", "order", "tolerated", "distinct", "drawn"],
        ["rock-salt", "20", "20", "20", "20", "20", "20"],
    ]
    assert "wrote 20 crystals with 40 atoms to salts.h5" in ran.stdout
    with PackedCrystals(tmp_path / "salts.h5") as packed:
        assert packed[0].id == "rock-salt-LiF"
        assert packed[0].source == "salts.toml#rock-salt Li+1 F-1"
        assert packed.inputs == ["salts.toml"]


def test_settings_can_be_replaced_and_other_files_written(salts: Path, tmp_path: Path) -> None:
    out = tmp_path / "three.extxyz"
    ran = run(salts, "-o", out, "--set", "max_crystals=3", "--quiet")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert len(list(read([out]))) == 3


def test_counting_writes_nothing(salts: Path, tmp_path: Path) -> None:
    ran = run(salts, "--count")
    assert ran.returncode == 0
    assert ran.stdout.splitlines()[-1].split() == ["rock-salt", "20", "20", "20", "20", "20", "20"]
    assert names_in(tmp_path) == ["salts.toml"]


def test_prototypes_are_listed() -> None:
    ran = run("--list")
    assert ran.returncode == 0
    assert "double-perovskite" in ran.stdout
    assert "AB3C_cP5_221_a_c_b" in ran.stdout
    assert "halogens                F Cl Br I" in ran.stdout
    ran = run("--list", "spinel")
    assert [line.split()[0] for line in ran.stdout.splitlines()] == [
        "prototype",
        "spinel",
        "inverse-spinel",
        "A2BC4_cF56_227_d_a_e",
    ]
    assert "parameters u = 0.2625" in ran.stdout


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[prototype]]\nname = 'perovskit'", "there is no prototype 'perovskit'; did you mean perovskite?"),
        ("[[prototype]]\nname = 'rock-salt'", "prototype rock-salt: site A has no elements (its sites are A X)"),
        (SALTS + "sites.Y = ['O']", "prototype rock-salt: sites: there is no site 'Y'; its sites are A X"),
        (SALTS + "element = 'O'", "prototype.0.element is unknown; did you mean repeat_elements?"),
        (SALTS + "tolerance = [0.8, 1.0]", "prototype.0.tolerance is unknown; did you mean tolerance_factor?"),
        (SALTS + "tolerance_factor = [1.0, 0.8]", "prototype.0: tolerance_factor = [from, to] needs from below to"),
        (SALTS + "file = 'x.cif'", "prototype.0: give either name = a prototype or file = a file with one crystal"),
        (SALTS + "label = 'a/b'", "prototype.0.label: expected letters, digits and _ . + - between them, got 'a/b'"),
        (SALTS + "electronegativity = 'A > X'", "electronegativity = 'A > X': expected sites with < between them"),
        (SALTS + "electronegativity = 'A < O'", "electronegativity: there is no site 'O'; its sites are A X"),
        (SALTS + "states.Y = [1]", "prototype rock-salt: states: there is no site 'Y'"),
        ("states.Qq = [1]\n" + SALTS, "states: 'Qq' is no element"),
        ("exclude = ['alkali']\n" + SALTS, "no element is left for site A after what is taken out"),
        ("max_crystals = 0\n" + SALTS, "max_crystals: Input should be greater than 0, got 0"),
        ("", "prototype is missing"),
        ("prototype = []", "prototype: expected at least one item, got []"),
        (SALTS.replace('["alkali"]', "[]"), "prototype.0.sites.A: expected at least one item"),
        (SALTS + "[[prototype]]\nfile = 'none.cif'", "none.cif: no such file"),
        (
            "[[prototype]]\nname = 'rutile'\nsites = {A = ['Ti'], X = ['O']}\n"
            "[[prototype]]\nname = 'rutile'\nparameters.u = 0.25\nsites = {A = ['Ti'], X = ['O']}",
            "two prototypes are called rutile but differ; give one of them a label of its own",
        ),
    ],
)
def test_mistakes_are_named(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(told)) as error:
        Enumeration(config.load(Specification, path), str(path))
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name a specification such as examples/perovskites.toml, or give --list"),
        (["salts.toml"], "name one output with -o, or give --count to only count"),
        (["salts.toml", "-o", "x.h5", "--count"], "name one output with -o, or give --count to only count"),
        (["none.toml", "-o", "x.h5"], "none.toml: cannot be read (No such file or directory)"),
        (["salts.toml", "-o", "x.dat"], "x.dat: its name does not tell what to write; end it in .h5"),
        (["salts.toml", "-o", "no/x.h5"], "no/x.h5: there is no folder no; make it first"),
        (["salts.toml", "-o", "x.h5", "--set", "max_crystal=1"], "max_crystal is unknown; did you mean max_crystals?"),
        (["--list", "quux"], "no prototype's name, title or example holds 'quux'"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], told: str, salts: Path) -> None:
    ran = run(*arguments, cwd=salts.parent)
    assert ran.returncode == 2
    assert told in ran.stderr
    assert ran.stdout == ""
    assert names_in(salts.parent) == ["salts.toml"]


def test_interrupted_it_leaves_the_older_file(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    output.write_bytes(b"\x89HDF\r\n\x1a\n older")
    command = [*COMMAND, "enumerate", str(root / "examples/million.toml"), "-o", str(output)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    part = tmp_path / "out.h5.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size > 100_000):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, error
    assert "stopped by SIGTERM" in error
    assert names_in(tmp_path) == ["out.h5"]
    assert output.read_bytes().endswith(b"older")


def test_it_loads_neither_torch_nor_pymatgen(salts: Path, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; sys.argv[1:] = ['enumerate', {str(salts)!r}, '-o', "
        f"{str(tmp_path / 'x.h5')!r}]\nfrom screening.cli import main\ntry: main()\nexcept SystemExit: pass\n"
        "print(*sorted({'torch', 'pymatgen', 'ase', 'polars', 'pandas', 'scipy'} & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "wrote 20 crystals" in ran.stdout
    assert ran.stderr.strip() == ""


@pytest.mark.parametrize(
    ("header", "schema"), [("| key | default | meaning |", Specification), ("| key | meaning |", PrototypeSettings)]
)
def test_the_page_names_every_key(root: Path, header: str, schema: type[Settings]) -> None:
    lines = (root / "docs/enumerate.md").read_text(encoding="utf-8").splitlines()
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[lines.index(header) + 2 :])
    assert [row.split("|")[1].strip(" `") for row in rows] == list(schema.model_fields)


def test_the_specification_on_the_page_is_one(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (root / "docs/enumerate.md").read_text(encoding="utf-8")
    (tmp_path / "spec.toml").write_text(text.split("```toml\n")[1].split("```")[0])
    monkeypatch.chdir(tmp_path)
    (crystal,) = enumerated(of("inverse-spinel", A="Zn", B="Fe", X="O"))
    write([crystal], tmp_path / "my-structure.cif", format="cif")
    (tmp_path / "my-structure.cif" / "inverse-spinel-ZnFe2O4.cif").rename(tmp_path / "one.cif")
    (tmp_path / "my-structure.cif").rmdir()
    (tmp_path / "one.cif").rename(tmp_path / "my-structure.cif")
    enumeration = Enumeration(config.load(Specification, "spec.toml"), "spec.toml")
    perovskites, mine = enumeration.count()
    assert perovskites.distinct > 100
    assert mine.assignments == 3
