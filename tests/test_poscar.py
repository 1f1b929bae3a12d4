"""POSCAR files against pymatgen and ASE, VASP 4 to 6, and broken ones."""

import gzip
import io
import random
import warnings
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from made import made_crystals
from pymatgen.io.vasp import Poscar as PymatgenPoscar

from screening.crystals.convert import crystal_to_ase, crystal_to_pymatgen
from screening.crystals.crystal import PERIODIC, Crystal, Reason, Rejection
from screening.crystals.formats.format import Document
from screening.crystals.formats.poscar import Poscar, id_of, parse_poscar_text
from screening.crystals.formats.poscar_title import symbols_in_title

HEAD = "title\n1.0\n4 0 0\n0 5 0\n0 1 6\n"
TAIL = "Fe O\n1 2\nDirect\n0 0 0\n.5 .5 .5\n.25 .25 .75\n"
LATTICE = np.array([[4, 0, 0], [0, 5, 0], [0, 1, 6]], float)
FRACTIONAL = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.25, 0.25, 0.75]])


def parsed(text: str) -> Crystal | Rejection:
    return parse_poscar_text(text, id="mp-1", source="mp-1/POSCAR")


def crystal_in(text: str) -> Crystal:
    crystal = parsed(text)
    assert isinstance(crystal, Crystal), crystal
    return crystal


def refusal_of(text: str) -> Rejection:
    rejection = parsed(text)
    assert isinstance(rejection, Rejection), rejection
    assert rejection.message.startswith("mp-1: ")
    return rejection


# --- names ----------------------------------------------------------------------------------------------------

IDS = {
    "POSCAR": "mp-7",
    "CONTCAR": "mp-7",
    "poscar": "mp-7",
    "POSCAR.gz": "mp-7",
    "a.vasp": "a",
    "a.b.VASP": "a.b",
    "a.poscar": "a",
    "POSCAR.mp-1": "mp-1",
    "POSCAR_mp-1": "mp-1",
    "CONTCAR-x": "x",
    "POSCAR.mp-1.vasp": "mp-1",
    "POSCAR.mp-1.gz": "mp-1",
    "mp-1_POSCAR": "mp-1",
    "mp-1.CONTCAR": "mp-1",
}


@pytest.mark.parametrize("name", IDS)
def test_names_and_ids(name: str) -> None:
    document = Document(f"runs/mp-7/{name}")
    assert Poscar().claims(document.file_name)
    assert id_of(document) == IDS[name]
    below = id_of(replace(document, folder="vasp/mp-7"))
    assert below == ("vasp/mp-7" if IDS[name] == "mp-7" else f"vasp/mp-7/{IDS[name]}")


@pytest.mark.parametrize(
    "name", ["POSCAR.cif", "POSCAR_plot.png", "poscars", "XDATCAR", "POSCAR.", "a.xyz", "POSCAR.tar"]
)
def test_names_of_something_else(name: str) -> None:
    assert not Poscar().claims(name)


def test_ids_of_files_called_just_poscar() -> None:
    assert id_of(Document("z.zip::x/mp-3/POSCAR", folder="x/mp-3")) == "x/mp-3"
    assert id_of(Document("z.zip::POSCAR")) == "z"
    assert id_of(Document("POSCAR", Path("/data/mp-9/POSCAR"))) == "mp-9"


def test_reads_files_on_disk_and_in_archives(tmp_path: Path) -> None:
    path = tmp_path / "POSCAR.mp-1.gz"
    path.write_bytes(gzip.compress((HEAD + TAIL).encode()))
    for document in (Document(str(path), path), Document("z.zip::POSCAR.mp-1", content=(HEAD + TAIL).encode())):
        (piece,) = Poscar().split(document)
        (crystal,) = Poscar().parse(piece)
        assert isinstance(crystal, Crystal)
        assert (crystal.id, crystal.source) == ("mp-1", document.name)
        assert piece.weight > 0


