"""Prototypes: every one has the space group, the sites and the substance that its table or its label says."""

import math
import re
from collections import Counter
from pathlib import Path

import gemmi
import moyopy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from specifications import enumerated, of

from screening.crystals.crystal import Crystal
from screening.crystals.elements import SYMBOLS
from screening.crystals.write import write
from screening.enumerate import aflow, named
from screening.enumerate.aflow import aflow_prototypes
from screening.enumerate.catalogue import other_names, prototype_named, prototypes
from screening.enumerate.congruence import geometry_of, mappings
from screening.enumerate.from_file import prototype_in
from screening.enumerate.prototype import Prototype
from screening.enumerate.wyckoff import PRIMITIVE, Orbit, coordinate, expanded
from screening.errors import InputError, ResourceError

pytestmark = pytest.mark.native

# Labels that the file gives to structures of another group: their coordinates are more symmetric.
MISLABELLED = {"AB3_tI16_140_b_ah": 123, "A2B_oC12_38_de_ab": 63}
# The same structure type from two sources, with parameters that differ by less than 0.02.
IN_BOTH = {
    "perovskite": "AB3C_cP5_221_a_c_b",
    "ilmenite": "AB3C_hR10_148_c_f_c",
    "rhenium-oxide": "A3B_cP4_221_d_a",
    "spinel": "A2BC4_cF56_227_d_a_e",
    "zircon": "A4BC_tI24_141_h_b_a",
    "calcite": "ABC3_hR10_167_a_b_e-2",
    "chalcopyrite": "ABC2_tI16_122_a_b_d",
    "stannite": "A2BC4D_tI16_121_d_a_i_b",
    "rock-salt": "AB_cF8_225_a_b",
    "caesium-chloride": "AB_cP2_221_b_a",
    "zinc-blende": "AB_cF8_216_c_a",
    "nickel-arsenide": "AB_hP4_194_c_a",
    "cuprite": "A2B_cP6_224_b_a",
    "fluorite": "AB2_cF12_225_a_c",
    "antifluorite": "AB2_cF12_225_a_c",
    "rutile": "A2B_tP6_136_f_a",
    "pyrite": "AB2_cP12_205_a_c",
    "cadmium-iodide": "AB2_hP3_164_a_d",
    "corundum": "A2B3_hR10_167_c_e",
    "heusler": "AB2C_cF16_225_a_c_b",
    "half-heusler": "ABC_cF12_216_b_c_a",
    "auricupride": "AB3_cP4_221_a_c",
    "copper-gold": "AB_tP2_123_a_d",
    "do3": "AB3_cF16_225_a_bc",
    "do22": "A3B_tI8_139_bd_a",
    "sodium-thallide": "AB_cF16_227_a_b",
    "a15": "A3B_cP8_223_c_a",
    "laves-cubic": "A2B_cF24_227_d_a",
    "laves-hexagonal": "AB2_hP12_194_f_ah",
    "aluminium-boride": "AB2_hP3_191_a_d",
    "copper-aluminide": "A2B_tI12_140_h_a",
    "molybdenum-silicide": "AB2_tI6_139_a_e",
    "matlockite": "ABC_tP6_129_c_a_c",
    "max-phase": "ABC2_hP8_194_d_a_f",
}


def found_by_moyo(prototype: Prototype) -> moyopy.MoyoDataset:
    """Its symmetry with a different element on each site, at 10 cubic angstrom per atom."""
    scale = (10 * len(prototype) / prototype.volume) ** (1 / 3)
    cell = moyopy.Cell(
        (prototype.lattice * scale).tolist(), prototype.fractional.tolist(), (prototype.site_of + 1).tolist()
    )
    return moyopy.MoyoDataset(cell, symprec=1e-3)


