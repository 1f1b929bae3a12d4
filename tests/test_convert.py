"""Crystals to and from pymatgen and ASE objects, and what they refuse."""

from collections.abc import Sequence

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from made import KINDS, PERIODIC_KINDS, assert_same, made_crystals
from pymatgen.core import DummySpecies, Lattice, Molecule, Species, Structure

from screening.crystals.convert import (
    ID_KEY,
    ConversionError,
    crystal_from_ase,
    crystal_from_pymatgen,
    crystal_to_ase,
    crystal_to_pymatgen,
)
from screening.crystals.crystal import PERIODIC, Crystal, Reason
from screening.crystals.labels import STRESS_KEY
from screening.errors import InputError, ScreeningError

LABELS = ("energy", "band_gap", "foo")


def made(kinds: Sequence[str] = KINDS) -> list[Crystal]:
    return made_crystals(42, seed=21, kinds=kinds, forces=True, labels=LABELS)


def assert_close(ours: Crystal, expected: Crystal) -> None:
    """Equal, but positions and lattice only to rounding."""
    np.testing.assert_allclose(ours.positions, expected.positions, rtol=0, atol=1e-12)
    exact = Crystal(
        ours.id,
        ours.numbers,
        expected.positions,
        ours.lattice,
        ours.pbc,
        ours.labels,
        ours.forces,
        ours.stress,
        ours.source,
    )
    assert_same(exact, expected)


# --- ASE ------------------------------------------------------------------------------------------------------


def test_through_ase_and_back_to_the_last_bit() -> None:
    for crystal in made():
        atoms = crystal_to_ase(crystal)
        assert_same(crystal_from_ase(atoms, id=crystal.id, source=crystal.source), crystal)
        assert atoms.info[ID_KEY] == crystal.id


def test_ase_calculators_see_what_the_crystal_holds() -> None:
    crystal = next(c for c in made() if c.stress is not None and c.forces is not None and "energy" in c.labels)
    atoms = crystal_to_ase(crystal)
    assert atoms.get_potential_energy() == crystal.labels["energy"]
    np.testing.assert_array_equal(atoms.get_forces(), crystal.forces)
    np.testing.assert_array_equal(atoms.get_stress(voigt=False), crystal.stress)


def test_a_crystal_does_not_share_memory_with_ase() -> None:
    atoms = crystal_to_ase(made()[0])
    crystal = crystal_from_ase(atoms, id="a")
    before = crystal.positions.copy()
    atoms.positions[:] = 0
    np.testing.assert_array_equal(crystal.positions, before)


def test_results_of_a_real_calculator_are_taken_and_none_is_computed() -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.calc = EMT()
    assert crystal_from_ase(atoms, id="a").labels == {}
    energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
    crystal = crystal_from_ase(atoms, id="a")
    assert crystal.labels["energy"] == energy
    np.testing.assert_array_equal(crystal.forces, forces)
    np.testing.assert_array_equal(crystal.stress, stress)


@pytest.mark.parametrize("calculator", [EMT, SinglePointCalculator])
def test_results_are_left_when_the_atoms_have_changed(calculator: type) -> None:
    atoms = bulk("Cu")
    atoms.calc = EMT()
    atoms.get_forces()
    if calculator is SinglePointCalculator:
        atoms.calc = SinglePointCalculator(atoms, **{k: atoms.calc.results[k] for k in ("energy", "forces")})
    atoms.positions[0, 0] += 0.1
    held = dict(atoms.calc.results)
    crystal = crystal_from_ase(atoms, id="a")
    assert (crystal.labels, crystal.forces, crystal.stress) == ({}, None, None)
    assert dict(atoms.calc.results) == held


def test_names_that_training_sets_use() -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.info |= {"REF_energy": -3.0, "e_form": 0.5, "material_id": 7, "config_type": "bulk", "flag": np.bool_(True)}
    atoms.info |= {"REF_virial": np.diag([1.0, 2.0, 3.0]), "dipole": np.ones(3)}
    atoms.arrays["REF_forces"] = np.arange(12.0).reshape(4, 3)
    crystal = crystal_from_ase(atoms, id="a")
    assert crystal.labels == {"energy": -3.0, "formation_energy_per_atom": 0.5, "flag": 1.0}
    np.testing.assert_array_equal(crystal.forces, np.arange(12).reshape(4, 3))
    np.testing.assert_allclose(crystal.stress, np.diag([1, 2, 3]) / -atoms.get_volume())


@pytest.mark.parametrize("shape", ["voigt", "matrix", "flat"])
def test_stress_in_every_shape(shape: str) -> None:
    matrix = np.array([[1, 6, 5], [6, 2, 4], [5, 4, 3]], float)
    atoms = bulk("Cu")
    atoms.info["stress"] = {"voigt": np.arange(1.0, 7), "matrix": matrix, "flat": matrix.ravel()}[shape]
    np.testing.assert_array_equal(crystal_from_ase(atoms, id="a").stress, matrix)


def test_a_molecule_stays_one() -> None:
    crystal = crystal_from_ase(molecule("H2O"), id="water", labels={"gap": 8.0})
    assert crystal.pbc == (False, False, False)
    assert not crystal.lattice.any()
    assert crystal.labels == {"band_gap": 8.0}


