"""Crystals in CSV and Parquet: with their labels, and every bad row told."""

import csv
import gzip
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from entries import (
    MUTATIONS,
    Mutations,
    accepted,
    assert_entries,
    assert_same,
    entries,
    made_structures,
    mutated,
    only,
    refused,
    structure_dict,
)
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.formats import chunk, table
from screening.crystals.formats.table import Table

TABLE = Table()


def test_names(tmp_path: Path) -> None:
    assert all(TABLE.claims(name) for name in ("a.csv", "b.TSV", "c.parquet", "d.pq"))
    assert not any(TABLE.claims(name) for name in ("a.cif", "id_prop.csv", "a.json"))
    for name in ("a.csv", "a.csv.gz", "a.parquet"):
        assert "No such file" in refused(entries(TABLE, tmp_path / name), Reason.UNREADABLE).message


def csv_of(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def mp20_rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "": k,
            "material_id": f"mp-{k}",
            "formation_energy_per_atom": -0.5 * k,
            "band_gap": "" if k == 2 else 0.25,
            "pretty_formula": "InF",
            "e_above_hull": 0.01,
            "elements": "['In', 'F']",
            "cif": structure.to(fmt="cif"),
            "spacegroup.number": 1,
        }
        for k, structure in enumerate(made_structures(count))
    ]


def assert_mp20(crystals: list[Crystal]) -> None:
    for k, (crystal, structure) in enumerate(zip(crystals, made_structures(len(crystals)), strict=True)):
        assert crystal.id == f"mp-{k}"
        expected = {"formation_energy_per_atom": -0.5 * k, "band_gap": 0.25, "energy_above_hull": 0.01}
        if k == 2:
            del expected["band_gap"]
        assert dict(crystal.labels) == {**expected, "spacegroup_number": 1}
        assert sorted(crystal.numbers.tolist()) == sorted(structure.atomic_numbers)
        assert abs(np.linalg.det(crystal.lattice)) == pytest.approx(structure.volume, rel=1e-4)


@pytest.mark.parametrize("name", ["mp20.csv", "mp20.csv.gz", "mp20.tsv", "semicolons.csv"])
def test_a_table_with_a_cif_column(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(chunk, "CHUNK", 4000)
    delimiter = {"mp20.tsv": "\t", "semicolons.csv": ";"}.get(name, ",")
    content = csv_of(mp20_rows(11), delimiter)
    found = entries(TABLE, gzip.compress(content) if name.endswith(".gz") else content, name)
    assert_mp20(accepted(found))
    assert [e.source for e in found] == [f"{name}#{k}" for k in range(11)]


def test_parquet_with_a_cif_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "PARQUET_ROWS", 4)
    rows = [{**row, "band_gap": row["band_gap"] or None} for row in mp20_rows(11)]
    path = tmp_path / "mp20 [1].parquet"
    pl.DataFrame(rows).write_parquet(path)
    found = entries(TABLE, path)
    assert_mp20(accepted(found))
    assert [e.source for e in found] == [f"{path}#{k}" for k in range(11)]
    assert_mp20(accepted(entries(TABLE, path.read_bytes(), "archive.zip::mp20.parquet")))


@pytest.mark.parametrize("column", ["structure", "POSCAR", "cif.conv", "CIF_str"])
def test_other_columns_of_crystals(tmp_path: Path, column: str) -> None:
    structures = made_structures(5)
    write = {"structure": lambda s: s.to_json(), "POSCAR": lambda s: s.to(fmt="poscar")}
    rows = [{"gap": k, column: write.get(column, lambda s: s.to(fmt="cif"))(s)} for k, s in enumerate(structures)]
    pl.DataFrame(rows).write_parquet(tmp_path / "t.parquet")
    for found in (entries(TABLE, csv_of(rows), "t.csv"), entries(TABLE, tmp_path / "t.parquet")):
        crystals = accepted(found)
        assert [c.id for c in crystals] == [f"t#{k}" for k in range(5)]
        assert [c.labels["band_gap"] for c in crystals] == [0, 1, 2, 3, 4]
        for crystal, structure in zip(crystals, structures, strict=True):
            assert sorted(crystal.numbers.tolist()) == sorted(structure.atomic_numbers)