@pytest.mark.parametrize("content", [b"not gzip", gzip.compress(HEAD.encode())[:-12]], ids=["no gzip", "cut"])
def test_a_file_that_cannot_be_decompressed_is_a_rejection(content: bytes) -> None:
    (piece,) = Poscar().split(Document("a.vasp.gz", content=content))
    (rejection,) = Poscar().parse(piece)
    assert isinstance(rejection, Rejection)
    assert rejection.message.startswith("a: cannot be read (")


def test_a_file_that_is_gone_is_a_rejection(tmp_path: Path) -> None:
    (piece,) = Poscar().split(Document("gone.vasp", tmp_path / "gone.vasp"))
    (rejection,) = Poscar().parse(piece)
    assert isinstance(rejection, Rejection)
    assert "No such file" in rejection.message


# --- what the lines mean --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        HEAD + TAIL,
        HEAD + TAIL.replace("Direct", "direct"),
        HEAD + TAIL.replace("Direct", "  Fractional"),
        (HEAD + TAIL).replace("\n", "\r\n"),
        (HEAD + TAIL).replace(" ", "\t"),
        (HEAD + TAIL).rstrip(),
        HEAD + TAIL + "\n\n",
        HEAD + TAIL + "\n0 0 0\n0 0 0\n0 0 0\n",
        HEAD + TAIL + "Lattice velocities\nwhatever\n",
        HEAD + TAIL.replace("0 0 0", "0 0 0 T T F Fe"),
        HEAD + TAIL.replace("Direct", "Selective dynamics\nDirect").replace("0 0 0", "0 0 0 T T F"),
        HEAD + TAIL.replace("1 2", "1 2 ! two of them").replace("Fe O", "Fe O # symbols"),
        HEAD + TAIL.replace("Fe O", "Fe_pv O_s/08Apr2002"),
        HEAD + TAIL.replace("Fe O", "Fe/0d2a3b4c O"),
        HEAD + TAIL.replace("Fe O\n1 2", "Fe\nO\n1\n2"),
        HEAD + TAIL.replace("Fe O\n1 2", "Fe O O\n1 1 1"),
        HEAD + TAIL.replace("Fe O\n1 2", "Fe Cu O\n1 0 2"),
        HEAD + TAIL.replace(".25 .25", "2.5d-1 25E-2"),
        HEAD.replace("1.0", "1.0 a comment") + TAIL,
        "title\n2.0\n2 0 0\n0 2.5 0\n0 .5 3\n" + TAIL,
        HEAD.replace("1.0", "-120") + TAIL,
        "title\n-120\n40 0 0\n0 50 0\n0 10 60\n" + TAIL,
        "title\n2 0.5 3\n2 0 0\n0 10 0\n0 2 2\n" + TAIL,
        "title\n2 0.5 3\n2 0 0\n0 10 0\n0 2 2\nFe O\n1 2\nCartesian\n0 0 0\n1 6 1\n.5 4 1.5\n",
        HEAD + "Fe O\n1 2\nCartesian\n0 0 0\n2 3 3\n1 2 4.5\n",
        HEAD + "Fe O\n1 2\nKartesisch\n0 0 0\n2 3 3\n1 2 4.5\n",
        "title\n0.5\n8 0 0\n0 10 0\n0 2 12\nFe O\n1 2\nCartesian\n0 0 0\n4 6 6\n2 4 9\n",
        "title\n-120\n8 0 0\n0 10 0\n0 2 12\nFe O\n1 2\nCartesian\n0 0 0\n4 6 6\n2 4 9\n",
        HEAD + "1 2\nDirect\n0 0 0 Fe\n.5 .5 .5 O\n.25 .25 .75 O\n",
        HEAD.replace("title", "Fe O") + TAIL.replace("Fe O\n", ""),
        HEAD.replace("title", "FeO2") + TAIL.replace("Fe O\n", ""),
        HEAD.replace("title", "PAW_PBE Fe_pv 06Sep2000 PAW_PBE O 08Apr2002") + TAIL.replace("Fe O\n", ""),
    ],
)
def test_ways_to_write_one_crystal(text: str) -> None:
    crystal = crystal_in(text)
    assert crystal.numbers.tolist() == [26, 8, 8]
    assert crystal.pbc == PERIODIC
    np.testing.assert_allclose(crystal.lattice, LATTICE, rtol=1e-14)
    np.testing.assert_allclose(crystal.positions, FRACTIONAL @ LATTICE, rtol=1e-14)


