"""One CIF data block to one crystal: cell, sites, symmetry, labels.

Decides only what the text alone can tell. Geometry (atoms too close, tiny volume) is left to validation, which is the
same for every format.
"""

import numpy as np
from gemmi import cif

from screening.arrays import Float64
from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.formats.cif_sites import LARGEST, coordinates_of, elements_of, require_full, sites_in
from screening.crystals.formats.cif_symmetry import operations_in
from screening.crystals.formats.cif_values import Refused, number_in, quoted, unreadable
from screening.crystals.labels import marked_labels
from screening.ops.symmetry import expand_sites
from screening.ops.text import cell_lattice

# Images of one site closer than this (angstrom) are one atom. Three decimals put the images of a site at 1/3 up to
# 0.001 cell lengths apart (0.333, 0.667 beside 0.333, 0.666): 0.02 angstrom in a cell of 20. No two atoms are that
# close, and images farther apart than this survive, for validation to refuse.
SAME_ATOM = 0.02

CELL = (
    "_cell_length_a",
    "_cell_length_b",
    "_cell_length_c",
    "_cell_angle_alpha",
    "_cell_angle_beta",
    "_cell_angle_gamma",
)
ID = "_material_id"
# Labels of any name, one a row; write_cif writes them.
LABEL_NAME, LABEL_VALUE = "_screening_label_name", "_screening_label_value"


def crystal_in(block: cif.Block, id: str, source: str) -> Crystal | Rejection:
    """Read one block; whatever is wrong with it becomes a rejection."""
    try:
        return _crystal(block, id, source)
    except Refused as refused:
        return Rejection(id, source, refused.reason, f"{id}: {refused.message}")


def _crystal(block: cif.Block, id: str, source: str) -> Crystal:
    sites = sites_in(block)
    require_full(sites)
    numbers = elements_of(sites)
    coordinates = coordinates_of(sites, numbers)
    cell, lattice = _cell(block)
    fractional = _fractional(block, coordinates, lattice) if sites.cartesian else coordinates
    operations = operations_in(block, cell[3], cell[5])
    if operations is not None:
        if not operations.fit(lattice, cell):
            told = "the symmetry operations do not fit the cell: lengths or angles contradict them; check both"
            raise unreadable(told)
        fractional, site = expand_sites(
            np.ascontiguousarray(fractional),
            operations.rotations,
            operations.translations,
            lattice,
            tolerance=SAME_ATOM,
        )
        numbers = numbers[site]
    return Crystal(
        id=id,
        numbers=numbers,
        positions=np.dot(fractional, lattice),
        lattice=lattice,
        labels=_labels(block),
        source=source,
    )


def own_id(block: cif.Block) -> str:
    """The id that the block gives itself, if any."""
    value = block.find_value(ID)
    return "" if value is None or cif.is_null(value) else cif.as_string(value).strip()


def _cell(block: cif.Block) -> tuple[list[float], Float64]:
    """Lengths and angles, and the lattice with a along x and b in the xy plane."""
    texts: list[str | None] = [block.find_value(tag) for tag in CELL]
    parameters, lattice, unusable, exists = cell_lattice(texts, limit=LARGEST)
    if unusable >= 0 and quoted(texts[unusable]):
        texts = [text and cif.as_string(text) for text in texts]
        parameters, lattice, unusable, exists = cell_lattice(texts, limit=LARGEST)
    if unusable >= 0:
        raise _no_length(CELL[unusable], texts[unusable])
    if not exists:
        a, b, c, alpha, beta, gamma = (f"{value:g}" for value in parameters)
        told = f"no cell has lengths {a}, {b}, {c} and angles {alpha}, {beta}, {gamma}"
        raise unreadable(f"{told}; check _cell_length_* and _cell_angle_*")
    return parameters, lattice


def _no_length(tag: str, text: str | None) -> Refused:
    if text is None or cif.is_null(text):
        return unreadable(f"has no {tag}; a cell takes three lengths and three angles")
    if number_in(text) is None:
        return unreadable(f"has {tag} {text}; expected a number")
    return Refused(Reason.NON_FINITE, f"has {tag} {text}; expected a finite number")


def _fractional(block: cif.Block, cartesian: Float64, lattice: Float64) -> Float64:
    """Cartesian coordinates of a file to fractional ones; without a matrix, a is along x and b in the xy plane."""
    from_fractional = _transformation(block, "_atom_sites_Cartn_tran_")
    to_fractional = _transformation(block, "_atom_sites_fract_tran_")
    axes = block.find_value("_atom_sites_Cartn_transform_axes")
    try:
        if from_fractional is not None:
            matrix, shift = from_fractional
            return _unmapped(cartesian - shift, matrix.T)
        if to_fractional is not None:
            matrix, shift = to_fractional
            return cartesian @ matrix.T + shift
        if axes is not None and not cif.is_null(axes):
            told = "describes its Cartesian axes in words; give _atom_site_fract_x or _atom_sites_Cartn_tran_matrix_11"
            raise unreadable(told)
        return _unmapped(cartesian, lattice)
    except np.linalg.LinAlgError:
        raise Refused(Reason.TINY_VOLUME, "the cell has no volume, so Cartesian positions mean nothing") from None


def _unmapped(rows: Float64, matrix: Float64) -> Float64:
    """The rows that times the matrix give these rows."""
    return np.ascontiguousarray(np.linalg.solve(matrix.T, rows.T).T, np.float64)


def _transformation(block: cif.Block, prefix: str) -> tuple[Float64, Float64] | None:
    texts = [block.find_value(f"{prefix}matrix_{i}{j}") for i in (1, 2, 3) for j in (1, 2, 3)]
    texts += [block.find_value(f"{prefix}vector_{i}") or "0" for i in (1, 2, 3)]
    values = [number_in(text) for text in texts if text is not None and not cif.is_null(text)]
    if len(values) < 12:
        return None
    if None in values:
        raise unreadable(f"has a {prefix}matrix with an entry that is no number")
    return np.array(values[:9], np.float64).reshape(3, 3), np.array(values[9:], np.float64)


def _labels(block: cif.Block) -> dict[str, float]:
    names = block.find_values(LABEL_NAME)
    if not names:
        return {}
    values = block.find_values(LABEL_VALUE)
    return marked_labels({cif.as_string(n): _label(v) for n, v in zip(names, values, strict=False)})


def _label(word: str) -> float | str:
    number = number_in(word)
    return cif.as_string(word) if number is None else number
