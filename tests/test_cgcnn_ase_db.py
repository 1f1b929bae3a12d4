"""CGCNN folders, ASE databases and trajectories: in order, with labels, and nothing disappears."""

import gzip
import sqlite3
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io.jsonio import encode
from ase.io.trajectory import Trajectory
from entries import MUTATIONS, Entry, Mutations, accepted, assert_entries, entries, mutated, only, refused
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.formats import ase_db, cgcnn_folder, pymatgen_json
from screening.crystals.formats.ase_db import AseDb
from screening.crystals.formats.cgcnn_folder import CgcnnFolder
from screening.crystals.formats.format import Document
from screening.crystals.formats.pymatgen_json import PymatgenJson

CGCNN, ASE, JSON = CgcnnFolder(), AseDb(), PymatgenJson()
NACL = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with four CIF files."""
    for name in ("a", "b", "c", "10"):
        (tmp_path / f"{name}.cif").write_text(NACL.to(fmt="cif"))
    (tmp_path / "atom_init.json").write_text("{}")
    return tmp_path


def listed(folder: Path, text: str) -> list[Entry]:
    (folder / "id_prop.csv").write_text(text)
    return entries(CGCNN, folder)


# CGCNN folders.


def test_a_folder_in_the_order_of_its_list(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgcnn_folder, "ROWS_PER_PIECE", 2)
    found = listed(folder, "c,1.5\n10,-2\na,nan\n\nb,3e-1\n")
    crystals = accepted(found)
    assert [c.id for c in crystals] == ["c", "10", "a", "b"]
    assert [dict(c.labels) for c in crystals] == [{"target_0": 1.5}, {"target_0": -2}, {}, {"target_0": 0.3}]
    assert [c.source for c in crystals] == [f"{folder}/{c.id}.cif" for c in crystals]
    assert all(sorted(c.numbers) == sorted(NACL.atomic_numbers) for c in crystals)
    by_file = entries(CGCNN, folder / "id_prop.csv")
    assert [(e.id, e.source) for e in by_file] == [(e.id, e.source) for e in found]
    assert CGCNN.claims("id_prop.csv")
    assert not CGCNN.claims("prop.csv")


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("a,1,2\nb,3,inf\nc,,5\n10,7,8\n", [{"target_0": 1, "target_1": 2}, {"target_0": 3}, {"target_1": 5}]),
        ("id,e_form,my gap\na,1,2\nb,3,None\nc,,5\n10,0,0\n", [{0: 1, 1: 2}, {0: 3}, {1: 5}]),
        ("\ufeffcif_id,band_gap,\na.cif,1,2\nb,3,x\nc,nan,5\n10,0,0\n", [{2: 1, 3: 2}, {2: 3}, {3: 5}]),
        ("id\na\nb\nc\n10\n", [{}, {}, {}]),
        ("a\nb\nc\n10\n", [{}, {}, {}]),
        ("a,inf\nb,\nc,n/a\n10,nan", [{}, {}, {}]),
    ],
)
def test_targets_of_several_columns(folder: Path, text: str, labels: list[dict[object, float]]) -> None:
    names = {0: "formation_energy_per_atom", 1: "my gap", 2: "band_gap", 3: "target_1"}
    crystals = accepted(listed(folder, text))
    assert [c.id for c in crystals] == ["a", "b", "c", "10"]
    expected = [{names[k] if isinstance(k, int) else k: v for k, v in row.items()} for row in labels]
    assert [dict(c.labels) for c in crystals[:3]] == expected


def test_a_header_is_no_crystal_but_a_crystal_may_look_like_one(folder: Path) -> None:
    (folder / "a.cif").rename(folder / "id.cif")
    found = listed(folder, "id,unknown\nb,1\nc,2\n10,3\n")
    assert [c.id for c in accepted(found)] == ["id", "b", "c", "10"]


def test_what_is_listed_but_absent_is_refused(folder: Path) -> None:
    (folder / "b.cif").write_text("data_b\nloop_\n_atom_site_label\nX\n")
    (folder / "c.cif").rename(folder / "c.txt")
    (folder / "10.cif").write_bytes(gzip.compress(b""))
    found = listed(folder, "a,1\nb,2\nc,3\n10,4\n../a,5\n,6\n")
    assert [e.id for e in found[:5]] == ["a", "b", "c", "10", "../a"]
    assert [type(e) for e in found] == [Crystal] + [Rejection] * 5
    assert "there is no c.cif" in found[2].message  # type: ignore[union-attr]
    assert "there is no ../a.cif" in found[4].message  # type: ignore[union-attr]
    assert "no id" in found[5].message  # type: ignore[union-attr]


def test_gzipped_cifs(folder: Path) -> None:
    for name in ("a", "b"):
        content = gzip.compress((folder / f"{name}.cif").read_bytes())
        (folder / f"{name}.cif").unlink()
        (folder / f"{name}.cif.gz").write_bytes(content if name == "a" else content[:-20])
    found = listed(folder, "a,1\nb,2\nc,3\n10,4\n")
    assert [type(e) for e in found] == [Crystal, Rejection, Crystal, Crystal]
    assert found[0].source == f"{folder}/a.cif.gz"


def test_what_is_not_listed_is_told(folder: Path) -> None:
    rejection = refused(listed(folder, "b,1\n"), Reason.UNREADABLE)
    assert "does not list 10.cif, a.cif, c.cif: not read" in rejection.message
    assert (rejection.id, rejection.source) == (folder.name, str(folder))
    for k in range(10):
        (folder / f"more{k}.cif").touch()
    assert "and 8 more" in refused(listed(folder, "b,1\n"), Reason.UNREADABLE).message


def test_folders_without_a_usable_list(folder: Path) -> None:
    assert "No such file" in refused(entries(CGCNN, folder), Reason.UNREADABLE).message
    for path in folder.glob("*.cif"):
        path.unlink()
    refused(listed(folder, ""), Reason.EMPTY)
    archived = refused(entries(CGCNN, b"a,1\n", "set.zip::set/id_prop.csv"), Reason.UNREADABLE)
    assert "extract the archive" in archived.message


# ASE.


def made_atoms() -> list[Atoms]:
    rng = np.random.default_rng(0)
    made = []
    for k in range(7):
        pbc = [[True] * 3, [True, True, False], [False] * 3][k % 3]
        atoms = Atoms("NaCl", rng.normal(size=(2, 3)), cell=rng.normal(size=(3, 3)) if k % 3 < 2 else None, pbc=pbc)
        if k % 2:
            atoms.calc = SinglePointCalculator(
                atoms, energy=-k, forces=rng.normal(size=(2, 3)), stress=np.arange(6.0), magmom=0.5
            )
            atoms.set_constraint(FixAtoms([0]))
        made.append(atoms)
    return made


def assert_atoms(crystals: list[Crystal], expected: list[Atoms]) -> None:
    assert len(crystals) == len(expected)
    for crystal, atoms in zip(crystals, expected, strict=True):
        np.testing.assert_array_equal(crystal.numbers, atoms.numbers)
        np.testing.assert_array_equal(crystal.positions, atoms.positions)
        np.testing.assert_array_equal(crystal.lattice, atoms.cell.array)
        assert crystal.pbc == tuple(atoms.pbc)
        if atoms.calc is None:
            assert crystal.forces is None
            assert crystal.stress is None
            assert "energy" not in crystal.labels
        else:
            assert crystal.labels["energy"] == atoms.get_potential_energy()
            assert crystal.labels["total_magnetization"] == 0.5
            np.testing.assert_array_equal(crystal.forces, atoms.get_forces(apply_constraint=False))
            np.testing.assert_array_equal(crystal.stress, atoms.get_stress(voigt=False, apply_constraint=False))


def written(path: Path) -> list[Atoms]:
    made = made_atoms()
    with connect(path) as database:
        for k, atoms in enumerate(made):
            database.write(atoms, e_form=0.1 * k, tag=f"t{k}", relaxed=k > 3, data={"secret": 1.0})
        database.delete([3])
    del made[2]
    return made


@pytest.fixture(params=["many", "few"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of two entries, or of all."""
    if request.param == "few":
        monkeypatch.setattr(ase_db, "ENTRIES_PER_PIECE", 2)
        monkeypatch.setattr(pymatgen_json, "SMALL", 0)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("name", ["a.db", "b.json"])
