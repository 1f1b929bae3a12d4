"""Crystals to and from pymatgen structures and ASE atoms.

`crystal_from_*` raises ConversionError for what a crystal cannot hold; its `reason` is the code that a reader puts
into a rejection. `crystal_to_*` gives objects that hold the same and come back the same: positions to the last bit
through ASE, to rounding through pymatgen, which keeps fractional coordinates.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from screening.arrays import Float64
from screening.crystals.crystal import Crystal, Reason
from screening.crystals.elements import SYMBOLS
from screening.crystals.formats.xyz_columns import FORCE_COLUMNS
from screening.crystals.formats.xyz_comment import roles_of, stress_of_virial
from screening.crystals.labels import STRESS_KEY, canonical_labels
from screening.crystals.volume import volume_of
from screening.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import IMolecule, IStructure, Molecule, Structure

ID_KEY = "material_id"
FORCES_KEY = "forces"
# What an ASE calculator holds for a whole cell; the rest of the labels is in `info`.
CALCULATED = ("energy", "free_energy")


class ConversionError(InputError):
    """An object that cannot become a crystal, and the reason code for it."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


# --- pymatgen -------------------------------------------------------------------------------------------------


def crystal_from_pymatgen(
    structure: "IStructure | IMolecule", *, id: str, labels: Mapping[str, object] | None = None, source: str = ""
) -> Crystal:
    """Take over a Structure, or a Molecule as a crystal that is not periodic.

    Numbers in `structure.properties` become labels, `labels` go before them; site property `forces` (eV/angstrom)
    becomes the forces. Raises ConversionError for partial occupancy, dummy species or no atoms.
    """
    if not len(structure):
        raise ConversionError(Reason.EMPTY, f"{id}: holds no atoms")
    numbers = [_number_of_site(id, k, site.species) for k, site in enumerate(structure)]
    lattice = getattr(structure, "lattice", None)
    x, y, z = (False, False, False) if lattice is None else lattice.pbc
    properties = {**structure.properties, **(labels or {})}
    forces = structure.site_properties.get(FORCES_KEY)
    stress = properties.get(STRESS_KEY)
    return Crystal(
        id=id,
        numbers=np.array(numbers, np.uint8),
        positions=np.array(structure.cart_coords, np.float64).reshape(-1, 3),
        lattice=np.zeros((3, 3)) if lattice is None else np.array(lattice.matrix, np.float64),
        pbc=(bool(x), bool(y), bool(z)),
        labels=_labels(properties),
        forces=None if forces is None else _shaped(id, "forces", forces, (len(numbers), 3)),
        stress=None if stress is None else _shaped(id, STRESS_KEY, stress, (3, 3)),
        source=source,
    )


def _number_of_site(id: str, k: int, species: Any) -> int:
    from pymatgen.core import DummySpecies

    if len(species) != 1 or abs(species.num_atoms - 1) > 1e-8:
        held = " + ".join(f"{amount:g} {kind.symbol}" for kind, amount in species.items()) or "nothing"
        raise ConversionError(
            Reason.DISORDERED,
            f"{id}: site {k} holds {held}, expected one element with occupancy 1; order it, for example with "
            "pymatgen's OrderDisorderedStructureTransformation",
        )
    (kind,) = species
    if isinstance(kind, DummySpecies):
        raise ConversionError(Reason.UNKNOWN_ELEMENT, f"{id}: site {k} holds {kind.symbol}, which is no element")
    return int(kind.Z)


def crystal_to_pymatgen(crystal: Crystal) -> "Structure | Molecule":
    """Make a Structure with id, labels and stress in its properties; a Molecule if the crystal has no lattice.

    Raises InputError for a lattice without volume, which pymatgen cannot hold.
    """
    from pymatgen.core import Lattice, Molecule, Structure

    species = [SYMBOLS[number] for number in crystal.numbers.tolist()]
    properties: dict[str, Any] = {ID_KEY: crystal.id, **crystal.labels}
    if crystal.stress is not None:
        properties[STRESS_KEY] = crystal.stress.tolist()
    sites = None if crystal.forces is None else {FORCES_KEY: crystal.forces.tolist()}
    if not crystal.lattice.any() and not any(crystal.pbc):
        return Molecule(species, crystal.positions, site_properties=sites, properties=properties)
    require_volume(crystal)
    return Structure(
        Lattice(crystal.lattice, pbc=crystal.pbc),
        species,
        crystal.positions,
        coords_are_cartesian=True,
        site_properties=sites,
        properties=properties,
    )


def require_volume(crystal: Crystal) -> None:
    """Refuse a lattice that fractional coordinates do not exist in."""
    # Vectors that lie in a plane rarely span zero to the last bit.
    a, b, c = (math.hypot(*vector) for vector in crystal.lattice.tolist())
    if not 1e-12 * a * b * c < volume_of(crystal.lattice) < math.inf:
        raise InputError(
            f"{crystal.id}: its lattice vectors span no volume, but fractional coordinates need one; give the vectors "
            "that are not periodic a length, or write extxyz"
        )


# --- ASE ------------------------------------------------------------------------------------------------------


