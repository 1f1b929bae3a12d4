"""Writing crystals as files: whole or not at all, and read back as they were."""

import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import ase.io
import gemmi
import numpy as np
import pytest
from made import PERIODIC_KINDS, assert_same, made_crystals
from pymatgen.core import Molecule, Structure

from screening.crystals.crystal import Crystal
from screening.crystals.elements import SYMBOLS
from screening.crystals.formats.extxyz import ExtXyz
from screening.crystals.formats.format import Document
from screening.crystals.labels import STRESS_KEY
from screening.crystals.read import read as read_any
from screening.crystals.write import WRITERS, file_stem, write
from screening.errors import InputError, ResourceError
from screening.files.sink import Sink

ONE = Crystal("mp-1", np.array([29], np.uint8), np.zeros((1, 3)), np.eye(3) * 4)
SUFFIX = {"extxyz": "a.xyz", "jsonl": "a.jsonl", "cif": "a", "poscar": "a"}
FOLDERS = ("cif", "poscar")


def read(path: Path) -> list[Crystal]:
    entries = [e for piece in ExtXyz().split(Document(str(path), path)) for e in ExtXyz().parse(piece)]
    assert all(isinstance(entry, Crystal) for entry in entries)
    return entries  # type: ignore[return-value]


def named(*ids: str) -> list[Crystal]:
    return [Crystal(id, ONE.numbers, ONE.positions, ONE.lattice) for id in ids]


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz.gz"])
def test_extxyz_comes_back_to_the_last_bit(name: str, tmp_path: Path) -> None:
    crystals = made_crystals(60, seed=31, forces=True)
    assert write(iter(crystals), tmp_path / name, format="extxyz") == 60
    assert [path.name for path in tmp_path.iterdir()] == [name]
    for ours, expected in zip(read(tmp_path / name), crystals, strict=True):
        assert_same(ours, expected, source=False)


def test_equal_crystals_give_equal_compressed_files(tmp_path: Path) -> None:
    contents = []
    for name in ("a.xyz.gz", "b.xyz.gz"):
        write(made_crystals(20, seed=32), tmp_path / name, format="extxyz")
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert gzip.decompress(contents[0]).startswith(b"")


def test_json_lines_are_structures_for_pymatgen(tmp_path: Path) -> None:
    crystals = made_crystals(40, seed=33, forces=True, kinds=(*PERIODIC_KINDS, "slab", "molecule"))
    write(crystals, tmp_path / "a.jsonl", format="jsonl")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    for row, crystal in zip(rows, crystals, strict=True):
        kind = Structure if any(crystal.pbc) else Molecule
        structure = kind.from_dict(row["structure"])
        assert list(structure.atomic_numbers) == crystal.numbers.tolist()
        np.testing.assert_allclose(structure.cart_coords, crystal.positions, rtol=0, atol=1e-12)
        if isinstance(structure, Structure):
            np.testing.assert_array_equal(structure.lattice.matrix, crystal.lattice)
            assert structure.lattice.pbc == crystal.pbc
        assert row["material_id"] == crystal.id
        assert {name: row[name] for name in crystal.labels} == crystal.labels
        for key, expected in (("forces", crystal.forces), (STRESS_KEY, crystal.stress)):
            assert (key in row) == (expected is not None)
            if expected is not None:
                np.testing.assert_array_equal(row[key], expected)


def test_a_cif_for_each_id(tmp_path: Path) -> None:
    ids = ["mp-1", "a/b", "a:b", "a b", "a b", ".hidden", "", "..", "é" * 200, "x" * 300, "mp-1"]
    assert write(named(*ids), tmp_path / "cifs", format="cif") == len(ids)
    blocks = [gemmi.cif.read(str(path)).sole_block() for path in (tmp_path / "cifs").iterdir()]
    assert sorted(gemmi.cif.as_string(block.find_value("_material_id")) for block in blocks) == sorted(ids)
    names = {path.name for path in (tmp_path / "cifs").iterdir()}
    assert {"mp-1.cif", "mp-1-2.cif", "a_b.cif", "a_b-2.cif", "a_b-3.cif", "a_b-4.cif", "_.hidden.cif"} <= names
    assert all(not name.startswith(".") and len(name.encode()) < 256 for name in names)
    assert [path.name for path in tmp_path.iterdir()] == ["cifs"]


