"""CIF files of one and of many blocks, long ones in stretches, damaged ones; and what write_cif writes."""

import gzip
import warnings
from pathlib import Path

import numpy as np
import pytest
from cif_texts import CIF, SALT, assert_same_crystal, block, fractional, numbers_of, read
from entries import MUTATIONS, Mutations, accepted, entries, mutated, only, refused
from hypothesis import given
from hypothesis import strategies as st
from made import PERIODIC_KINDS, made_crystal, made_crystals
from pymatgen.io.cif import CifParser
from spacegroups import cif_of, grown

from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.formats import cif_stretches
from screening.crystals.formats.cif import WHOLE, parse_cif_text
from screening.crystals.formats.cif_writer import write_cif
from screening.crystals.formats.format import Document
from screening.errors import InputError


def test_several_blocks() -> None:
    text = block("x") + "data_bad\n_cell_length_a\n" + block("y") + block("x") + block("") + "data_global\n_a 1\n"
    found = read(text, "many.cif")
    assert [entry.id for entry in found] == ["many:x", "many:bad", "many:y", "many:x:3", "many:4", "many:global"]
    assert [entry.source for entry in found] == [f"many.cif#{k}" for k in range(6)]
    assert [getattr(entry, "reason", None) for entry in found] == [None, "unreadable", None, None, None, "empty"]


def test_an_id_in_the_block_comes_first() -> None:
    found = read(block("x") + "_material_id mp-22862\n" + block("y") + "_material_id ?\n", "many.cif")
    assert [entry.id for entry in found] == ["mp-22862", "many:y"]


def long_file(blocks: int) -> tuple[str, list[str]]:
    """A file of many blocks, with lines in text fields that look like blocks, one block broken, one name twice."""
    texts, names, rng = [], [], np.random.default_rng(0)
    for k in range(blocks):
        name = "twice" if k in (3, blocks - 2) else f"b{k}"
        trap = f"_publ_section_comment\n;\ndata_trap{k}\n;\n" if k % 3 == 0 else ""
        trap += f"# {rng.bytes(300).hex()}\n"  # so that it does not shrink to nothing in gzip
        broken = "_journal_name\n" if k == blocks // 2 else ""
        texts.append(block(name, a=3 + k / blocks) + trap + broken)
        names.append(f"long:{name}:{k}" if k == blocks - 2 else f"long:{name}")
    return "# a comment before\n" + "".join(texts), names