def wyckoff_choices(prototype: Prototype) -> list[list[Counter[str]]]:
    """For each choice of origin and axes, the Wyckoff positions of each site, as moyo finds them."""
    cell = found_by_moyo(prototype).std_cell
    dataset = moyopy.MoyoDataset(cell, symprec=1e-3)
    firsts = sorted(set(dataset.orbits))
    found = []
    for _, positions in dataset.normalizer_wyckoff_positions().coset_representatives:
        sites: list[Counter[str]] = [Counter() for _ in prototype.sites]
        for atom in firsts:
            sites[cell.numbers[atom] - 1][f"{positions[atom].multiplicity}{positions[atom].letter}"] += 1
        found.append(sites)
    return found


@pytest.mark.parametrize("name", named.names())
def test_a_prototype_has_its_group_and_wyckoff_positions(name: str) -> None:
    prototype = named.named(name)
    dataset = found_by_moyo(prototype)
    assert dataset.number == prototype.group
    assert len(dataset.prim_std_cell.numbers) == len(prototype), "the cell is not primitive"
    written = [Counter(text.split()[0] for text in texts) for texts in named._table()[name]["sites"].values()]
    assert written in wyckoff_choices(prototype)


@pytest.mark.parametrize("name", named.names())
def test_the_example_has_the_composition_of_the_sites(name: str) -> None:
    prototype = named.named(name)
    counts = sorted(int(n or 1) for _, n in re.findall(r"([A-Z][a-z]?)(\d*)", prototype.formula))
    merged = sorted(prototype.units)
    # Ordered inverse structures put one element of the example on one site too; Y3Al5O12 puts one on two.
    assert sum(counts) == sum(merged)
    assert counts == merged or len(counts) < len(merged)


def test_roles_name_sites() -> None:
    for name in named.names():
        prototype = named.named(name)
        if prototype.roles:
            assert {prototype.roles.large, *prototype.roles.small, prototype.roles.anion} <= set(prototype.sites)


def test_names_are_unique() -> None:
    every = [*named.names(), *named.aliases(), *(label.lower() for label in aflow_prototypes())]
    assert [name for name, count in Counter(every).items() if count > 1] == []


@pytest.mark.parametrize("name", aflow_prototypes())
def test_an_aflow_prototype_has_the_group_of_its_label(name: str) -> None:
    prototype = aflow_prototypes()[name]
    dataset = found_by_moyo(prototype)
    assert dataset.number == MISLABELLED.get(name, prototype.group)
    assert len(dataset.prim_std_cell.numbers) == len(prototype)
    counts = [int(n or 1) for _, n in re.findall(r"([A-Z])(\d*)", name.split("_")[0])]
    assert name.startswith("sigma") or counts == list(prototype.units)


@pytest.mark.parametrize("name", IN_BOTH)
def test_both_sources_have_the_same_geometry(name: str) -> None:
    ours, theirs = (geometry_of(p.lattice, p.fractional, p.site_of) for p in pair(name, IN_BOTH[name]))
    assert list(mappings(ours, theirs)) != []


def pair(first: str, second: str) -> tuple[Prototype, Prototype]:
    return prototype_named(first), prototype_named(second)


def test_different_structures_of_one_formula_are_told_apart() -> None:
    names = ("rock-salt", "caesium-chloride", "zinc-blende", "wurtzite", "nickel-arsenide", "sodium-thallide")
    shapes = [geometry_of(p.lattice, p.fractional, p.site_of) for p in map(prototype_named, names)]
    for k, ours in enumerate(shapes):
        for theirs in shapes[:k]:
            assert list(mappings(ours, theirs)) == []


def test_every_prototype_is_listed_once() -> None:
    listed = [prototype.name for prototype in prototypes()]
    assert len(listed) == len(set(listed)) == len(named.names()) + len(aflow_prototypes())
    assert len(aflow_prototypes()) == 288
    assert other_names("ruddlesden-popper") == ["k2nif4", "ruddlesden-popper-1"]


def test_prototypes_are_found_by_any_name() -> None:
    assert prototype_named("Elpasolite").name == "double-perovskite"
    assert prototype_named("ab3c_cp5_221_A_c_b").name == "AB3C_cP5_221_a_c_b"
    assert prototype_named("spinel", {"u": 0.27}).parameters == {"u": 0.27}