def test_given_labels_go_before_those_of_the_object() -> None:
    atoms = bulk("Cu")
    atoms.info["band_gap"] = 1.0
    assert crystal_from_ase(atoms, id="a", labels={"band_gap": 2.0}).labels == {"band_gap": 2.0}
    structure = Structure(Lattice.cubic(4), ["Cu"], [[0, 0, 0]], properties={"band_gap": 1.0})
    assert crystal_from_pymatgen(structure, id="a", labels={"band_gap": 2.0}).labels == {"band_gap": 2.0}


ASE_REFUSED = {
    "no atoms": (ase.Atoms(), Reason.EMPTY, "holds no atoms"),
    "dummy": (ase.Atoms("CuX"), Reason.UNKNOWN_ELEMENT, "atom 1 has atomic number 0"),
    "mixture": (
        ase.Atoms("Cu", info={"occupancy": {"0": {"Cu": 0.5, "Au": 0.5}}}),
        Reason.DISORDERED,
        "0.5 Cu [+] 0.5 Au",
    ),
    "vacancy": (ase.Atoms("Cu", info={"occupancy": {"0": {"Cu": 0.5}}}), Reason.DISORDERED, "0.5 Cu, expected"),
    "bad stress": (ase.Atoms("Cu", info={"stress": [1, 2]}), Reason.UNREADABLE, "stress has shape"),
}


@pytest.mark.parametrize("case", ASE_REFUSED)
def test_ase_atoms_that_are_no_crystal(case: str) -> None:
    atoms, reason, message = ASE_REFUSED[case]
    with pytest.raises(ConversionError, match=f"mp-1: .*{message}") as refused:
        crystal_from_ase(atoms, id="mp-1")
    assert refused.value.reason == reason
    assert isinstance(refused.value, ScreeningError)


def test_full_occupancy_is_no_disorder() -> None:
    assert len(crystal_from_ase(ase.Atoms("Cu", info={"occupancy": {"0": {"Cu": 1.0}}}), id="a")) == 1


# --- pymatgen -------------------------------------------------------------------------------------------------


def test_through_pymatgen_and_back() -> None:
    for crystal in made(PERIODIC_KINDS):
        structure = crystal_to_pymatgen(crystal)
        assert structure.properties[ID_KEY] == crystal.id
        assert_close(crystal_from_pymatgen(structure, id=crystal.id, source=crystal.source), crystal)


def test_slabs_and_molecules_through_pymatgen() -> None:
    for crystal in made(("slab", "molecule")):
        made_from = crystal_to_pymatgen(crystal)
        assert isinstance(made_from, Molecule) == (not any(crystal.pbc))
        assert_close(crystal_from_pymatgen(made_from, id=crystal.id, source=crystal.source), crystal)


def test_pymatgen_keeps_positions_as_they_are() -> None:
    structure = Structure(Lattice.from_parameters(3, 4, 5, 80, 95, 110), ["Cu", "O"], [[1.2, -0.3, 0.5], [0, 0, 0]])
    crystal = crystal_from_pymatgen(structure, id="a")
    np.testing.assert_array_equal(crystal.positions, structure.cart_coords)
    np.testing.assert_array_equal(crystal.lattice, structure.lattice.matrix)
    assert crystal.numbers.tolist() == [29, 8]
    assert crystal.pbc == PERIODIC


def test_oxidation_states_and_isotopes_are_elements() -> None:
    structure = Structure(Lattice.cubic(4), [Species("Fe", 3), Species("O", -2), "D"], np.eye(3) * 0.5)
    assert crystal_from_pymatgen(structure, id="a").numbers.tolist() == [26, 8, 1]


def test_a_stress_of_unknown_unit_is_no_stress() -> None:
    structure = Structure(Lattice.cubic(4), ["Cu"], [[0, 0, 0]], properties={"stress": np.eye(3).tolist()})
    assert crystal_from_pymatgen(structure, id="a").stress is None


PYMATGEN_REFUSED = {
    "mixture": ([{"Cu": 0.5, "Au": 0.5}], {}, Reason.DISORDERED, "site 0 holds 0.5 Cu [+] 0.5 Au"),
    "vacancy": ([{"Cu": 0.9}], {}, Reason.DISORDERED, "site 0 holds 0.9 Cu"),
    "dummy": ([DummySpecies("X")], {}, Reason.UNKNOWN_ELEMENT, "site 0 holds X"),
    "no atoms": ([], {}, Reason.EMPTY, "holds no atoms"),
    "bad stress": (["Cu"], {"properties": {STRESS_KEY: [1]}}, Reason.UNREADABLE, "has shape"),
    "bad forces": (["Cu"], {"site_properties": {"forces": ["x"]}}, Reason.UNREADABLE, "something else than numbers"),
}


@pytest.mark.parametrize("case", PYMATGEN_REFUSED)
def test_structures_that_are_no_crystal(case: str) -> None:
    species, options, reason, message = PYMATGEN_REFUSED[case]
    structure = Structure(Lattice.cubic(4), species, np.zeros((len(species), 3)), **options)
    with pytest.raises(ConversionError, match=f"mp-1: .*{message}") as refused:
        crystal_from_pymatgen(structure, id="mp-1")
    assert refused.value.reason == reason


@pytest.mark.parametrize("lattice", [np.diag([1.0, 1.0, 0.0]), np.ones((3, 3)), np.full((3, 3), np.nan)])
def test_a_lattice_without_volume_cannot_become_a_structure(lattice: np.ndarray) -> None:
    crystal = Crystal("mp-1", np.array([29], np.uint8), np.zeros((1, 3)), lattice, (True, True, False))
    with pytest.raises(InputError, match="mp-1: its lattice vectors span no volume"):
        crystal_to_pymatgen(crystal)
