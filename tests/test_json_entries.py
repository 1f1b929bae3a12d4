"""Crystals in JSON: the same as pymatgen's, with their labels, and every bad entry told."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
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
from monty.json import MontyEncoder
from pymatgen.core import DummySpecies, Lattice, Molecule, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry

from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.formats import chunk, pymatgen_json
from screening.crystals.formats.format import Document
from screening.crystals.formats.pymatgen_json import PymatgenJson

JSON = PymatgenJson()


def dumped(value: Any) -> bytes:
    return json.dumps(value, cls=MontyEncoder).encode()


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stream every document, in chunks of a few entries."""
    monkeypatch.setattr(pymatgen_json, "SMALL", 0)
    monkeypatch.setattr(chunk, "CHUNK", 4000)


# Layouts of documents.


def test_names() -> None:
    assert all(JSON.claims(name) for name in ("a.json", "B.JSONL", "c.ndjson"))
    assert not any(JSON.claims(name) for name in ("a.cif", "a.csv", "json", "a.json5"))


def test_one_structure_is_named_after_its_file(tmp_path: Path) -> None:
    (structure,) = made_structures(1)
    path = tmp_path / "mp-1.2.json"
    path.write_bytes(dumped(structure))
    crystal = only(entries(JSON, path))
    assert (crystal.id, crystal.source, dict(crystal.labels)) == ("mp-1.2", str(path), {})
    assert_same(crystal, structure)


LAYOUTS = {
    "list.json": lambda dicts: json.dumps(dicts),
    "pretty.json": lambda dicts: json.dumps(dicts, indent=2),
    "lines.jsonl": lambda dicts: "\n\n".join(map(json.dumps, dicts)) + "\r\n",
    "list.jsonl": lambda dicts: json.dumps(dicts),
    "values.json": lambda dicts: "\n".join(json.dumps(d, indent=1) for d in dicts),
    "api.json": lambda dicts: json.dumps({"meta": {"n": len(dicts)}, "data": dicts, "links": [1]}),
    "reversed.json": lambda dicts: json.dumps({"data": [[d] for d in dicts], "columns": ["structure"]}),
    "bom.json": lambda dicts: "\ufeff \n" + json.dumps(dicts),
}


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("zipped", [False, True])
def test_every_layout_gives_every_structure_in_order(tmp_path: Path, layout: str, zipped: bool) -> None:
    structures = made_structures(20)
    content = LAYOUTS[layout]([s.as_dict() for s in structures]).encode()
    path = tmp_path / (layout + ".gz" if zipped else layout)
    path.write_bytes(gzip.compress(content) if zipped else content)
    firsts = [piece.first for piece in JSON.split(Document(path.name, path))]
    assert len(firsts) > 3
    assert firsts == sorted(set(firsts))
    crystals = accepted(entries(JSON, path))
    assert [c.id for c in crystals] == [f"{layout.split('.')[0]}#{k}" for k in range(20)]
    assert [c.source for c in crystals] == [f"{path}#{k}" for k in range(20)]
    for crystal, structure in zip(crystals, structures, strict=True):
        assert_same(crystal, structure)


def test_streaming_gives_the_same_as_reading_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for layout, write in LAYOUTS.items():
        content = write([s.as_dict() for s in made_structures(5)]).encode()
        whole = [(e.id, e.source) for e in entries(JSON, content, layout)]
        with monkeypatch.context() as patch:
            patch.setattr(pymatgen_json, "SMALL", 0)
            assert [(e.id, e.source) for e in entries(JSON, content, layout)] == whole


@pytest.mark.usefixtures("streamed")
def test_an_object_of_entries_gives_their_ids() -> None:
    structures = made_structures(9)
    content = dumped({f"mp-{k}": s if k % 2 else {"structure": s, "e_form": k} for k, s in enumerate(structures)})
    crystals = accepted(entries(JSON, content, "mp.json"))
    assert [c.id for c in crystals] == [f"mp-{k}" for k in range(9)]
    assert [dict(c.labels) for c in crystals] == [
        {"formation_energy_per_atom": k} if k % 2 == 0 else {} for k in range(9)
    ]


