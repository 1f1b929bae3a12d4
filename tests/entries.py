"""Reads a document as a run of the program would: cut, sent to another process, parsed; and pymatgen's view of it."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from pymatgen.core import Lattice, Molecule, Structure

from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.formats.format import Document, Format

Entry = Crystal | Rejection
# Where in a file, as a fraction of it, how many bytes go, and what comes in their place.
Mutations = list[tuple[float, int, bytes]]
MUTATIONS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 60), st.binary(max_size=6)), min_size=1, max_size=4)


def entries(format: Format, source: Path | bytes, name: str = "") -> list[Entry]:
    """Every entry of a file, or of bytes under a name."""
    document = Document(name, content=source) if isinstance(source, bytes) else Document(name or str(source), source)
    found: list[Entry] = []
    for piece in format.split(document):
        assert piece.first <= len(found)
        assert piece.format == format.name
        found.extend(format.parse(pickle.loads(pickle.dumps(piece))))
    return found


def accepted(found: Sequence[Entry]) -> list[Crystal]:
    """The crystals, when there are only crystals."""
    refused = [entry for entry in found if isinstance(entry, Rejection)]
    assert refused == []
    return [entry for entry in found if isinstance(entry, Crystal)]


def only(found: Sequence[Entry]) -> Crystal:
    """The one crystal."""
    (crystal,) = accepted(found)
    return crystal


def refused(found: Sequence[Entry], reason: Reason) -> Rejection:
    """The one rejection among what was found, which has this reason."""
    (rejection,) = [entry for entry in found if isinstance(entry, Rejection)]
    assert rejection.reason == reason, rejection
    return rejection


def made_structures(count: int, *, seed: int = 0, max_atoms: int = 12) -> list[Structure]:
    """Random pymatgen structures, skewed and left-handed ones among them, some with oxidation states."""
    rng = np.random.default_rng(seed)
    made = []
    for k in range(count):
        atoms = int(rng.integers(1, max_atoms + 1))
        lattice = Lattice(rng.normal(size=(3, 3)) + 6 * np.eye(3)[rng.permutation(3)])
        symbols = rng.choice(["H", "Li", "O", "Na", "Si", "Cl", "Fe", "Ba", "U"], atoms).tolist()
        structure = Structure(lattice, symbols, rng.normal(size=(atoms, 3)))
        if k % 3 == 1:
            structure.add_oxidation_state_by_element({s: 1.5 if s == "Fe" else 2 for s in set(symbols)})
        made.append(structure)
    return made


def assert_same(crystal: Crystal, expected: Structure | Molecule) -> None:
    """Elements, positions and lattice agree with pymatgen to the last digits."""
    assert crystal.numbers.tolist() == list(expected.atomic_numbers)
    assert crystal.numbers.dtype == np.uint8
    assert crystal.positions.dtype == crystal.lattice.dtype == np.float64
    np.testing.assert_allclose(crystal.positions, expected.cart_coords, rtol=0, atol=1e-12)
    if isinstance(expected, Structure):
        np.testing.assert_array_equal(crystal.lattice, expected.lattice.matrix)
        assert crystal.pbc == tuple(expected.lattice.pbc)
    else:
        assert crystal.pbc == (False, False, False)


def structure_dict(**changes: Any) -> dict[str, Any]:
    """The dictionary of rock salt's primitive cell, with changes on top."""
    lattice = Lattice([[0, 2.8, 2.8], [2.8, 0, 2.8], [2.8, 2.8, 0]])
    return {**Structure(lattice, ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]).as_dict(), **changes}


def mutated(content: bytes, mutations: Mutations) -> bytes:
    """The content after these changes, one after the other."""
    for place, removed, inserted in mutations:
        at = int(place * len(content))
        content = content[:at] + inserted + content[at + removed :]
    return content


def assert_entries(found: Sequence[Entry], name: str) -> None:
    """There is at least one entry, and each has an id and a source in the document of this name."""
    assert found
    for entry in found:
        assert isinstance(entry, Crystal | Rejection)
        assert entry.id
        assert entry.source.startswith(name)
