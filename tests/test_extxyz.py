"""Extended XYZ against ASE, against its own writer, and line by line against block by block."""

import io
from collections.abc import Iterator

import ase.io
import numpy as np
import pytest
from ase.io.extxyz import key_val_str_to_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from made import assert_same, made_crystals
from xyz_texts import GOOD, LATTICE, PROPERTIES, frame, pieces_of, read, read_one, refused

from screening.arrays import Float64
from screening.crystals.convert import crystal_to_ase
from screening.crystals.crystal import PERIODIC, Crystal, Reason, Rejection
from screening.crystals.formats import xyz_outline
from screening.crystals.formats.extxyz import ExtXyz
from screening.crystals.formats.shapes import Refused
from screening.crystals.formats.xyz_comment import Comment, comment_of, pairs_of, scalar
from screening.crystals.formats.xyz_frames import Frames
from screening.crystals.formats.xyz_outline import Comments, read_comments
from screening.crystals.formats.xyz_writer import extxyz_frame
from screening.errors import InputError

pytestmark = pytest.mark.native

# --- names and numbering --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.xyz", "A.XYZ", "b.extxyz", "c.exyz"])
def test_claims_its_suffixes(name: str) -> None:
    assert ExtXyz().claims(name)


@pytest.mark.parametrize("name", ["a.cif", "xyz", "a.xyz.json", "POSCAR"])
def test_claims_nothing_else(name: str) -> None:
    assert not ExtXyz().claims(name)


def test_a_lone_frame_has_the_name_of_its_file() -> None:
    crystal = read_one(frame(PROPERTIES))
    assert (crystal.id, crystal.source) == ("some", "a/some.xyz")


def test_frames_without_ids_are_numbered() -> None:
    entries = read(frame(PROPERTIES) + "text\n" + frame(f"{PROPERTIES} mp_id=mp-1"))
    assert [entry.id for entry in entries] == ["some#0", "some#1", "mp-1"]
    assert [entry.source for entry in entries] == [f"a/some.xyz#{k}" for k in range(3)]


def test_the_most_telling_id_wins_and_is_no_label() -> None:
    crystal = read_one(frame(f"{PROPERTIES} name=Cu id=7 material_id=mp-30 mp_id=1 fold=4"))
    assert crystal.id == "mp-30"
    assert dict(crystal.labels) == {"fold": 4.0}


# --- against ASE ----------------------------------------------------------------------------------------------


def assert_like_ase(crystal: Crystal | Rejection, atoms: ase.Atoms) -> None:
    assert isinstance(crystal, Crystal), crystal
    np.testing.assert_array_equal(crystal.numbers, atoms.numbers)
    np.testing.assert_array_equal(crystal.positions, atoms.positions)
    np.testing.assert_array_equal(crystal.lattice, atoms.cell.array)
    assert crystal.pbc == tuple(atoms.pbc)
    assert crystal.id == str(atoms.info["material_id"])
    results = atoms.calc.results if atoms.calc else {}
    assert ("forces" in results) == (crystal.forces is not None)
    assert ("stress" in results) == (crystal.stress is not None)
    if crystal.forces is not None:
        np.testing.assert_array_equal(crystal.forces, results["forces"])
    if crystal.stress is not None:
        np.testing.assert_array_equal(crystal.stress, crystal.stress.T)
        np.testing.assert_array_equal(crystal.stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]], results["stress"])
    known = {name: value for name, value in {**atoms.info, **results}.items() if np.isscalar(value)}
    known.pop("material_id")
    assert dict(crystal.labels) == known


def as_ase_reads(text: str) -> list[ase.Atoms]:
    return ase.io.read(io.StringIO(text), ":", format="extxyz")


def test_reads_what_ase_writes_as_ase_reads_it() -> None:
    crystals = made_crystals(70, seed=1, forces=True, labels=("energy", "band_gap", "foo"))
    file = io.StringIO()
    ase.io.write(file, [crystal_to_ase(crystal) for crystal in crystals], format="extxyz")
    entries = read(file.getvalue())
    for entry, atoms in zip(entries, as_ase_reads(file.getvalue()), strict=True):
        assert_like_ase(entry, atoms)


