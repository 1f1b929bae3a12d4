"""Reading: everything comes out, in order, alike for any number of workers; one bad file never costs another."""

import itertools
import random
import shutil
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tasks
from children import children
from hypothesis import given
from hypothesis import strategies as st
from made import PERIODIC_KINDS, assert_same, made_batch, made_crystals

import screening.crystals.pack as pack_module
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.formats import FORMATS, format_of
from screening.crystals.formats.format import Document, Format, Piece
from screening.crystals.pack import readers
from screening.crystals.packed_writer import PackedWriter
from screening.crystals.read import ReadBatch, read, read_batches
from screening.crystals.validate import CrystalLimits
from screening.crystals.write import write
from screening.errors import InputError, ResourceError
from screening.machine import Processors

pytestmark = pytest.mark.native

CIF = (
    "data_{id}\n_cell_length_a 4\n_cell_length_b 4\n_cell_length_c 4\n_cell_angle_alpha 90\n_cell_angle_beta 90\n"
    "_cell_angle_gamma 90\nloop_\n_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n"
    "_atom_site_fract_z\nO1 O 0 0 0\nTi1 Ti 0.5 0.5 {z}\n"
)

POSCAR = "TiO\n1.0\n4 0 0\n0 4 0\n0 0 4\nTi O\n1 1\nDirect\n0 0 0\n.5 .5 .5\n"