@pytest.mark.usefixtures("streamed")
def test_an_object_of_objects_of_entries() -> None:
    one, two = (s.as_dict() for s in made_structures(2))
    content = dumped({"mp-1": {"mp-1-0-0": {"structure": one}, "0-1": {"structure": two, "bandgap": 1}}, "mp-2": one})
    crystals = accepted(entries(JSON, content, "steps.json"))
    assert [c.id for c in crystals] == ["mp-1-0-0", "mp-1/0-1", "mp-2"]
    assert [c.source for c in crystals] == ["steps.json#0.0", "steps.json#0.1", "steps.json#1"]


@pytest.mark.usefixtures("streamed")
def test_a_pandas_dump_gives_labels_and_index() -> None:
    structures = made_structures(12)
    rows = [[s.as_dict(), 0.1 * k if k else float("nan"), k > 3] for k, s in enumerate(structures)]
    content = {"columns": ["structure", "gap pbe", "is_metal"], "index": [f"mb-{k}" for k in range(12)], "data": rows}
    crystals = accepted(entries(JSON, json.dumps(content).encode(), "matbench.json"))
    assert [c.id for c in crystals] == [f"mb-{k}" for k in range(12)]
    assert dict(crystals[0].labels) == {"is_metal": 0.0}
    assert dict(crystals[5].labels) == {"band_gap": 0.5, "is_metal": 1.0}
    for crystal, structure in zip(crystals, structures, strict=True):
        assert_same(crystal, structure)
    content["index"] = list(range(12))
    assert entries(JSON, json.dumps(content).encode(), "matbench.json")[7].id == "matbench#7"


def test_an_element_alone_in_a_list_is_a_single_entry() -> None:
    assert only(entries(JSON, dumped([structure_dict()]), "one.json")).source == "one.json"
    assert only(entries(JSON, dumped(structure_dict()) + b"\n", "one.jsonl")).id == "one"


# Shapes of entries.


def test_a_computed_structure_entry() -> None:
    (structure,) = made_structures(1)
    entry = ComputedStructureEntry(
        structure,
        -3.5,
        correction=-0.5,
        entry_id="mp-7-GGA",
        parameters={"run_type": "GGA", "is_hubbard": True, "hubbards": {"Fe": 5.3}},
        data={"e_above_hull": 0.01, "oxide_type": "oxide"},
    )
    for value in (entry, {"computed_structure_entry": entry, "material_id": "mp-7"}):
        crystal = only(entries(JSON, dumped(value), "entry.json"))
        assert crystal.id == ("mp-7-GGA" if value is entry else "mp-7")
        assert dict(crystal.labels) == {"energy": -3.5, "correction": -0.5, "is_hubbard": 1, "energy_above_hull": 0.01}
        assert_same(crystal, structure)


def test_a_row_with_labels_of_many_kinds() -> None:
    row = {
        "material_id": "mp-22862",
        "name": "salt",
        "e_form": -2.0,
        "formation_energy_per_atom": -2.1,
        "band_gap": None,
        "formula": "NaCl",
        "composition": {"Na": 1, "Cl": 1},
        "symmetry": {"number": 225, "symprec": 0.1},
        "bulk_modulus": {"vrh": 24.0, "voigt": 24.5, "reuss": 23.5},
        "last_updated": "2020",
        "structure": json.dumps(structure_dict()),
    }
    crystal = only(entries(JSON, dumped(row), "row.json"))
    assert crystal.id == "mp-22862"
    assert dict(crystal.labels) == {
        "e_form": -2.0,
        "formation_energy_per_atom": -2.1,
        "spacegroup_number": 225,
        "bulk_modulus": 24.0,
        "bulk_modulus_voigt": 24.5,
        "bulk_modulus_reuss": 23.5,
    }


@pytest.mark.parametrize(
    ("row", "key", "id"),
    [
        ({"material_id": "a", "id": "b"}, "k", "a"),
        ({"id": 17}, "k", "17"),
        ({"Material ID": "a", "name": "n"}, "k", "a"),
        ({"name": "NaCl"}, "k", "k"),
        ({"name": "NaCl"}, "", "NaCl"),
        ({"material_id": "  ", "id": None, "name": ""}, "", "file"),
        ({"id": "\udc80"}, "", "\\udc80"),
        ({"id": True}, "", "file"),
    ],
)
def test_ids(row: dict[str, Any], key: str, id: str) -> None:
    entry = {**row, "structure": structure_dict()}
    assert only(entries(JSON, dumped({key: entry} if key else entry), "file.json")).id == id