def test_a_volume_keeps_a_left_handed_lattice() -> None:
    crystal = crystal_in("title\n-960\n-4 0 0\n0 5 0\n0 1 6\n" + TAIL)
    np.testing.assert_allclose(crystal.lattice, 2 * LATTICE * [[-1], [1], [1]], rtol=1e-14)


@pytest.mark.parametrize("scale", ["1.0", "-120", "1 2 3"])
@pytest.mark.parametrize("word", ["nan", "inf", "1e308"])
def test_numbers_that_are_not_finite_are_for_validation_to_refuse(scale: str, word: str) -> None:
    text = HEAD.replace("1.0", scale).replace("5", word) + TAIL.replace(".25", word)
    assert isinstance(parsed(text), Crystal) or scale == "-120"


def test_more_than_twenty_blocks_go_on_in_the_next_line() -> None:
    symbols = ["Fe", "Cr"] * 15
    lines = f"{' '.join(symbols[:20])}\n{' '.join(symbols[20:])}\n{' '.join(['1'] * 20)}\n{' '.join(['1'] * 10)}\n"
    rows = "".join(f"0 0 {k / 30}\n" for k in range(30))
    assert crystal_in(HEAD + lines + "Direct\n" + rows).numbers.tolist() == [26, 24] * 15


@pytest.mark.parametrize(
    ("title", "counts", "symbols"),
    [
        ("Ag Ge", [4, 2], ["Ag", "Ge"]),
        ("NaCl", [4, 4], ["Na", "Cl"]),
        ("Na4 Cl4", [4, 4], ["Na", "Cl"]),
        ("Ba1 Ti1 O3", [2, 2, 6], ["Ba", "Ti", "O"]),
        ("CH3NH3PbI3", [1, 6, 1, 1, 3], ["C", "H", "N", "Pb", "I"]),
        ("CH3NH3", [1, 3, 1, 3], ["C", "H", "N", "H"]),
        ("NaCl", [4, 3], []),
        ("NaCl", [8], []),
        ("Na4 Cl2", [4, 4], []),
        ("No comment", [2], []),
        ("I have no idea", [1], []),
        ("Xx Yy", [1, 1], []),
        ("Ag Ge Ge", [1, 1], []),
        ("", [1], []),
    ],
)
def test_titles(title: str, counts: list[int], symbols: list[str]) -> None:
    assert symbols_in_title(title, counts) == symbols