@pytest.mark.parametrize(
    ("name", "parameters", "told"),
    [
        ("perovskit", {}, "there is no prototype 'perovskit'; did you mean perovskite?"),
        ("qwertz", {}, "`screening enumerate --list` shows all"),
        ("perovskite", {"u": 0.2}, "there is no parameter 'u'; it has none"),
        ("spinel", {"v": 0.2}, "there is no parameter 'v'; its parameters are u"),
        ("rutile", {"c/a": -1.0}, "c/a must be positive, got -1.0"),
        ("spinel", {"u": 0.375}, "has 8 images in space group 227, expected 32"),
        ("AB_cF8_225_a_b", {"u": 0.2}, "parameters are for the prototypes of the table"),
    ],
)
def test_what_does_not_exist_is_named(name: str, parameters: dict[str, float], told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        prototype_named(name, parameters)


def test_pymatgen_without_the_file_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aflow, "PLACES", ("nowhere.json",))
    with pytest.raises(ResourceError, match=r"has no AFLOW prototypes where they were, nowhere\.json"):
        aflow._entries()


# --- Wyckoff positions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0.0), ("1/3", 1 / 3), ("u", 0.25), ("-u", -0.25), ("2u", 0.5), ("3/4-2u", 0.25), ("1/4+zA", 1.15)],
)
def test_coordinates_are_sums(text: str, value: float) -> None:
    assert coordinate(text, {"u": 0.25, "zA": 0.9}) == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize("text", ["1//3", "u*2", "w", "1/2+", "x y", "", "2--3"])
def test_other_coordinates_are_errors(text: str) -> None:
    if text == "":
        assert coordinate(text, {}) == 0.0
        return
    with pytest.raises(InputError, match="coordinate"):
        coordinate(text, {"u": 0.25})


@pytest.mark.parametrize("text", ["4a 0 0", "a 0 0 0", "4 0 0 0", "0 0 0"])
def test_other_positions_are_errors(text: str) -> None:
    with pytest.raises(InputError, match="Wyckoff position"):
        Orbit.of(text, {})


@given(number=st.integers(1, 230), seed=st.integers(0, 1000))
def test_a_general_position_of_any_group_fills_the_primitive_cell(number: int, seed: int) -> None:
    group = next(g for g in gemmi.spacegroup_table() if g.number == number and g.is_reference_setting())
    size = len(list(group.operations()))
    point = np.random.default_rng(seed).uniform(0.05, 0.95, 3) * [1, 0.618, 0.733] + 0.017
    ratios = {"c/a": 1.37} if number <= 194 else {}
    ratios |= {"b/a": 1.21} if number <= 74 else {}
    ratios |= {"beta": 101.0} if 3 <= number <= 15 else {}
    cell = expanded(number, [Orbit(size, "z", tuple(point.tolist()))], ratios)
    centring = round(1 / abs(np.linalg.det(PRIMITIVE[group.hm[0]])))
    assert len(cell.orbit_of) == size // centring
    assert (cell.fractional >= 0).all()
    assert (cell.fractional < 1).all()


def test_a_group_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(InputError, match="there is no space group 231"):
        expanded(231, [], {})


# --- prototypes from files ----------------------------------------------------------------------------------------


def magnetite(path: Path) -> Path:
    """Fe3O4: iron on two sites of a spinel, in the conventional cell of 56 atoms."""
    spinel = named.named("spinel", {"u": 0.255})
    cubic = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    copies = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    lattice = cubic @ spinel.lattice * 8.4
    fractional = (spinel.fractional[:, None] + copies).reshape(-1, 3)
    numbers = np.repeat(np.array([26, 26, 8])[spinel.site_of], 4)
    crystal = Crystal("Fe3O4", numbers.astype(np.uint8), fractional @ spinel.lattice * 8.4, lattice)
    write([crystal], path, format="extxyz")
    return path