def cif(id: str, z: str = "0.5") -> str:
    return CIF.format(id=id, z=z)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Good and bad files of several formats, with what each must become in its name."""
    made = tmp_path / "in"
    (made / "b2").mkdir(parents=True)
    (made / "a.cif").write_text(cif("a"))
    (made / "b2" / "bad.cif").write_text("no data block")
    (made / "b2" / "close.cif").write_text(cif("close", "0.501").replace("0.5 0.5", "0 0").replace("0.501", "0.01"))
    (made / "b2" / "nan.xyz").write_text('1\nLattice="4 0 0 0 4 0 0 0 4"\nO 0 nan 0\n')
    write(made_crystals(7, kinds=PERIODIC_KINDS, prefix="many"), made / "c.extxyz", format="extxyz")
    write(made_crystals(5, kinds=PERIODIC_KINDS, prefix="line"), made / "d.jsonl.gz", format="jsonl")
    (made / "e.json").write_text("{}")
    (made / "notes.txt").write_text("hello")
    with zipfile.ZipFile(made / "f.zip", "w") as archive:
        for path in sorted((made / "b2").iterdir()):
            archive.write(path, path.name)
    shutil.copy(made / "a.cif", made / "g.cif")
    (made / "h").mkdir()
    shutil.copy(made / "a.cif", made / "h" / "a.cif")
    return made


def ids(entries: Iterator[Crystal | Rejection] | ReadBatch) -> list[str]:
    return [entry.id for entry in entries]


def test_a_mixed_folder_in_order(folder: Path) -> None:
    entries = list(read(folder))
    accepted = [e.id for e in entries if isinstance(e, Crystal)]
    assert accepted == ["a", *(f"many-{k:06d}" for k in range(7)), *(f"line-{k:06d}" for k in range(5)), "g", "h/a"]
    refused = [(e.source.removeprefix(str(folder) + "/"), e.reason) for e in entries if isinstance(e, Rejection)]
    assert refused == [
        ("b2/bad.cif", Reason.UNREADABLE),
        ("b2/close.cif", Reason.ATOMS_TOO_CLOSE),
        ("b2/nan.xyz", Reason.NON_FINITE),
        ("e.json", Reason.EMPTY),
        ("f.zip::bad.cif", Reason.UNREADABLE),
        ("f.zip::close.cif", Reason.ATOMS_TOO_CLOSE),
        ("f.zip::nan.xyz", Reason.NON_FINITE),
    ]
    sources = [e.source.partition("#")[0] for e in entries]
    assert sources == sorted(sources, key=lambda s: [p for p, _ in itertools.groupby(sources)].index(s))


def test_totals_and_what_is_passed_over(folder: Path) -> None:
    batches = list(read_batches(folder))
    assert sum(map(len, batches)) == 14 + 8
    assert [name for batch in batches for name in batch.skipped] == [str(folder / "notes.txt")]
    assert sum(batch.weight for batch in batches) > 0


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_gives_the_same(folder: Path, workers: int) -> None:
    alone, together = list(read_batches(folder)), list(read_batches(folder, workers=workers))
    assert len(alone) == len(together)
    for ours, expected in zip(together, alone, strict=True):
        assert ours.rejections == expected.rejections
        assert list(ours.rejected_entries) == list(expected.rejected_entries)
        assert ours.skipped == expected.skipped
        for a, b in zip(ours.crystals, expected.crystals, strict=True):
            assert_same(a, b)


def test_batches_are_bounded_and_independent_of_workers(tmp_path: Path) -> None:
    crystals = made_batch(3000)
    write(crystals, tmp_path / "c.extxyz", format="extxyz")
    sizes = [[len(b) for b in read_batches(tmp_path / "c.extxyz", workers=w)] for w in (1, 2)]
    assert sizes[0] == sizes[1]
    assert len(sizes[0]) > 2
    for ours, expected in zip(read(tmp_path / "c.extxyz", workers=2), crystals, strict=True):
        assert isinstance(ours, Crystal)
        assert_same(ours, expected, source=False)


def test_the_first_of_equal_ids_is_kept(tmp_path: Path) -> None:
    crystals = made_crystals(4, kinds=PERIODIC_KINDS)
    for name in ("a.extxyz", "b.extxyz"):
        write([*crystals, *crystals[:1]], tmp_path / name, format="extxyz")
    entries = list(read([tmp_path / "a.extxyz", tmp_path / "b.extxyz"]))
    assert [isinstance(e, Crystal) for e in entries] == [True] * 4 + [False] * 6
    assert {e.reason for e in entries if isinstance(e, Rejection)} == {Reason.DUPLICATE_ID}
    assert entries[4] == Rejection(
        crystals[0].id,
        f"{tmp_path / 'a.extxyz'}#4",
        Reason.DUPLICATE_ID,
        f"{crystals[0].id}: an earlier crystal has this id and is kept; give each crystal an id of its own",
    )


# Inputs as a user names them in a folder that holds what LAYOUT says, and the ids they get.
LAYOUT = (
    "a.cif",
    "m1/structure.cif",
    "m2/structure.cif",
    "m2/old/a.cif",
    "vasp/POSCAR",
    "vasp/1/relax/CONTCAR",
    "vasp/2/relax/CONTCAR",
    "vasp/2/POSCAR_start",
)
BELOW = {
    ".": (
        *("a", "m1/structure", "m2/old/a", "m2/structure"),
        *("vasp/1/relax", "vasp/2/start", "vasp/2/relax", "vasp"),
    ),
    "a.cif": ("a",),
    "m2": ("old/a", "structure"),
    "m2/structure.cif": ("structure",),
    "m1/structure.cif m2/structure.cif": ("m1/structure", "m2/structure"),
    "m2/../m1 m2/old": ("m1/structure", "m2/old/a"),
    "m2 m2/old/a.cif": ("old/a", "structure", "old/a"),
    "a.cif m1": ("a", "m1/structure"),
    "vasp": ("1/relax", "2/start", "2/relax", "vasp"),
    "vasp/1/relax vasp/2/relax": ("1/relax", "2/relax"),
    "vasp/1/relax/CONTCAR": ("relax",),
}


@pytest.mark.parametrize("inputs", BELOW)
def test_an_id_made_of_a_file_name_is_its_path_below_the_folder_that_all_inputs_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: str
) -> None:
    for name in LAYOUT:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(cif("a") if name.endswith(".cif") else POSCAR)
    found = list(read([tmp_path / name for name in inputs.split()]))
    assert sorted(e.id for e in found) == sorted(BELOW[inputs])
    assert all(isinstance(e, Crystal) for e in found[: len(set(BELOW[inputs]))])
    monkeypatch.chdir(tmp_path)
    assert [e.id for e in read(inputs.split())] == [e.id for e in found]


def test_an_archive_counts_as_a_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for path in (tmp_path / "f.zip", tmp_path / "sub" / "g.zip"):
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("a.cif", "./m1/structure.cif", "m2/structure.cif", "m3/bad.cif"):
                archive.writestr(name, "none" if "bad" in name else cif("a"))
            archive.writestr("m4/POSCAR", POSCAR)
            archive.writestr("POSCAR", POSCAR)
    inside = ["a", "m1/structure", "m2/structure", "m3/bad", "m4"]
    assert ids(read(tmp_path / "f.zip")) == [*inside, "f"]
    assert ids(read(tmp_path)) == [*(f"f/{id}" for id in inside), "f", *(f"sub/g/{id}" for id in inside), "sub/g"]
    assert ids(read([tmp_path / "f.zip", tmp_path / "sub" / "g.zip"])) == ids(read(tmp_path))


def test_what_cannot_be_opened_has_its_path_as_the_id_too(tmp_path: Path) -> None:
    for name in ("m1/x.cif", "m2/x.zip"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).symlink_to(tmp_path / "gone")
    assert ids(read(tmp_path)) == ["m1/x", "m2/x"]
    (tmp_path / "m2/x.zip").unlink()
    (tmp_path / "m2/x.zip").write_text("none")
    assert ids(read(tmp_path)) == ["m1/x", "m2/x"]


def test_ids_with_slashes_come_back_from_every_output(tmp_path: Path) -> None:
    for name in ("m/1/x.cif", "m_1/x.cif", "m/1_x.cif"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(cif("a"))
    crystals = [entry for entry in read(tmp_path / "in") if isinstance(entry, Crystal)]
    expected = [crystal.id for crystal in crystals]
    assert sorted(expected) == ["m/1/x", "m/1_x", "m_1/x"]
    for name, format in (("c.extxyz", "extxyz"), ("c.jsonl", "jsonl"), ("cifs", "cif")):
        write(crystals, tmp_path / name, format=format)
        assert sorted(ids(read(tmp_path / name))) == sorted(expected)
    assert sorted(path.name for path in (tmp_path / "cifs").iterdir()) == ["m_1_x-2.cif", "m_1_x-3.cif", "m_1_x.cif"]


def test_a_refused_crystal_does_not_take_the_id(tmp_path: Path) -> None:
    named = cif("x") + "_material_id same\n"
    (tmp_path / "1.cif").write_text(named.replace("_a 4", "_a 0.001"))
    (tmp_path / "2.cif").write_text(named)
    first, second = read(tmp_path)
    assert isinstance(first, Rejection)
    assert first.reason == Reason.TINY_VOLUME
    assert isinstance(second, Crystal)
    assert first.id == second.id == "same"


def test_limits_reach_the_workers(folder: Path) -> None:
    for workers in (1, 2):
        entries = list(read(folder / "a.cif", limits=CrystalLimits(max_atoms=1), workers=workers))
        assert [e.reason for e in entries if isinstance(e, Rejection)] == [Reason.TOO_MANY_ATOMS]


def test_what_is_named_must_be_readable(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "a.cif").write_text(cif("a"))
    with pytest.raises(InputError, match=r"notes.txt: neither its name nor its content .* CIF \(.cif\), POSCAR"):
        read([tmp_path / "a.cif", tmp_path / "notes.txt"])
    with pytest.raises(InputError, match="no such file or folder"):
        read([tmp_path / "a.cif", tmp_path / "b.cif"])
    with pytest.raises(InputError, match="nothing to read"):
        read([])
    with pytest.raises(InputError, match="workers must be at least 1"):
        read(tmp_path / "a.cif", workers=0)
    assert ids(read(str(tmp_path / "a.cif"))) == ["a"]


def test_outputs_of_the_same_run_are_no_inputs(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(cif("a"))
    (tmp_path / "out.h5.part").write_text("half")
    (tmp_path / "out.h5.0123abcd.part").write_text("half")
    (tmp_path / "out.h5").write_text("old")
    (tmp_path / "cifs").mkdir()
    (tmp_path / "cifs" / "b.cif").write_text(cif("b"))
    batches = list(read_batches(tmp_path, ignore=[tmp_path / "out.h5", tmp_path / "cifs"]))
    assert [(ids(b), b.skipped) for b in batches] == [(["a"], [])]
    named = list(read([tmp_path / "cifs"]))
    assert ids(iter(named)) == ["b"]


# --- formats ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "format"),
    [
        (cif("a").encode(), "cif"),
        (b"# comment\n\n" + cif("a").encode(), "cif"),
        (b"TiO\n1.0\n4 0 0\n0 4 0\n0 0 4\nTi O\n1 1\nDirect\n0 0 0\n.5 .5 .5\n", "poscar"),
        (b"TiO\n-64.0\n4 0 0\n0 4. 0\n0 0 4\n1 1\nDirect\n0 0 0\n.5 .5 .5\n", "poscar"),
        (b'1\nLattice="4 0 0 0 4 0 0 0 4"\nO 0 0 0\n', "extxyz"),
        (b"1\nplain\nO 0 0 0\n", "extxyz"),
        (b'{"structure": {}}', "json"),
        (b"\x89HDF\r\n\x1a\n....", "packed"),
        (b"SQLite format 3\0...", "ase"),
        (b"hello\nworld\n", None),
        (b"1, 2, 3\n", None),
        (b"", None),
    ],
)
def test_named_files_are_told_by_content(tmp_path: Path, content: bytes, format: str | None) -> None:
    (tmp_path / "unknown").write_bytes(content)
    document = Document("unknown", tmp_path / "unknown")
    found = format_of(document, by_content=True)
    assert (None if found is None else found.name) == format
    assert format_of(document) is None


def test_packed_files_are_an_input(tmp_path: Path) -> None:
    crystals = made_crystals(30, forces=True)
    kept = [Rejection("x", "y.cif", Reason.EMPTY, "x: has no atoms")]
    with PackedWriter(tmp_path / "c.h5") as writer:
        writer.append(Crystals.of(crystals), kept)
    for path in (tmp_path / "c.h5", _zipped(tmp_path / "c.h5")):
        *accepted, refused = read(path)
        assert refused == kept[0]
        for ours, expected in zip(accepted, crystals, strict=True):
            assert isinstance(ours, Crystal)
            assert_same(ours, expected)


def _zipped(path: Path) -> Path:
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        archive.write(path, path.name)
    return path.with_suffix(".zip")


def test_a_damaged_packed_file_refuses_every_row_it_had(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    with PackedWriter(path) as writer:
        writer.append(Crystals.of(made_crystals(300, max_atoms=9)))
    content = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        chunk = file["positions"].id.get_chunk_info(0)
    content[chunk.byte_offset + chunk.size // 2] ^= 1
    path.write_bytes(content)
    entries = list(read(path))
    assert len(entries) == 300
    assert {e.reason for e in entries if isinstance(e, Rejection)} == {Reason.UNREADABLE}
    assert "row 7: " in entries[7].message  # type: ignore[union-attr]
    path.write_bytes(content[: len(content) // 2])
    (refused,) = read(path)
    assert isinstance(refused, Rejection)
    assert "cannot open it as packed crystals" in refused.message


class Broken(Format):
    """A format that breaks its contract in every way."""

    name = "broken"

    def claims(self, file_name: str) -> bool:
        return file_name.endswith(".broken")

    def split(self, document: Document) -> Iterator[Piece]:
        text = document.read().decode()
        if "nothing" in text:
            return
        yield Piece(self.name, document, text, 0, 10)
        if "split" in text:
            raise MemoryError

    def parse(self, piece: Piece) -> list[Crystal | Rejection]:
        if "parse" in piece.payload:
            raise ZeroDivisionError("odd")
        if "fatal" in piece.payload:
            raise ResourceError("no memory left")
        return [made_crystals(1, prefix=piece.document.stem)[0]]


@pytest.fixture
def _broken_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "broken", Broken())


@pytest.mark.usefixtures("_broken_format")
def test_a_format_that_raises_costs_only_its_own_entries(tmp_path: Path) -> None:
    for k, text in enumerate(["fine", "parse", "split", "nothing", "fine"]):
        (tmp_path / f"{k}.broken").write_text(text)
    entries = list(read(tmp_path))
    assert [e.id for e in entries if isinstance(e, Crystal)] == ["0-000000", "2-000000", "4-000000"]
    messages = [e.message.removeprefix(f"{tmp_path}/") for e in entries if isinstance(e, Rejection)]
    assert messages == [
        "1.broken, 10 bytes from entry 0 on: cannot be read (ZeroDivisionError: odd)",
        "2.broken: cannot be read (MemoryError)",
        "3.broken: holds no crystal",
    ]


@pytest.mark.usefixtures("_broken_format")
def test_what_would_fail_every_crystal_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "1.broken").write_text("fatal")
    with pytest.raises(ResourceError, match="no memory left"):
        list(read(tmp_path))


# --- processes -------------------------------------------------------------------------------------------------


def test_an_entry_that_kills_its_process_is_refused_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("screening.crystals.read.parsed", tasks.deadly_parsed)
    monkeypatch.setattr("screening.crystals.read.GROUP_PARTS", 10)
    for k in range(40):
        (tmp_path / f"{k}.cif").write_text(cif(str(k)) + ("# kill the reader\n" if k in (13, 38) else ""))
    entries = list(read(tmp_path, workers=2))
    assert [e.id for e in entries] == [str(k) for k in range(40)]
    refused = [e for e in entries if isinstance(e, Rejection)]
    assert [e.id for e in refused] == ["13", "38"]
    for e in refused:
        assert e.reason == Reason.UNREADABLE
        assert "the process that parsed it died twice: SIGSEGV" in e.message
    assert children() == []


def test_a_process_killed_from_outside_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("screening.crystals.read.GROUP_PARTS", 5)
    for k in range(60):
        (tmp_path / f"{k}.cif").write_text(cif(str(k)))
    entries = []
    for n, batch in enumerate(read_batches(tmp_path, workers=2)):
        entries += list(batch)
        if n in (0, 3):
            random.Random(n).choice(children()).send_signal(signal.SIGKILL)
    assert [e.id for e in entries if isinstance(e, Crystal)] == [str(k) for k in range(60)]


def test_leaving_early_leaves_no_process(tmp_path: Path) -> None:
    write(made_batch(3000), tmp_path / "c.extxyz", format="extxyz")
    batches = read_batches(tmp_path, workers=2)
    next(batches)
    assert children()
    batches.close()
    assert children() == []


# --- batches ---------------------------------------------------------------------------------------------------


@given(data=st.data(), size=st.integers(0, 12))
def test_refusing_keeps_the_order_of_entries(data: st.DataObject, size: int) -> None:
    crystals = made_crystals(size, max_atoms=2, labels=())
    batch, gone = ReadBatch(Crystals.of(crystals)), set[str]()
    for _ in range(3):
        some: Any = st.sets(st.integers(0, len(batch.crystals) - 1)) if len(batch.crystals) else st.just(set())
        rows = np.array(sorted(data.draw(some)), np.int64)
        refused = [Rejection(batch.crystals.ids[r], "", Reason.EMPTY, "") for r in rows]
        gone |= {r.id for r in refused}
        kept = batch.crystals.take(np.delete(np.arange(len(batch.crystals)), rows))
        batch = batch.refusing(rows, refused, kept)
    assert len(batch) == size
    assert ids(batch) == [c.id for c in crystals]
    assert {e.id for e in batch if isinstance(e, Rejection)} == gone


def test_small_files_are_read_by_one_process_and_what_is_dear_by_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_module, "processors", lambda: Processors(64, 5, "affinity"))
    small, compressed = tmp_path / "a.extxyz", tmp_path / "a.extxyz.gz"
    write(made_crystals(2), small, format="extxyz")
    write(made_crystals(2), compressed, format="extxyz")
    assert readers([small]) == 1
    assert readers([small], dear=True) == 5
    assert readers([small, compressed]) == 5, "what it weighs unpacked is not known"
    monkeypatch.setattr(pack_module, "SMALL_BYTES", small.stat().st_size)
    assert readers([small]) == 5
    monkeypatch.setattr(pack_module, "processors", lambda: Processors(64, 60, "affinity"))
    assert readers([small]) == pack_module.MOST_READERS