def test_forces_of_sites_and_rows() -> None:
    forces = np.arange(6.0).reshape(2, 3)
    structure = Structure.from_dict(structure_dict())
    structure.add_site_property("forces", forces.tolist())
    for value in (structure, {"structure": structure_dict(), "force": forces}):
        np.testing.assert_array_equal(only(entries(JSON, dumped(value), "f.json")).forces, forces)
    assert only(entries(JSON, dumped({"structure": structure_dict(), "force": 0.3}), "f.json")).labels == {"force": 0.3}
    bad = entries(JSON, dumped({"structure": structure_dict(), "forces": [[1, 2, 3]]}), "f.json")
    assert "forces of shape (1, 3), expected (2, 3)" in refused(bad, Reason.UNREADABLE).message


def test_partly_periodic_cells_and_molecules() -> None:
    slab = Structure(Lattice(6 * np.eye(3), pbc=(True, True, False)), ["C"], [[0.1, 0.2, 0.3]])
    molecule = Molecule(["O", "H", "H"], [[0, 0, 0], [0, 0.76, 0.59], [0, -0.76, 0.59]])
    for value in (slab, molecule):
        assert_same(only(entries(JSON, dumped(value), "a.json")), value)


def test_fractional_coordinates_decide() -> None:
    content = structure_dict()
    for site in content["sites"]:
        site["xyz"] = [9, 9, 9]
    assert_same(only(entries(JSON, dumped(content), "a.json")), Structure.from_dict(content))
    expected = Structure.from_dict(content)
    for site, position in zip(content["sites"], expected.cart_coords.tolist(), strict=True):
        del site["abc"]
        site["xyz"] = position
    assert_same(only(entries(JSON, dumped(content), "a.json")), expected)


def test_jarvis_optimade_and_ase_shapes() -> None:
    structure = Structure.from_dict(structure_dict())
    lattice, positions = structure.lattice.matrix.tolist(), structure.cart_coords.tolist()
    jarvis = {"lattice_mat": lattice, "coords": structure.frac_coords.tolist(), "elements": ["Na", "Cl"]}
    optimade = {"lattice_vectors": lattice, "cartesian_site_positions": positions, "species_at_sites": ["Na", "Cl"]}
    ase = {"numbers": [11, 17], "positions": positions, "cell": lattice, "pbc": [True] * 3}
    rows = [
        {"jid": "JVASP-1", "atoms": {**jarvis, "cartesian": False}, "mbj_bandgap": "na", "ehull": 0.1},
        {"id": "o", "type": "structures", "attributes": {**optimade, "_oqmd_delta_e": -1}},
        {"id": "s", **optimade, "species": [{"name": "Na", "chemical_symbols": ["Na"], "concentration": [1]}]},
        {"id": "a", **ase, "energy": -1, "stress": [1, 2, 3, 4, 5, 6], "forces": [[0, 0, 1], [0, 0, 2]]},
    ]
    crystals = accepted(entries(JSON, dumped(rows), "shapes.json"))
    for crystal in crystals:
        assert_same(crystal, structure)
    assert [c.id for c in crystals] == ["JVASP-1", "o", "s", "a"]
    assert [list(c.labels) for c in crystals] == [
        ["energy_above_hull"],
        ["formation_energy_per_atom"],
        [],
        ["energy"],
    ]
    np.testing.assert_array_equal(crystals[3].stress, [[1, 6, 5], [6, 2, 4], [5, 4, 3]])


# What is refused, and how.


def with_species(*species: dict[str, Any]) -> dict[str, Any]:
    content = structure_dict()
    content["sites"][1]["species"] = list(species)
    return content