def test_a_folder_with_a_poscar_for_each_id(tmp_path: Path) -> None:
    ids = ["mp-1", "m1/relax", "m1:relax", "mp-1", "..", "two\nlines\ud800"]
    assert write(named(*ids), tmp_path / "vasp", format="poscar") == len(ids)
    files = {path.parent.name: path for path in (tmp_path / "vasp").glob("*/POSCAR")}
    assert sorted(files) == ["_..", "m1_relax", "m1_relax-2", "mp-1", "mp-1-2", "two_lines_"]
    assert files["m1_relax-2"].read_text().startswith("Cu m1:relax\n1.0\n4.0 0.0 0.0\n")
    assert files["two_lines_"].read_text().startswith("Cu two?lines?\n1.0\n")
    assert sorted(entry.id for entry in read_any(tmp_path / "vasp")) == sorted(files)


def test_a_poscar_is_the_same_crystal_for_us_pymatgen_and_ase(tmp_path: Path) -> None:
    crystals = made_crystals(60, seed=35, kinds=PERIODIC_KINDS)
    write(crystals, tmp_path / "vasp", format="poscar")
    ours = {crystal.id: crystal for crystal in read_any(tmp_path / "vasp") if isinstance(crystal, Crystal)}
    left_handed = 0
    for crystal in crystals:
        path = tmp_path / "vasp" / crystal.id / "POSCAR"
        species = path.read_text().splitlines()[5].split()
        assert species == list(dict.fromkeys(SYMBOLS[z] for z in crystal.numbers.tolist()))
        order = sorted(range(len(crystal)), key=lambda k: species.index(SYMBOLS[crystal.numbers[k]]))
        left_handed += bool(np.linalg.det(crystal.lattice) < 0)
        turned = crystal.lattice * np.sign(np.linalg.det(crystal.lattice))
        structure, atoms = Structure.from_file(path), ase.io.read(path)
        found = [
            (ours[crystal.id].numbers, ours[crystal.id].lattice, ours[crystal.id].positions),
            (structure.atomic_numbers, structure.lattice.matrix, structure.cart_coords),
            (atoms.numbers, atoms.cell.array, atoms.positions),
        ]
        for numbers, lattice, positions in found:
            assert list(numbers) == crystal.numbers[order].tolist()
            np.testing.assert_array_equal(lattice, turned)
            shifts = np.linalg.solve(turned.T, (positions - crystal.positions[order]).T)
            np.testing.assert_allclose(shifts, np.round(shifts), rtol=0, atol=1e-9)
    assert left_handed > 5


@pytest.mark.parametrize(("id", "stem"), [("mp-1", "mp-1"), ("Fe2O3 (hp)", "Fe2O3_(hp)"), ("..", "_.."), ("", "_")])
def test_file_stems(id: str, stem: str) -> None:
    assert file_stem(id) == stem


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cifs").mkdir()
    write([ONE], tmp_path / "cifs", format="cif")
    with pytest.raises(InputError, match="is there already"):
        write([ONE], tmp_path / "cifs", format="cif")
    assert [path.name for path in (tmp_path / "cifs").iterdir()] == ["mp-1.cif"]


def test_what_an_interrupted_process_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "cifs.part").mkdir()
    (tmp_path / "cifs.part" / "old.cif").write_text("old")
    (tmp_path / "cifs.part" / "mp-1").mkdir()
    (tmp_path / "cifs.part" / "mp-1" / "POSCAR").write_text("old")
    (tmp_path / "a.xyz.part").write_text("old")
    write([ONE], tmp_path / "cifs", format="cif")
    write([ONE], tmp_path / "a.xyz", format="extxyz")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["a.xyz", "cifs", "cifs/mp-1.cif"]


def failing(error: BaseException) -> Iterator[Crystal]:
    yield from named(*(f"mp-{k}" for k in range(3)))
    raise error


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("lost")])
@pytest.mark.parametrize("before", [True, False])
def test_an_interrupted_write_leaves_the_older_file_or_none(
    format: str, error: BaseException, before: bool, tmp_path: Path
) -> None:
    path = tmp_path / SUFFIX[format]
    if before and format not in FOLDERS:
        path.write_text("older")
    with pytest.raises(type(error)):
        write(failing(error), path, format=format)
    assert [p.read_text() for p in tmp_path.iterdir()] == (["older"] if before and format not in FOLDERS else [])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_said_and_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.xyz"
    path.write_text("older")
    original = os.pwrite

    def full(handle: int, block: bytes, place: int) -> int:
        with Path("/dev/full").open("wb", buffering=0) as device:
            return original(device.fileno(), block, place)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ResourceError, match=r"the disk is full.*is as it was before"):
        write([ONE], path, format="extxyz")
    assert path.read_text() == "older"
    assert [p.name for p in tmp_path.iterdir()] == ["a.xyz"]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    def nested() -> Iterator[Crystal]:
        with pytest.raises(ResourceError):
            write([ONE], tmp_path / "a.xyz", format="extxyz")
        yield ONE

    assert write(nested(), tmp_path / "a.xyz", format="extxyz") == 1
    assert [crystal.id for crystal in read(tmp_path / "a.xyz")] == ["mp-1"]