def test_ase_reads_what_is_written_here() -> None:
    crystals = made_crystals(70, seed=2, forces=True, labels=("energy", "band_gap", "foo"))
    text = b"".join(map(extxyz_frame, crystals)).decode()
    for crystal, atoms in zip(crystals, as_ase_reads(text), strict=True):
        assert_like_ase(crystal, atoms)


COMMENTS = (
    'a=1 b=2.5 c=-3e-4 d=+.5 e="1.5" f=7.',
    "a=T b=F c=true d=False e=TRUE f=FALSE",
    "energy = -1.5 b  =  2",
    "note='single quotes' a=1",
    "note={in braces} a=2",
    'note="with \\"escaped\\" quotes" a=3',
    'note="equals = inside" a=4',
    "a=b=c d=5",
    'flag a=1 other_flag "quoted flag"',
    '"quoted key"=3.5 a=1',
    "vector=[1, 2, 3] list=[a,b] a=6",
    'array="1 2 3" logical="T F T" a=7',
    "\t a=1\t\tb=2 \r",
    "nan_here=nan inf_here=inf a=1",
    'json="_JSON {\\"a\\": [1, 2]}" a=1',
    "a=1 a=2 c=x",
    "path=C:\\\\data a=1",
)


@pytest.mark.parametrize("comment", COMMENTS)
def test_comments_mean_what_they_mean_to_ase(comment: str) -> None:
    theirs = key_val_str_to_dict(f"{PROPERTIES} {comment}")
    ours = {pair.key: pair.value for pair in pairs_of(f"{PROPERTIES} {comment}\n")}
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if isinstance(value, bool | int | float | np.number):
            np.testing.assert_equal(scalar(ours[key]), value)
        else:
            assert scalar(ours[key]) is None
        if isinstance(value, str):
            assert ours[key] == value


BEYOND_ASE = (
    ("a=1.0d-3 b=2D4", {"a": 1e-3, "b": 2e4}),
    ("matrix=[[1, 2], [3, 4]] a=1", {"a": 1.0}),
    ("i = 5, time = 2.5, value = -3.2", {"i": 5.0, "time": 2.5, "value": -3.2}),
    ("a=1_000 b=0x10 c=1e999", {}),
    ('empty="" a=1', {"a": 1.0}),
)


@pytest.mark.parametrize(("comment", "labels"), BEYOND_ASE)
def test_comments_that_ase_reads_otherwise(comment: str, labels: dict[str, float]) -> None:
    assert dict(read_one(frame(f"{PROPERTIES} {comment}")).labels) == labels


@pytest.mark.parametrize(
    ("comment", "lattice", "pbc"),
    [
        (PROPERTIES, np.zeros((3, 3)), (False, False, False)),
        (f'{PROPERTIES} pbc="T F T"', np.zeros((3, 3)), (True, False, True)),
        (f'{PROPERTIES} Lattice="1 2 3 4 5 6 7 8 10"', [[1, 2, 3], [4, 5, 6], [7, 8, 10]], PERIODIC),
        (f"{PROPERTIES} Lattice=[[1, 2, 3], [4, 5, 6], [7, 8, 10]]", [[1, 2, 3], [4, 5, 6], [7, 8, 10]], PERIODIC),
        (f'{PROPERTIES} Lattice="1 2 3"', np.diag([1, 2, 3]), PERIODIC),
        (f"{PROPERTIES} {LATTICE} pbc=F", np.eye(3) * 4, (False, False, False)),
        (f'{PROPERTIES} {LATTICE} pbc="1 0 1"', np.eye(3) * 4, (True, False, True)),
        (f"{PROPERTIES} {LATTICE} pbc=[true, False, T]", np.eye(3) * 4, (True, False, True)),
        (LATTICE, np.eye(3) * 4, PERIODIC),
        ("", np.zeros((3, 3)), (False, False, False)),
        ("water molecule's geometry", np.zeros((3, 3)), (False, False, False)),
    ],
)
def test_lattice_and_periodicity(comment: str, lattice: Float64, pbc: tuple[bool, bool, bool]) -> None:
    crystal = read_one(frame(comment))
    np.testing.assert_array_equal(crystal.lattice, lattice)
    assert crystal.pbc == pbc