BAD = {
    "vacancy": (with_species({"element": "Cl", "occu": 0.5}), Reason.DISORDERED, "site 1 holds 0.5 Cl"),
    "mixture": (
        Structure(Lattice.cubic(3), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]]),
        Reason.DISORDERED,
        "site 0 holds 0.5 Na + 0.5 K",
    ),
    "two whole": (with_species({"element": "Na", "occu": 1}, {"element": "K", "occu": 1}), Reason.DISORDERED, "site 1"),
    "nothing": (with_species(), Reason.DISORDERED, "site 1 holds nothing"),
    "dummy": (Structure(Lattice.cubic(3), [DummySpecies("X", 2)], [[0, 0, 0]]), Reason.UNKNOWN_ELEMENT, "`X`"),
    "no atoms": (structure_dict(sites=[]), Reason.EMPTY, "no atoms"),
    "two lattice vectors": (structure_dict(lattice={"matrix": [[1, 0, 0], [0, 1, 0]]}), Reason.UNREADABLE, "(2, 3)"),
    "word for a number": (
        structure_dict(lattice={"matrix": [["a", 0, 0]] * 3}),
        Reason.UNREADABLE,
        "could not convert",
    ),
    "lattice is a list": (structure_dict(lattice=[1]), Reason.UNREADABLE, "(1,)"),
    "sites is a number": (structure_dict(sites=3), Reason.UNREADABLE, "cannot be used"),
    "site is null": (structure_dict(sites=[None]), Reason.UNREADABLE, "cannot be used"),
    "one coordinate": (
        structure_dict(sites=[{**structure_dict()["sites"][0], "abc": [1]}]),
        Reason.UNREADABLE,
        "(1, 1)",
    ),
    "text for a vector": (
        structure_dict(sites=[{**structure_dict()["sites"][0], "abc": "123"}]),
        Reason.UNREADABLE,
        "abc of shape (1,)",
    ),
    "no crystal": ({"material_id": "x", "band_gap": 1, "structure": None}, Reason.UNREADABLE, "no crystal among"),
    "number": ({"structure": 3}, Reason.UNREADABLE, "found a number"),
    "text": ({"structure": "{broken"}, Reason.UNREADABLE, "cannot be used"),
    "atomic number": ({"numbers": [0], "positions": [[0, 0, 0]]}, Reason.UNKNOWN_ELEMENT, "atomic number 0"),
    "half an element": ({"numbers": [1.5], "positions": [[0, 0, 0]]}, Reason.UNKNOWN_ELEMENT, "atomic number 1.5"),
    "alloy": (
        {
            "cartesian_site_positions": [[0, 0, 0]],
            "species_at_sites": ["A"],
            "species": [{"name": "A", "chemical_symbols": ["Na", "K"], "concentration": [0.5, 0.5]}],
        },
        Reason.DISORDERED,
        "`A` is 0.5 Na + 0.5 K",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_entry_is_refused_between_good_ones(case: str) -> None:
    value, reason, message = BAD[case]
    good = structure_dict()
    content = dumped([good, value, good])
    found = entries(JSON, content, "bad.json")
    assert [type(e) for e in found] == [Crystal, Rejection, Crystal]
    rejection = refused(found, reason)
    assert message in rejection.message
    assert rejection.source == "bad.json#1"
    alone = refused(entries(JSON, dumped(value), "bad.json"), reason)
    assert (alone.source, alone.message) == ("bad.json", rejection.message)


def test_rounded_occupancies_and_decorated_symbols_are_understood() -> None:
    for species, number in [({"element": "Cl", "occu": 0.99999}, 17), ({"element": "D", "occu": 1}, 1)]:
        assert only(entries(JSON, dumped(with_species(species)), "a.json")).numbers[1] == number
    old = with_species({"element": "Fe3+"})
    assert only(entries(JSON, dumped(old), "a.json")).numbers[1] == 26


@pytest.mark.parametrize("layout", ["list.json", "lines.jsonl", "pretty.json"])
def test_a_value_that_is_no_json_costs_only_itself(layout: str) -> None:
    content = LAYOUTS[layout]([{"material_id": f"m{k}", "structure": structure_dict()} for k in range(4)])
    broken = content.replace('"m2"', 'm"2"', 1).replace('"m3"', '"m3"')
    found = entries(JSON, broken.encode(), layout)
    assert [e.id for e in found] == ["m0", "m1", f"{layout.split('.')[0]}#2", "m3"]
    assert "no valid JSON" in refused(found, Reason.UNREADABLE).message


def test_nan_in_json_is_read_as_python_writes_it() -> None:
    lattice = {"matrix": [[float("nan"), 0, 0], [0, 3, 0], [0, 0, float("inf")]]}
    row = {"structure": structure_dict(lattice=lattice), "gap": float("nan"), "efermi": 2.0}
    crystal = only(entries(JSON, json.dumps(row).encode(), "nan.json"))
    assert np.isnan(crystal.lattice[0, 0])
    assert dict(crystal.labels) == {"efermi": 2.0}


@pytest.mark.parametrize("small", [0, 1 << 18])
@pytest.mark.parametrize("layout", ["list.json", "lines.jsonl"])
def test_a_truncated_gzip_keeps_what_came_before(monkeypatch: pytest.MonkeyPatch, small: int, layout: str) -> None:
    monkeypatch.setattr(pymatgen_json, "SMALL", small)
    content = LAYOUTS[layout]([s.as_dict() for s in made_structures(300)]).encode()
    found = entries(JSON, gzip.compress(content)[:-20000], layout + ".gz")
    assert 10 < len(found) < 300
    assert all(isinstance(e, Crystal) for e in found[:-1])
    last = refused(found, Reason.UNREADABLE)
    assert last is found[-1]
    assert last.source == f"{layout}.gz#{len(found) - 1}"
    assert "is the file whole?" in last.message


@pytest.mark.parametrize("small", [0, 1 << 18])
def test_a_list_that_is_not_closed_says_so(monkeypatch: pytest.MonkeyPatch, small: int) -> None:
    monkeypatch.setattr(pymatgen_json, "SMALL", small)
    content = dumped([structure_dict()] * 3)
    for stop, crystals in ((-1, 3), (-30, 2)):
        found = entries(JSON, content[:stop], "a.json")
        assert [type(e) for e in found] == [Crystal] * crystals + [Rejection]
        assert found[-1] == refused(found, Reason.UNREADABLE)
        assert "is the file whole?" in refused(found, Reason.UNREADABLE).message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.EMPTY),
        (b" \n", Reason.EMPTY),
        (b"[]", Reason.EMPTY),
        (b"{}", Reason.EMPTY),
        (b'{"columns": ["structure"], "data": []}', Reason.EMPTY),
        (b"\x89PNG\r\n", Reason.UNREADABLE),
        (b"[", Reason.UNREADABLE),
        (b"{", Reason.UNREADABLE),
        (b'{"structure": ', Reason.UNREADABLE),
        (b"[" * 100_000 + b"]" * 100_000, Reason.UNREADABLE),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, Reason.UNREADABLE),
    ],
)
@pytest.mark.parametrize("small", [0, 1 << 20])
def test_documents_without_a_crystal(
    monkeypatch: pytest.MonkeyPatch, content: bytes, reason: Reason, small: int
) -> None:
    monkeypatch.setattr(pymatgen_json, "SMALL", small)
    refused(entries(JSON, content, "a.json"), reason)