def test_a_file_becomes_a_prototype_of_its_elements(tmp_path: Path) -> None:
    prototype = prototype_in(magnetite(tmp_path / "Fe3O4 (rt).xyz"), [])
    assert (prototype.name, prototype.group, prototype.pattern) == ("Fe3O4-rt", 227, "Fe3 O4")
    assert len(prototype) == 14
    assert [SYMBOLS[z] for z in prototype.original] == ["Fe", "O"]


def test_sites_of_one_element_can_be_told_apart(tmp_path: Path) -> None:
    path = magnetite(tmp_path / "magnetite.xyz")
    prototype = prototype_in(path, ["Fe1"])
    assert sorted(zip(prototype.sites, prototype.units, strict=True)) in (
        [("Fe", 2), ("Fe1", 1), ("O", 4)],
        [("Fe", 1), ("Fe1", 2), ("O", 4)],
    )
    assert prototype_in(path, ["Fe1", "Fe2"]).pattern.replace("(2)", "") in ("Fe1 Fe2 O4", "Fe2 Fe1 O4")
    with pytest.raises(InputError, match=re.escape("there is no site 'Fe3' to fill; it has Fe (Fe1 to Fe2), O")):
        prototype_in(path, ["Fe3"])


def test_sites_that_are_not_named_keep_their_element(tmp_path: Path) -> None:
    path = magnetite(tmp_path / "magnetite.xyz")
    crystals = enumerated({"file": str(path), "sites": {"O": ["O", "S"]}}, states={"Fe": [2, 3]}, charge_neutral=False)
    assert list(crystals.ids) == ["magnetite-Fe3O4", "magnetite-Fe3S4"]


def test_a_file_that_is_a_prototype_by_name_gives_no_crystal_twice(tmp_path: Path) -> None:
    path = tmp_path / "mine.xyz"
    write([enumerated(of("spinel", A="Mg", B="Al", X="O"))[0]], path, format="extxyz")
    mine = {"file": str(path), "sites": {"Mg": ["Zn", "Mg", "Cd"]}}
    both = enumerated(of("spinel", A="Mg Zn", B="Al", X="O"), mine)
    assert list(both.ids) == ["spinel-MgAl2O4", "spinel-ZnAl2O4", "mine-CdAl2O4"]


def test_a_file_with_an_element_of_unknown_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fluoride.xyz"
    first = enumerated(of("rock-salt", A="Na", X="F"))[0]
    write([Crystal("x", np.array([88, 9], np.uint8), first.positions, first.lattice)], path, format="extxyz")
    with pytest.raises(InputError, match="site Ra: no volume is known for Ra, too rare in crystals; leave it out"):
        enumerated({"file": str(path), "sites": {"F": ["Cl"]}})


def test_files_that_cannot_be_prototypes(tmp_path: Path) -> None:
    first = enumerated(of("rock-salt", A="Na", X="Cl"))[0]
    two = tmp_path / "two.xyz"
    write([first, Crystal("b", first.numbers, first.positions, first.lattice)], two, format="extxyz")
    with pytest.raises(InputError, match="holds 2 crystals, expected one"):
        prototype_in(two, [])
    slab = tmp_path / "slab.xyz"
    write([Crystal("c", first.numbers, first.positions, first.lattice, (True, True, False))], slab, format="extxyz")
    with pytest.raises(InputError, match="is not periodic along all three lattice vectors"):
        prototype_in(slab, [])
    broken = tmp_path / "broken.cif"
    broken.write_text("data_x\n_cell_length_a 3\n")
    with pytest.raises(InputError, match=re.escape(str(broken))):
        prototype_in(broken, [])


def test_parameters_move_atoms() -> None:
    ours, theirs = named.named("spinel", {"u": 0.2625}), named.named("spinel", {"u": 0.25})
    assert math.isclose(ours.volume, theirs.volume)
    assert not np.allclose(ours.fractional, theirs.fractional)