def test_optimade_parquet(tmp_path: Path) -> None:
    structures = made_structures(5)
    frame = pl.DataFrame(
        {
            "immutable_id": [f"agm-{k}" for k in range(5)],
            "elements": [[e.symbol for e in s.elements] for s in structures],
            "lattice_vectors": [s.lattice.matrix.tolist() for s in structures],
            "cartesian_site_positions": [s.cart_coords.tolist() for s in structures],
            "species_at_sites": [[e.symbol if hasattr(e, "symbol") else str(e) for e in s.species] for s in structures],
            "dimension_types": [[1, 1, 1]] * 5,
            "energy": [-1.0, None, -3.0, -4.0, -5.0],
            "forces": [np.ones((len(s), 3)).tolist() for s in structures],
            "stress_tensor": [np.ones((3, 3)).tolist()] * 5,
            "functional": ["pbe"] * 5,
            "cross_compatibility": [True] * 5,
        }
    )
    frame.write_parquet(tmp_path / "lemat.parquet")
    crystals = accepted(entries(TABLE, tmp_path / "lemat.parquet"))
    assert [c.id for c in crystals] == [f"agm-{k}" for k in range(5)]
    for crystal, structure in zip(crystals, structures, strict=True):
        assert_same(crystal, structure)
        assert crystal.forces is not None
        assert crystal.forces.shape == (len(structure), 3)
        assert crystal.stress is None, "neither unit nor sign of a stress is agreed on"
    assert [c.labels.get("energy") for c in crystals] == [-1.0, None, -3.0, -4.0, -5.0]


def test_bad_rows_of_a_table() -> None:
    good = structure_dict()
    rows = [
        ["id", "structure", "gap"],
        ["a", json.dumps(good), "1e-1"],
        ["b", "", "2"],
        ["c", json.dumps(good)],
        [],
        ["d", "no crystal at all", "1"],
        ["e", json.dumps(good), "inf"],
        ["007", json.dumps(good), "1_0"],
    ]
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    found = entries(TABLE, text.getvalue().encode(), "t.csv")
    assert [e.id for e in found] == ["a", "b", "t#2", "d", "e", "007"]
    assert [type(e) for e in found] == [Crystal, Rejection, Rejection, Rejection, Crystal, Crystal]
    assert [e.message for e in found if isinstance(e, Rejection)][
        1
    ] == "the row has 2 cells, expected 3 as in the header"
    assert [dict(e.labels) for e in found if isinstance(e, Crystal)] == [
        {"band_gap": 0.1},
        *[{"band_gap": math.inf}] * 2,
    ]


def test_a_cell_longer_than_the_csv_module_allows() -> None:
    structure = Structure(Lattice.cubic(50), ["Si"] * 3000, np.random.default_rng(0).random((3000, 3)))
    assert len(structure.to_json()) > csv.field_size_limit() or csv.field_size_limit() >= table.CELL_LIMIT
    assert len(only(entries(TABLE, csv_of([{"structure": structure.to_json()}]), "big.csv"))) == 3000


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b"", Reason.EMPTY),
        ("a.csv", b"id,cif\n", Reason.EMPTY),
        ("a.csv", b"id,formula\n1,NaCl\n", Reason.UNREADABLE),
        ("a.csv", b"\xff\xfe\x00", Reason.UNREADABLE),
        ("a.csv", b'cif\n"never closed', Reason.UNREADABLE),
        ("a.csv.gz", b"not gzip", Reason.UNREADABLE),
        ("a.parquet", b"", Reason.UNREADABLE),
        ("a.parquet", b"PAR1" + b"\0" * 100 + b"PAR1", Reason.UNREADABLE),
    ],
)
def test_tables_without_a_crystal(name: str, content: bytes, reason: Reason) -> None:
    refused(entries(TABLE, content, name), reason)


def test_a_table_of_parquet_without_crystals_names_its_columns(tmp_path: Path) -> None:
    pl.DataFrame({"formula": ["NaCl"], "gap": [1.0]}).write_parquet(tmp_path / "a.parquet")
    message = refused(entries(TABLE, tmp_path / "a.parquet"), Reason.UNREADABLE).message
    assert "formula, gap" in message
    assert "`cif`" in message


def seeds() -> dict[str, bytes]:
    dicts = [s.as_dict() for s in made_structures(3, max_atoms=2)]
    rows = [{"id": f"s{k}", "structure": json.dumps(d), "gap": 0.5} for k, d in enumerate(dicts)]
    parquet = io.BytesIO()
    pl.DataFrame(rows).write_parquet(parquet, compression="uncompressed")
    text = csv_of(rows)
    return {"a.csv": text, "b.csv.gz": gzip.compress(text, mtime=0), "c.parquet": parquet.getvalue()}


SEEDS = seeds()


@given(st.sampled_from(sorted(SEEDS)), MUTATIONS)
def test_mutated_tables_never_raise(name: str, mutations: Mutations) -> None:
    assert_entries(entries(TABLE, mutated(SEEDS[name], mutations), name), name)


@pytest.mark.parametrize("header", ["id,e_form,gap", "material_id;e_form", "x,y"])
def test_a_list_of_labels_beside_cif_files_is_told_its_name(header: str) -> None:
    (rejection,) = entries(Table(), f"{header}\nmp-1,1,2\n".encode(), "labels.csv")
    assert isinstance(rejection, Rejection)
    assert "expected a column `cif`, `structure` or `poscar`" in rejection.message
    assert ("of `<id>.cif` files beside it, name it id_prop.csv" in rejection.message) == (header != "x,y")
    assert "is the file whole?" not in rejection.message