def test_a_missing_file_is_one_rejection(tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl.gz"):
        assert "No such file" in refused(entries(JSON, tmp_path / name), Reason.UNREADABLE).message


# Whatever bytes come, nothing is raised and everything is an entry.


def seeds() -> dict[str, bytes]:
    dicts = [s.as_dict() for s in made_structures(3, max_atoms=2)]
    split = {"columns": ["structure", "e_form"], "index": ["a", "b", "c"], "data": [[d, 0.5] for d in dicts]}
    return {
        "a.json": dumped(dicts),
        "b.json": dumped({str(k): {"structure": d, "gap": k} for k, d in enumerate(dicts)}),
        "c.jsonl": b"\n".join(map(dumped, dicts)),
        "d.json": dumped(split),
        "e.json.gz": gzip.compress(dumped(dicts), mtime=0),
    }


SEEDS = seeds()


@given(st.sampled_from(sorted(SEEDS)), MUTATIONS, st.sampled_from([0, 1 << 18]))
def test_mutated_documents_never_raise(name: str, mutations: Mutations, small: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pymatgen_json, "SMALL", small)
        assert_entries(entries(JSON, mutated(SEEDS[name], mutations), name), name)


KEYS = ["structure", "sites", "lattice", "matrix", "species", "abc", "xyz", "element", "occu", "numbers", "positions"]
KEYS += ["cell", "pbc", "forces", "stress", "data", "entry", "attributes", "cif", "species_at_sites", "id", "name"]
KEYS += ["cartesian_site_positions", "lattice_mat", "coords", "elements", "__ndarray__", "@class", "array", "energy"]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 120)
    | st.floats()
    | st.sampled_from(["", "Na", "X", "{}", "data_a", "1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(VALUES)
def test_any_json_is_entries(value: Any) -> None:
    assert entries(JSON, json.dumps([value]).encode(), "any.json")
    assert entries(JSON, json.dumps(value).encode(), "any.json")