def test_a_second_writer_of_a_folder_is_refused(tmp_path: Path) -> None:
    def nested() -> Iterator[Crystal]:
        with pytest.raises(ResourceError, match="another process is writing"):
            write([ONE], tmp_path / "a", format="cif")
        yield ONE

    assert write(nested(), tmp_path / "a", format="cif") == 1


def test_no_crystals_make_an_empty_file(tmp_path: Path) -> None:
    assert write([], tmp_path / "a.xyz", format="extxyz") == 0
    assert (tmp_path / "a.xyz").read_bytes() == b""
    assert write([], tmp_path / "b.xyz.gz", format="extxyz") == 0
    assert gzip.decompress((tmp_path / "b.xyz.gz").read_bytes()) == b""


FLAT = Crystal("flat", ONE.numbers, ONE.positions, np.diag([4.0, 4.0, 0.0]), (True, True, True))
LAYER = Crystal("layer", ONE.numbers, ONE.positions, ONE.lattice, (True, True, False))
ODD = Crystal("odd", np.array([0], np.uint8), ONE.positions, ONE.lattice)
LOST = Crystal("lost", ONE.numbers, np.full((1, 3), np.nan), ONE.lattice)


@pytest.mark.parametrize(
    ("crystal", "format", "message"),
    [
        (FLAT, "jsonl", "flat: its lattice vectors span no volume"),
        (FLAT, "cif", "flat: its lattice vectors span no volume"),
        (FLAT, "poscar", "flat: its lattice vectors span no volume"),
        (ODD, "poscar", "odd: holds an atomic number outside 1 to 118"),
        (LAYER, "poscar", "layer: a POSCAR can only hold crystals that are periodic in three directions"),
        (ODD, "extxyz", "odd: holds an atomic number outside 1 to 118"),
        (ODD, "jsonl", "odd: holds an atomic number outside 1 to 118"),
        (LOST, "jsonl", "lost: holds a number that is not finite"),
        (Crystal("mp-1", ONE.numbers, ONE.positions, ONE.lattice, labels={"structure": 1.0}), "jsonl", "`structure`"),
    ],
)
def test_crystals_that_cannot_be_written(crystal: Crystal, format: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        write([ONE, crystal], tmp_path / SUFFIX[format], format=format)
    assert list(tmp_path.iterdir()) == []


def test_arguments_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="format must be one of extxyz, cif, poscar, jsonl, got 'xyz'"):
        write([ONE], tmp_path / "a", format="xyz")
    with pytest.raises(InputError, match="there is no folder"):
        write([ONE], tmp_path / "no" / "a.xyz", format="extxyz")
    with pytest.raises(InputError, match="a folder, expected the name of a file"):
        write([ONE], tmp_path, format="extxyz")


def test_many_blocks_are_written_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("screening.crystals.write.BLOCK_BYTES", 200)
    sizes: list[int] = []
    original: Callable[[Sink, bytes], int] = Sink.write
    monkeypatch.setattr(Sink, "write", lambda sink, block: sizes.append(len(block)) or original(sink, block))
    crystals = made_crystals(30, seed=34)
    write(crystals, tmp_path / "a.xyz", format="extxyz")
    assert len(sizes) > 10
    assert [crystal.id for crystal in read(tmp_path / "a.xyz")] == [crystal.id for crystal in crystals]


def test_json_lines_come_back_with_forces_and_stress(tmp_path: Path) -> None:
    crystals = made_crystals(20, seed=34, forces=True, kinds=PERIODIC_KINDS)
    write(crystals, tmp_path / "a.jsonl", format="jsonl")
    for back, crystal in zip(read_any(tmp_path / "a.jsonl"), crystals, strict=True):
        assert isinstance(back, Crystal)
        assert (back.id, back.labels) == (crystal.id, crystal.labels)
        for one, other in ((back.forces, crystal.forces), (back.stress, crystal.stress)):
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_array_equal(one, other)