def test_words_of_a_plain_comment_are_no_labels() -> None:
    assert dict(read_one(frame("bulk T copper 4")).labels) == {}
    assert dict(read_one(frame(f"{PROPERTIES} converged")).labels) == {"converged": 1.0}


VOIGT = "1 2 3 4 5 6"
MATRIX = np.array([[1, 6, 5], [6, 2, 4], [5, 4, 3]], float)


@pytest.mark.parametrize(
    ("text", "stress"),
    [
        (f'stress="{VOIGT}"', MATRIX),
        ('stress="1 6 5 6 2 4 5 4 3"', MATRIX),
        ('stress="1 2 3 4 5 6 7 8 9"', [[1, 4, 7], [2, 5, 8], [3, 6, 9]]),
        ("stress=[[1, 2, 3], [4, 5, 6], [7, 8, 9]]", [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        (f'REF_stress="{VOIGT}"', MATRIX),
        (f'virial="{VOIGT}"', MATRIX / -64),
        (f'REF_virials="{VOIGT}"', MATRIX / -64),
        (f'virial="9 9 9 9 9 9" stress="{VOIGT}"', MATRIX),
    ],
)
def test_stress_is_tension_positive(text: str, stress: Float64) -> None:
    for repeats in (1, 4):
        for crystal in read(frame(f"{LATTICE} {PROPERTIES} {text}") * repeats):
            assert isinstance(crystal, Crystal)
            np.testing.assert_allclose(crystal.stress, stress, rtol=1e-14)


def test_a_virial_without_a_volume_gives_no_stress() -> None:
    assert read_one(frame(f'{PROPERTIES} virial="{VOIGT}"')).stress is None
    assert read_one(frame(f'Lattice="0 0 0 0 0 0 0 0 0" {PROPERTIES} virial="{VOIGT}"')).stress is None


def test_columns_in_any_order() -> None:
    columns = "Properties=tag:I:2:force:R:3:keep:L:1:Z:I:1:pos:R:3"
    crystal = read_one(frame(columns, ["1 2 .1 .2 .3 T 29 1 2 3", "1 2 .4 .5 .6 F 8 4 5 6"]))
    assert crystal.numbers.tolist() == [29, 8]
    assert crystal.positions.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert crystal.forces is not None
    assert crystal.forces.tolist() == [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]


@pytest.mark.parametrize("name", ["forces", "REF_forces", "dft_forces", "force"])
def test_names_of_forces(name: str) -> None:
    crystal = read_one(frame(f"{PROPERTIES}:{name}:R:3", ["Cu 0 0 0 1 2 3"]))
    assert crystal.forces is not None
    assert crystal.forces.tolist() == [[1, 2, 3]]


def test_the_preferred_forces_win() -> None:
    crystal = read_one(frame(f"{PROPERTIES}:REF_forces:R:3:forces:R:3", ["Cu 0 0 0 1 2 3 4 5 6"]))
    assert crystal.forces is not None
    assert crystal.forces.tolist() == [[4, 5, 6]]


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("Cu", 29),
        ("cu", 29),
        ("CU", 29),
        ("29", 29),
        ("Cu1", 29),
        ("O_w", 8),
        ("Fe3+", 26),
        ("D", 1),
        ("t", 1),
        ("118", 118),
    ],
)
def test_words_that_are_elements(word: str, number: int) -> None:
    assert read_one(frame(PROPERTIES, [f"{word} 0 0 0"])).numbers.tolist() == [number]