@pytest.mark.parametrize("packing", ["path", "content", "gz"])
def test_a_long_file_is_read_in_stretches(tmp_path: Path, packing: str) -> None:
    text, names = long_file(4000)
    assert len(text) > WHOLE
    path = tmp_path / ("long.cif.gz" if packing == "gz" else "long.cif")
    path.write_bytes(gzip.compress(text.encode()) if packing == "gz" else text.encode())
    document = Document(str(path), content=path.read_bytes()) if packing == "content" else Document(str(path), path)
    pieces = list(CIF.split(document))
    assert len(pieces) > 2
    assert all(piece.weight <= 2 * cif_stretches.STRETCH + cif_stretches.READ for piece in pieces)
    assert all(piece.document.content is None for piece in pieces)
    found = entries(CIF, path.read_bytes(), str(path)) if packing == "content" else entries(CIF, path)
    assert [entry.id for entry in found] == names
    assert [entry.source for entry in found] == [f"{path}#{k}" for k in range(len(names))]
    wrong = [k for k, entry in enumerate(found) if isinstance(entry, Rejection)]
    assert wrong == [2000]
    lengths = [entry.lattice[0, 0] for entry in found if isinstance(entry, Crystal)]
    np.testing.assert_allclose(lengths, [3 + k / 4000 for k in range(4000) if k != 2000])


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 16])
def test_stretches_do_not_depend_on_how_the_stream_comes(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    text, names = long_file(12)
    text = text.replace("\n", "\r\n") if size == 7 else text
    monkeypatch.setattr(cif_stretches, "READ", size)
    monkeypatch.setattr(cif_stretches, "STRETCH", 200)
    found = list(cif_stretches.stretches(Document("x", content=text.encode()).open()))
    assert [f"long:{name}" for stretch in found for name in stretch.names] == [n.removesuffix(":10") for n in names]
    assert b"".join(stretch.content for stretch in found) == b"\n" + text.encode()


def test_a_long_file_of_one_block_is_named_after_the_file() -> None:
    text = SALT + "_publ_section_comment\n;\n" + "data_x\n" * (WHOLE // 6) + ";\n"
    assert only(read(text, "one.cif")).id == "one"


def test_a_truncated_file_loses_its_last_block_only(tmp_path: Path) -> None:
    text, names = long_file(6000)
    path = tmp_path / "long.cif.gz"
    path.write_bytes(gzip.compress(text.encode(), 1)[:-5000])
    assert path.stat().st_size * 8 > WHOLE
    found = entries(CIF, path)
    assert 4000 < len(found) < 6000
    assert [entry.id for entry in found] == names[: len(found)]
    assert [k for k, entry in enumerate(found) if isinstance(entry, Rejection)] == [3000, len(found) - 1]
    last = found[-1]
    assert isinstance(last, Rejection)
    assert "is it whole?" in last.message


def test_damaged_compression_and_vanished_files_are_rejections(tmp_path: Path) -> None:
    path = tmp_path / "short.cif.gz"
    path.write_bytes(gzip.compress(SALT.encode())[:-9])
    assert "is it whole?" in refused(entries(CIF, path), Reason.UNREADABLE).message
    assert "No such file" in refused(entries(CIF, tmp_path / "gone.cif"), Reason.UNREADABLE).message
    (tmp_path / "folder.cif").mkdir()
    refused(entries(CIF, tmp_path / "folder.cif"), Reason.UNREADABLE)


def test_a_file_that_grew_since_it_was_measured_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "salt.cif"
    path.write_text(SALT)
    (piece,) = CIF.split(Document(str(path), path))
    path.write_text(SALT + "Br1 Br 0.25 0.25 0.25 1\n")
    (found,) = CIF.parse(piece)
    assert isinstance(found, Crystal)
    assert len(found) == 16


def test_a_block_without_end_is_refused_and_the_next_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cif_stretches, "BLOCK_LIMIT", 1 << 20)
    runaway = block("open") + "_publ_section_comment\n;\n" + "no end\n" * (3 << 18)
    found = read(block("first") + runaway + block("last"), "f.cif")
    assert [entry.id for entry in found] == ["f:first", "f:open", "f:last"]
    assert "longer than 1 MiB" in refused(found, Reason.UNREADABLE).message


def test_claims() -> None:
    assert [name for name in ("a.cif", "A.CIF", "a.cif.txt", "cif", "a.json") if CIF.claims(name)] == ["a.cif", "A.CIF"]


def test_a_cell_of_a_table_holds_one_crystal() -> None:
    known = parse_cif_text("data_global\n_a 1\n" + SALT + "_material_id other\n", id="row-1", source="t.csv#1")
    assert isinstance(known, Crystal)
    assert (known.id, known.source, len(known)) == ("row-1", "t.csv#1", 8)
    for text, reason in (
        (SALT + block("x"), Reason.UNREADABLE),
        ("data_global\n_a 1\n", Reason.EMPTY),
        ("?", Reason.UNREADABLE),
    ):
        rejection = refused([parse_cif_text(text, id="row-1", source="t.csv#1")], reason)
        assert (rejection.id, rejection.source) == ("row-1", "t.csv#1")
    lone = parse_cif_text(SALT.replace("data_salt", "# \udc80\ndata_salt"), id="i", source="s")
    assert isinstance(lone, Crystal)


@pytest.mark.parametrize("kind", PERIODIC_KINDS)
def test_what_is_written_reads_back(kind: str) -> None:
    for crystal in made_crystals(20, kinds=[kind], seed=3):
        back = only(read(write_cif(crystal), "other.cif"))
        assert back.id == crystal.id
        assert dict(back.labels) == dict(crystal.labels)
        np.testing.assert_array_equal(back.numbers, crystal.numbers)
        np.testing.assert_allclose(fractional(back), fractional(crystal), rtol=0, atol=1e-10)
        np.testing.assert_allclose(
            back.lattice @ back.lattice.T, crystal.lattice @ crystal.lattice.T, rtol=1e-12, atol=1e-10
        )


@given(id=st.text(min_size=1).filter(lambda t: t.strip() == t), name=st.text(min_size=1, max_size=9))
def test_any_id_and_label_name_survive(id: str, name: str) -> None:
    crystal = made_crystal(np.random.default_rng(0), id, labels=("band_gap",))
    labelled = Crystal(id, crystal.numbers, crystal.positions, crystal.lattice, labels={name: 0.1, "band_gap": 1e-300})
    back = parse_back(write_cif(labelled))
    assert len(back) == len(crystal)
    printable = id.isprintable() and name.isprintable()
    if printable:
        assert back.id == id
        assert back.labels["band_gap"] == 1e-300


def parse_back(text: str) -> Crystal:
    return only(read(text.encode("utf-8", "replace")))


@pytest.mark.filterwarnings("ignore")
def test_what_is_written_pymatgen_reads() -> None:
    for crystal in made_crystals(8, kinds=PERIODIC_KINDS, seed=5):
        theirs = CifParser.from_str(write_cif(crystal)).parse_structures(primitive=False)[0]
        assert_same_crystal(crystal, numbers_of(theirs), theirs.frac_coords, theirs.lattice.matrix, atol=1e-5)


def test_what_a_cif_cannot_hold_is_told() -> None:
    slab = made_crystals(1, kinds=["slab"])[0]
    with pytest.raises(InputError, match=r"made-000000: a CIF can only hold .* write it as extxyz"):
        write_cif(slab)


MANY = (
    SALT + block("second") + "_publ_section_comment\n;\ndata_x\n;\n" + cif_of(grown(14, np.random.default_rng(0)))
).encode()


@given(MUTATIONS)
def test_damage_never_raises_and_never_loses_the_file(mutations: Mutations) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read(mutated(MANY, mutations))
    assert found
    assert all(isinstance(entry, Crystal | Rejection) for entry in found)
    for entry in found:
        if isinstance(entry, Crystal):
            assert len(entry.numbers) == len(entry.positions) > 0
            assert np.isfinite(entry.positions).all()


@given(st.binary(max_size=400))
def test_any_bytes_are_an_entry(content: bytes) -> None:
    assert read(content)
    assert read(b"data_x\n" + content)


@given(st.integers(0, len(SALT)))
def test_a_file_cut_anywhere_is_one_entry(length: int) -> None:
    (entry,) = read(SALT[:length])
    assert isinstance(entry, Rejection) or len(entry) in (4, 8)
    assert accepted([entry]) == [entry] if isinstance(entry, Crystal) else entry.message