BROKEN = {
    "empty": ("", Reason.UNREADABLE, "ends after line 0, expected a title"),
    "only a title": ("title\n", Reason.UNREADABLE, "expected a scale factor"),
    "no scale": (HEAD.replace("1.0", "one") + TAIL, Reason.UNREADABLE, "line 2 is `one`"),
    "two scales": (HEAD.replace("1.0", "1 1") + TAIL, Reason.UNREADABLE, "three positive ones"),
    "zero scale": (HEAD.replace("1.0", "0") + TAIL, Reason.UNREADABLE, "expected one number"),
    "three scales, one negative": (HEAD.replace("1.0", "1 -1 1") + TAIL, Reason.UNREADABLE, "three positive ones"),
    "nan scale": (HEAD.replace("1.0", "nan") + TAIL, Reason.UNREADABLE, "line 2 is `nan`"),
    "short vector": (HEAD.replace("0 5 0", "0 5") + TAIL, Reason.UNREADABLE, "line 4 has 2 numbers"),
    "volume of nothing": (HEAD.replace("1.0", "-1").replace("0 5 0", "4 0 0") + TAIL, Reason.TINY_VOLUME, "span none"),
    "unknown element": (HEAD + TAIL.replace("Fe", "Xx"), Reason.UNKNOWN_ELEMENT, "line 6 names `Xx`"),
    "no symbols": (HEAD + TAIL.replace("Fe O\n", ""), Reason.UNREADABLE, "has no line of symbols (VASP 4)"),
    "flags for symbols": (
        HEAD + TAIL.replace("Fe O\n", "").replace("0 0 0", "0 0 0 F F F"),
        Reason.UNREADABLE,
        "insert a line of symbols",
    ),
    "fewer counts": (
        HEAD + TAIL.replace("1 2", "1"),
        Reason.UNREADABLE,
        "1 numbers of atoms, expected one for each of the 2",
    ),
    "more counts": (HEAD + TAIL.replace("1 2", "1 2 3"), Reason.UNREADABLE, "3 numbers of atoms"),
    "negative count": (HEAD + TAIL.replace("1 2", "1 -2"), Reason.UNREADABLE, "expected one for each"),
    "no atoms": (HEAD + TAIL.replace("1 2", "0 0"), Reason.EMPTY, "holds no atoms"),
    "too many atoms": (
        HEAD + TAIL.replace("1 2", "1 999999999"),
        Reason.UNREADABLE,
        "ends after 3 of 1000000000 atoms",
    ),
    "no mode": (HEAD + TAIL.replace("Direct\n", ""), Reason.UNREADABLE, "line 8 is `0 0 0`, expected Direct"),
    "cut off": (HEAD + TAIL[:-13], Reason.UNREADABLE, "ends after 2 of 3 atoms"),
    "short row": (HEAD + TAIL.replace(".5 .5 .5", ".5 .5"), Reason.UNREADABLE, "line 10 is `.5 .5`"),
    "merged numbers": (HEAD + TAIL.replace(".5 .5 .5", ".5-.5 .5"), Reason.UNREADABLE, "coordinates of atom 1"),
    "a web page": ("<html>\n<body>\n" * 9, Reason.UNREADABLE, "line 2 is `<body>`"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_say_what_is_wrong(case: str) -> None:
    text, reason, message = BROKEN[case]
    rejection = refusal_of(text)
    assert rejection.reason == reason
    assert message in rejection.message


def test_random_damage_never_raises() -> None:
    rng = random.Random(0)
    letters = "0123456789 \n\t.-+eFOxX!#\x00\u00e9"
    for _ in range(3000):
        text = list(HEAD + TAIL)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(text))
            text[at : at + rng.randint(0, 12)] = rng.choices(letters, k=rng.randint(0, 3))
        entry = parsed("".join(text))
        assert isinstance(entry, Crystal) or entry.message


# --- against pymatgen and ASE ---------------------------------------------------------------------------------

CRYSTALS = made_crystals(40, seed=11, kinds=("cell", "skewed", "left_handed", "outside"))


@pytest.mark.parametrize("direct", [True, False])
def test_reads_what_pymatgen_writes(direct: bool) -> None:
    for crystal in CRYSTALS:
        written = PymatgenPoscar(crystal_to_pymatgen(crystal), comment="made")
        text = written.get_str(direct=direct, significant_figures=16)
        ours = crystal_in(text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = PymatgenPoscar.from_str(text).structure
        assert ours.numbers.tolist() == list(theirs.atomic_numbers)
        np.testing.assert_array_equal(ours.lattice, theirs.lattice.matrix)
        np.testing.assert_allclose(ours.positions, theirs.cart_coords, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{"direct": True}, {"direct": False}, {"direct": True, "vasp5": False, "sort": True}]
)
def test_reads_what_ase_writes(options: dict[str, bool]) -> None:
    for crystal in CRYSTALS:
        file = io.StringIO()
        ase.io.write(file, crystal_to_ase(crystal), format="vasp", **options)
        ours = crystal_in(file.getvalue())
        theirs = ase.io.read(io.StringIO(file.getvalue()), format="vasp")
        np.testing.assert_array_equal(ours.numbers, theirs.numbers)
        np.testing.assert_array_equal(ours.lattice, theirs.cell.array)
        np.testing.assert_allclose(ours.positions, theirs.positions, rtol=0, atol=1e-12)