@pytest.mark.parametrize("word", ["X", "Xx", "Cub", "0", "119", "1.5", "-1", "+", "ü", "29a", "9999999999999999999999"])
def test_words_that_are_none(word: str) -> None:
    rejection = refused(frame(f"{PROPERTIES} material_id=mp-1", ["Cu 1 1 1", f"{word} 0 0 0"]))
    assert (rejection.id, rejection.reason) == ("mp-1", Reason.UNKNOWN_ELEMENT)
    assert "line 4 (atom 1)" in rejection.message
    assert word in rejection.message


# --- round trips ----------------------------------------------------------------------------------------------

FINITE = st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda text: text == text.strip()
)


@st.composite
def crystals(draw: st.DrawFn) -> Crystal:
    atoms = draw(st.integers(1, 3))
    numbers = draw(st.lists(st.integers(1, 118), min_size=atoms, max_size=atoms))
    vectors = st.lists(st.lists(FINITE, min_size=3, max_size=3), min_size=atoms, max_size=atoms)
    matrices = st.lists(st.lists(FINITE, min_size=3, max_size=3), min_size=3, max_size=3)
    forces, stress = draw(st.none() | vectors), draw(st.none() | matrices)
    names = st.sampled_from(["energy", "band_gap", "a", "x-y", 'quo"te', "two words", "K=L", "[", "é"])
    pbc = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    return Crystal(
        id=draw(NAMES),
        numbers=np.array(numbers, np.uint8),
        positions=np.array(draw(vectors), np.float64),
        lattice=np.array(draw(matrices), np.float64) + 0.0,
        pbc=pbc,
        labels=draw(st.dictionaries(names, FINITE, max_size=3)),
        forces=None if forces is None else np.array(forces, np.float64),
        stress=None if stress is None else np.array(stress, np.float64),
        source="a/some.xyz",
    )


@settings(max_examples=150)
@given(crystals())
def test_a_written_crystal_is_read_back_to_the_last_bit(crystal: Crystal) -> None:
    assert_same(read_one(extxyz_frame(crystal)), crystal)


def test_signs_of_zero_survive() -> None:
    crystal = read_one(frame(PROPERTIES, ["Cu -0.0 0.0 -0"]))
    assert np.signbit(crystal.positions[0]).tolist() == [True, False, True]


def test_a_label_that_means_something_else_cannot_be_written() -> None:
    crystal = read_one(GOOD)
    for name in ("stress", "pbc", "Lattice", "id", " "):
        bad = Crystal("mp-1", crystal.numbers, crystal.positions, crystal.lattice, labels={name: 1.0})
        with pytest.raises(InputError, match="mp-1: extended XYZ has another meaning"):
            extxyz_frame(bad)
    with pytest.raises(InputError, match="line break"):
        extxyz_frame(Crystal("mp\n1", crystal.numbers, crystal.positions, crystal.lattice))


# --- the fast path --------------------------------------------------------------------------------------------

BARE = [
    "1",
    "-2.5",
    "1e3",
    ".5",
    "1d2",
    "T",
    "F",
    "nan",
    "inf",
    "1e999",
    "word",
    "Ta-Mo",
    "x,y",
    "5,",
    "1_0",
    "mp-1",
    "é",
]
QUOTED = [
    '"1.5"',
    '" 2 "',
    '""',
    '" "',
    '"T"',
    '"two words"',
    '"1 2 3"',
    '"mp 2"',
    '"es\\"c"',
    "'s q'",
    "{b r}",
    "[1,2]",
]
WORDS = st.sampled_from([*BARE, *QUOTED, "a\\ b"])
NAMED = ["energy", "e_form", "band_gap", "material_id", "id", "note", "index", "virial", "ref_stress", "é"]
KEYS = st.sampled_from(NAMED)
LATTICES = [LATTICE, 'Lattice="1 2 3"', 'Lattice="1 0 0 0 1.5 0 0 0 2d0"', 'Lattice="a"']
TENSORS = ['stress="1 2 3 4 5 6"', 'stress="1 2 3 4 5 6 7 8 9"', 'virial="1 2 3 4 5 6"', 'stress="1 2"']
SPECIAL = st.sampled_from([*LATTICES, *TENSORS, 'pbc="T T F"', "flag"])