def crystal_from_ase(
    atoms: "Atoms", *, id: str, labels: Mapping[str, object] | None = None, source: str = ""
) -> Crystal:
    """Take over Atoms with the results their calculator holds for them: energies, forces, stress.

    Nothing is computed, and results of a calculator are left if the atoms have changed since. Numbers in `info`
    become labels, `labels` go before them. Raises ConversionError for partial occupancy, unknown elements or no atoms.
    """
    if not len(atoms):
        raise ConversionError(Reason.EMPTY, f"{id}: holds no atoms")
    _require_elements(id, atoms.numbers)
    _require_order(id, atoms.info.get("occupancy"))
    x, y, z = atoms.pbc.tolist()
    lattice = np.array(atoms.cell.array, np.float64)
    info = {str(name): value for name, value in atoms.info.items()}
    results = _results(atoms)
    forces = results.pop("forces", None)
    stress = results.pop("stress", None)
    return Crystal(
        id=id,
        numbers=atoms.numbers.astype(np.uint8),
        positions=np.array(atoms.positions, np.float64),
        lattice=lattice,
        pbc=(x, y, z),
        labels=_labels({**info, **results, **(labels or {})}),
        forces=_forces(id, atoms) if forces is None else _shaped(id, "forces", forces, (len(atoms), 3)),
        stress=_stress_in(id, info, lattice) if stress is None else _stress(id, "stress", stress),
        source=source,
    )


def _require_elements(id: str, numbers: Any) -> None:
    unknown = np.flatnonzero((numbers < 1) | (numbers >= len(SYMBOLS)))
    if len(unknown):
        k = int(unknown[0])
        raise ConversionError(
            Reason.UNKNOWN_ELEMENT, f"{id}: atom {k} has atomic number {numbers[k]}, expected 1 to {len(SYMBOLS) - 1}"
        )


def _require_order(id: str, occupancy: Any) -> None:
    """ASE keeps partial occupancy in `info`: by kind of site, how much of which element."""
    if not isinstance(occupancy, Mapping):
        return
    for site, held in occupancy.items():
        if isinstance(held, Mapping) and (len(held) != 1 or any(abs(share - 1) > 1e-8 for share in held.values())):
            mixture = " + ".join(f"{share:g} {symbol}" for symbol, share in held.items()) or "nothing"
            raise ConversionError(
                Reason.DISORDERED, f"{id}: sites of kind {site} hold {mixture}, expected one element with occupancy 1"
            )


def _results(atoms: "Atoms") -> dict[str, Any]:
    """What the calculator holds for these atoms as they are."""
    calculator: Any = atoms.calc
    held = getattr(calculator, "results", None)
    if not held or calculator.check_state(atoms):
        return {}
    return {name: held[name] for name in (*CALCULATED, "forces", "stress") if held.get(name) is not None}


def _forces(id: str, atoms: "Atoms") -> Float64 | None:
    """Forces under one of the names that training sets use, as the reader of extended XYZ finds them."""
    by_name = {name.lower(): values for name, values in atoms.arrays.items()}
    found = next((name for name in FORCE_COLUMNS if name in by_name), None)
    return _shaped(id, found, by_name[found], (len(atoms), 3)) if found else None


def _stress_in(id: str, info: Mapping[str, Any], lattice: Float64) -> Float64 | None:
    keys = tuple(info)
    roles = roles_of(keys)
    if roles.stress >= 0:
        return _stress(id, keys[roles.stress], info[keys[roles.stress]])
    if roles.virial >= 0:
        return stress_of_virial(_stress(id, keys[roles.virial], info[keys[roles.virial]]), lattice)
    return None


def _stress(id: str, what: str, stress: Any) -> Float64:
    """(3, 3) from (3, 3), from nine numbers or from Voigt's xx yy zz yz xz xy."""
    array = np.asarray(stress)
    if array.size == 6:
        return _shaped(id, what, array.ravel()[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3), (3, 3))
    return _shaped(id, what, array.reshape(3, 3) if array.size == 9 else array, (3, 3))


def crystal_to_ase(crystal: Crystal) -> "Atoms":
    """Make Atoms: id and labels in `info`, energy, forces and stress as results of a calculator.

    ASE keeps six numbers of a stress: those of its symmetric part.
    """
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    labels = dict(crystal.labels)
    results: dict[str, Any] = {name: labels.pop(name) for name in CALCULATED if name in labels}
    atoms = Atoms(
        numbers=crystal.numbers,
        positions=crystal.positions,
        cell=crystal.lattice,
        pbc=crystal.pbc,
        info={ID_KEY: crystal.id, **labels},
    )
    if crystal.forces is not None:
        results["forces"] = crystal.forces.copy()
    if crystal.stress is not None:
        symmetric = (crystal.stress + crystal.stress.T) / 2
        results["stress"] = symmetric[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)  # type: ignore[no-untyped-call]
    return atoms


# --- both -----------------------------------------------------------------------------------------------------


def _labels(properties: Mapping[str, object]) -> dict[str, float]:
    """The numbers among properties that are labels, which ids and tensors are not."""
    keys = tuple(str(name) for name in properties)
    values = list(properties.values())
    return canonical_labels({keys[k]: values[k] for k in roles_of(keys).labels})


def _shaped(id: str, what: str, values: Any, shape: tuple[int, ...]) -> Float64:
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ConversionError(Reason.UNREADABLE, f"{id}: {what} holds something else than numbers") from error
    if array.shape != shape:
        raise ConversionError(Reason.UNREADABLE, f"{id}: {what} has shape {array.shape}, expected {shape}")
    return array