def test_databases(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    made = written(path)
    before = path.read_bytes()
    crystals = accepted(entries(JSON if name == "b.json" else ASE, path))
    assert_atoms(crystals, made)
    assert [c.id for c in crystals] == [row.unique_id for row in connect(path).select()]
    assert [c.source for c in crystals] == [f"{path}#{k}" for k in range(6)]
    assert dict(crystals[0].labels) == {"formation_energy_per_atom": 0, "relaxed": 0}
    assert crystals[5].labels["relaxed"] == 1
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize("name", ["set.zip::a.db", "set.zip::a.db.gz", "set.zip::a"])
def test_databases_in_archives(tmp_path: Path, name: str) -> None:
    made = written(tmp_path / "a.db")
    content = (tmp_path / "a.db").read_bytes()
    found = entries(ASE, gzip.compress(content) if name.endswith(".gz") else content, name)
    assert_atoms(accepted(found), made)
    assert found[0].source == f"{name}#0"


def test_an_id_among_the_key_value_pairs_wins(tmp_path: Path) -> None:
    with connect(tmp_path / "a.db") as database:
        database.write(made_atoms()[0], material_id="mp-1", name="salt")
    crystal = only(entries(ASE, tmp_path / "a.db"))
    assert (crystal.id, crystal.source) == ("mp-1", str(tmp_path / "a.db"))


def test_a_damaged_row_costs_only_itself(tmp_path: Path) -> None:
    written(tmp_path / "a.db")
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("UPDATE systems SET positions = X'00' WHERE id = 2")
        connection.execute("UPDATE systems SET numbers = 'text' WHERE id = 4")
        connection.execute("UPDATE systems SET key_value_pairs = '{' WHERE id = 5")
        connection.execute("UPDATE systems SET numbers = X'', positions = X'' WHERE id = 6")
    connection.close()
    found = entries(ASE, tmp_path / "a.db")
    assert [type(e) for e in found] == [Crystal, Rejection, Rejection, Rejection, Rejection, Crystal]
    reasons = [e.reason for e in found if isinstance(e, Rejection)]
    assert reasons == [Reason.UNREADABLE, Reason.UNREADABLE, Reason.UNREADABLE, Reason.EMPTY]


def test_rows_that_disappear_between_cutting_and_reading_are_told(tmp_path: Path) -> None:
    written(tmp_path / "a.db")
    (piece,) = ASE.split(Document("a.db", tmp_path / "a.db"))
    connect(tmp_path / "a.db").delete([1])
    found = ASE.parse(piece)
    assert [type(e) for e in found] == [Rejection] + [Crystal] * 5
    assert "disappeared" in refused(found, Reason.UNREADABLE).message
    (tmp_path / "a.db").unlink()
    assert [type(e) for e in ASE.parse(piece)] == [Rejection] * 6


@pytest.mark.parametrize("name", ["a.db", "a.traj", "a.aselmdb"])
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 5000, b"SQLite format 3\0" + b"\1" * 200, b"- of UlmASE-Trajectory  "]
)
def test_files_that_are_none_of_these(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(entries(ASE, tmp_path / name), Reason.UNREADABLE)
    refused(entries(ASE, tmp_path / f"missing-{name}"), Reason.UNREADABLE)
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


def test_an_empty_database_and_one_of_another_program(tmp_path: Path) -> None:
    database = connect(tmp_path / "a.db")
    database.delete([database.write(made_atoms()[0])])
    refused(entries(ASE, tmp_path / "a.db"), Reason.EMPTY)
    with sqlite3.connect(tmp_path / "b.db") as connection:
        connection.execute("CREATE TABLE music (title TEXT)")
    connection.close()
    assert "no such table: systems" in refused(entries(ASE, tmp_path / "b.db"), Reason.UNREADABLE).message


@pytest.mark.usefixtures("pieces")
def test_trajectories(tmp_path: Path) -> None:
    path = tmp_path / "relax.traj"
    made = made_atoms()
    made[1].info = {"material_id": "mp-5", "gap": 1.5, "array": np.ones(3)}
    with Trajectory(path, "w") as trajectory:
        for atoms in made:
            trajectory.write(atoms)
    crystals = accepted(entries(ASE, path))
    assert_atoms(crystals, made)
    assert [c.id for c in crystals] == ["relax#0", "mp-5", *(f"relax#{k}" for k in range(2, 7))]
    assert crystals[1].labels["band_gap"] == 1.5
    for name in ("set.zip::relax.traj", "set.zip::relax"):
        assert_atoms(accepted(entries(ASE, path.read_bytes(), name)), made)


@pytest.mark.usefixtures("pieces")
def test_a_trajectory_of_one_composition(tmp_path: Path) -> None:
    made = [atoms for atoms in made_atoms() if atoms.pbc.all()]
    with Trajectory(tmp_path / "md.traj", "w") as trajectory:
        for atoms in made:
            trajectory.write(atoms)
    assert_atoms(accepted(entries(ASE, tmp_path / "md.traj")), made)


@pytest.mark.usefixtures("pieces")
def test_lmdb_databases(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb", reason="the optional package lmdb is not installed")
    path = tmp_path / "omat.aselmdb"
    made = lmdb_written(lmdb, path)
    found = entries(ASE, path)
    broken = refused(found, Reason.UNREADABLE)
    assert found.index(broken) == 6
    crystals = [e for e in found if isinstance(e, Crystal)]
    assert_atoms(crystals, made)
    assert [c.id for c in crystals] == [f"u{k}" for k in (0, 1, 3, 4, 5, 6)]
    content = path.read_bytes()
    assert len(entries(ASE, content, "set.zip::omat.aselmdb")) == 7
    assert "truncated" in refused(entries(ASE, content[: len(content) // 2], "half.aselmdb"), Reason.UNREADABLE).message


def lmdb_written(lmdb: object, path: Path) -> list[Atoms]:
    """Seven rows of which row 3 was deleted, and row 8 that is no JSON."""
    made = made_atoms()
    with lmdb.open(str(path), subdir=False, map_size=1 << 22) as database, database.begin(write=True) as changes:  # type: ignore[attr-defined]
        for k, atoms in enumerate(made):
            row = {"numbers": atoms.numbers, "positions": atoms.positions.tolist(), "pbc": atoms.pbc}
            row |= {"cell": atoms.cell.array, "unique_id": f"u{k}", "key_value_pairs": {}, "data": {"id": "x"}}
            if atoms.calc is not None:
                row |= {name: atoms.calc.results[name] for name in ("energy", "forces", "stress", "magmom")}
            changes.put(str(k + 1).encode(), zlib.compress(encode(row).encode()))
        changes.put(b"8", zlib.compress(b"{"))
        changes.put(b"nextid", zlib.compress(b"9"))
        changes.put(b"deleted_ids", zlib.compress(b"[3]"))
    (path.parent / f"{path.name}-lock").unlink()
    return [*made[:2], *made[3:]]


def test_lmdb_databases_ask_for_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    assert "pip install lmdb" in refused(entries(ASE, b"", "a.aselmdb"), Reason.UNREADABLE).message


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of a database and a trajectory."""
    folder = tmp_path_factory.mktemp("seeds")
    with connect(folder / "a.db") as database:
        for atoms in made_atoms()[:3]:
            database.write(atoms, e_form=1)
    with Trajectory(folder / "a.traj", "w") as trajectory:
        for atoms in made_atoms()[:3]:
            trajectory.write(atoms)
    return {name: (folder / name).read_bytes() for name in ("a.db", "a.traj")}


@given(name=st.sampled_from(["a.db", "a.traj"]), mutations=MUTATIONS)
def test_mutated_files_never_raise(seeds: dict[str, bytes], name: str, mutations: Mutations) -> None:
    assert_entries(entries(ASE, mutated(seeds[name], mutations), name), name)


@given(text=st.text(alphabet='a,b"\n\r10.;inf ', max_size=60))
def test_any_list_is_entries(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("list")
    (folder / "a.cif").write_text(NACL.to(fmt="cif"))
    assert listed(folder, text)