@st.composite
def comments(draw: st.DrawFn) -> str:
    parts = [PROPERTIES, *draw(st.lists(SPECIAL, max_size=3))]
    parts += [f"{draw(KEYS)}={draw(WORDS)}" for _ in range(draw(st.integers(0, 4)))]
    return " ".join(draw(st.permutations(parts))) + draw(st.sampled_from(["\n", "\r\n", " \n"]))


def read_alone(line: str) -> Comment | str:
    try:
        return comment_of(pairs_of(line))
    except Refused as refusal:
        return str(refusal)


def one_by_one(group: Comments) -> Iterator[tuple[int, Comment]]:
    for m, k in enumerate(group.frames.tolist()):
        labels = {name: float(values[m]) for name, values in group.labels.items()}
        stress = None if group.stress is None or np.isnan(group.stress[m]).all() else group.stress[m]
        yield k, Comment(group.ids[m], group.columns, group.lattice[m], group.pbc, labels, stress)


@settings(max_examples=300)
@given(comments(), st.lists(st.tuples(st.integers(0, 200), WORDS), max_size=6))
def test_lines_read_together_say_what_each_says_alone(first: str, changes: list[tuple[int, str]]) -> None:
    lines = [first]
    for place, word in changes:
        words = first.split(" ")
        k = place % len(words)
        key, equals, _ = words[k].partition("=")
        words[k] = f"{key}={word}" if equals else words[k]
        lines.append(" ".join(words))
    ends = np.cumsum([len(line.encode()) for line in lines])
    zeros = np.zeros(len(lines), np.int64)
    begins = np.concatenate([[0], ends[:-1]])
    frames = Frames("".join(lines).encode(), begins, ends, zeros, zeros, {})
    groups, together = read_comments(frames, range(len(lines)))
    together = {**together, **{k: said for group in groups for k, said in one_by_one(group)}}
    assert sorted(together) == list(range(len(lines)))
    for k, line in enumerate(lines):
        found, alone = together[k], read_alone(line)
        if isinstance(alone, str):
            assert str(found) == alone
            continue
        assert not isinstance(found, Exception), line
        for name in ("id", "columns", "pbc", "labels"):
            assert getattr(found, name) == getattr(alone, name), (name, line)
        lattice = np.zeros((3, 3)) if alone.lattice is None else alone.lattice
        np.testing.assert_array_equal(found.lattice, lattice, err_msg=line)
        np.testing.assert_array_equal(found.stress, alone.stress, err_msg=line)


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_few_lines_are_read_one_by_one(missing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    read_alone: list[str] = []
    monkeypatch.setattr(xyz_outline, "comment_of", lambda pairs: read_alone.append("") or comment_of(pairs))
    monkeypatch.setattr(xyz_outline, "_OUTLINES", {})
    kinds = made_crystals(400, seed=3, forces=True, kinds=("cell",), labels=("energy", "foo"), missing=missing)
    (piece,) = pieces_of(b"".join(map(extxyz_frame, kinds)))
    assert len(ExtXyz().parse(piece)) == 400
    # Two labels, forces and stress are there or not: sixteen kinds of lines.
    assert len(read_alone) == (16 if missing else 1)
    assert len(ExtXyz().parse(piece)) == 400
    assert len(read_alone) == (16 if missing else 1)


def test_lines_that_all_differ_are_read_too() -> None:
    texts = [frame(f"{PROPERTIES} material_id=m{k} label_{k % 40}={k}") for k in range(120)]
    for k, crystal in enumerate(read("".join(texts))):
        assert isinstance(crystal, Crystal)
        assert (crystal.id, dict(crystal.labels)) == (f"m{k}", {f"label_{k % 40}": float(k)})
