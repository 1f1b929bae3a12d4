"""Symmetry expansion: the native kernel against its reference, grown crystals in 230 groups, and cells that mislead."""

import gemmi
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spacegroups import grown, sorted_distances

from screening.arrays import Float64
from screening.crystals.formats.cif_writer import parameters_of
from screening.ops import reference_symmetry
from screening.ops.symmetry import expand_sites
from screening.ops.text import cell_lattice, site_coordinates

pytestmark = pytest.mark.native

TOLERANCE = 0.02
IDENTITY = np.eye(3)[None], np.zeros((1, 3))


def operations_of(number: int) -> tuple[Float64, Float64]:
    seitz = np.array([op.float_seitz() for op in gemmi.find_spacegroup_by_number(number).operations()])
    return np.ascontiguousarray(seitz[:, :3, :3]), np.ascontiguousarray(seitz[:, :3, 3])


def assert_agree(sites: Float64, operations: tuple[Float64, Float64], lattice: Float64, tolerance: float) -> Float64:
    """Native and reference give the same atoms in the same order; returns them."""
    atoms: Float64
    atoms, site = expand_sites(sites, *operations, lattice, tolerance)
    expected_atoms, expected_site = reference_symmetry.expand_sites(sites, *operations, lattice, tolerance)
    np.testing.assert_array_equal(site, expected_site, strict=True)
    # A point that rounds to 0 in one and to 1 - 1e-16 in the other is the same point.
    steps = atoms - expected_atoms
    assert np.abs(steps - np.round(steps)).max(initial=0.0) < 1e-12
    assert ((atoms >= 0) & (atoms < 1)).all()
    return atoms


@pytest.mark.parametrize("number", range(1, 231))
def test_every_group_gives_the_crystal_that_it_grew(number: int) -> None:
    crystal = grown(number, np.random.default_rng(number))
    atoms, site = expand_sites(crystal.asymmetric, *operations_of(number), crystal.lattice, TOLERANCE)
    assert [crystal.asymmetric_symbols[k] for k in site] == crystal.symbols
    np.testing.assert_allclose(
        sorted_distances(atoms, crystal.lattice),
        sorted_distances(crystal.fractional, crystal.lattice),
        atol=1e-9,
    )


@given(
    number=st.integers(1, 230),
    seed=st.integers(0, 2**32 - 1),
    decimals=st.integers(2, 9),
    skew=st.integers(-2, 2),
    tolerance=st.sampled_from([1e-4, 0.02, 0.3, 1.5]),
)
def test_native_is_the_reference(number: int, seed: int, decimals: int, skew: int, tolerance: float) -> None:
    rng = np.random.default_rng(seed)
    crystal = grown(number, rng, most_atoms=8)
    change = np.eye(3)
    change[0, 1], change[1, 2] = skew, -skew
    rotations, translations = operations_of(number)
    # The same crystal in a skewed cell: x' = x C^-1 for lattice vectors C L.
    inverse = np.linalg.inv(change)
    rotations = np.ascontiguousarray(inverse.T @ rotations @ change.T)
    sites: Float64 = crystal.asymmetric @ inverse + rng.integers(-2, 3, 3).astype(np.float64)
    assert_agree(sites.round(decimals), (rotations, translations @ inverse), change @ crystal.lattice, tolerance)


def test_images_across_the_boundary_are_one_atom() -> None:
    inversion = np.stack([np.eye(3), -np.eye(3)]), np.zeros((2, 3))
    atoms = assert_agree(np.array([[0.999, 0.5005, 1e-4]]), inversion, 5 * np.eye(3), TOLERANCE)
    np.testing.assert_allclose(atoms - np.round(atoms * 2) / 2, [[0, 0, 0]], atol=1e-15)


def test_a_thin_skewed_cell_is_searched_beyond_the_next_image() -> None:
    # Planes 0.01 angstrom apart: an atom's image one plane up lies 0.01 away only with a shift along a as well.
    lattice = np.array([[4.0, 0, 0], [0, 4.0, 0], [1.6, 0, 0.01]])
    operations = np.stack([np.eye(3)] * 2), np.array([[0.0, 0, 0], [-0.4, 0, 0]])
    atoms = assert_agree(np.array([[0.2, 0.3, 0.1]]), operations, lattice, TOLERANCE)
    assert len(atoms) == 1
    step = (atoms[0] - [0.2, 0.3, 0.1]) @ lattice
    assert np.linalg.norm(step) == pytest.approx(0.005)


@pytest.mark.parametrize(("apart", "atoms"), [(0.019, 1), (0.021, 2)])
def test_the_tolerance_is_a_distance(apart: float, atoms: int) -> None:
    mirror = np.stack([np.eye(3), np.diag([1.0, 1.0, -1.0])]), np.zeros((2, 3))
    lattice = np.diag([3.0, 4.0, 50.0])
    assert len(assert_agree(np.array([[0.1, 0.2, apart / 100]]), mirror, lattice, TOLERANCE)) == atoms


def test_written_thirds_become_thirds() -> None:
    atoms = assert_agree(np.array([[0.3333, 0.6667, 0.25]]), operations_of(194), np.diag([3.0, 3.0, 5.0]), 0.05)
    assert len(atoms) == 2
    np.testing.assert_allclose(sorted(atoms.tolist()), [[1 / 3, 2 / 3, 1 / 4], [2 / 3, 1 / 3, 3 / 4]], atol=1e-15)


def test_images_of_different_sites_stay_apart() -> None:
    atoms = assert_agree(np.array([[0.1, 0.2, 0.3]] * 2), operations_of(2), 5 * np.eye(3), TOLERANCE)
    assert len(atoms) == 4


@pytest.mark.parametrize("lattice", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.diag([1, 1, 1e-9])])
def test_without_a_cell_every_image_is_kept(lattice: Float64) -> None:
    _, site = expand_sites(np.zeros((2, 3)), *operations_of(225), lattice.astype(np.float64), TOLERANCE)
    assert site.tolist() == [0] * 192 + [1] * 192


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_coordinates_that_mean_nothing_do_not_hang_or_merge(value: float) -> None:
    _, site = expand_sites(np.array([[value, 0.1, 0.2]]), *operations_of(2), 5 * np.eye(3), TOLERANCE)
    assert len(site) == 2


def test_no_sites_give_no_atoms() -> None:
    atoms, site = expand_sites(np.empty((0, 3)), *IDENTITY, np.eye(3), TOLERANCE)
    assert (atoms.shape, site.shape, site.dtype) == ((0, 3), (0,), np.int32)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((np.zeros((1, 2)), *IDENTITY, np.eye(3)), r"fractional must have shape \(n, 3\), got \(1, 2\)"),
        ((np.zeros((1, 3)), np.eye(3), np.zeros((1, 3)), np.eye(3)), r"rotations must have shape \(n, 3, 3\)"),
        ((np.zeros((1, 3)), np.eye(3)[None], np.zeros((2, 3)), np.eye(3)), r"translations must have shape \(1, 3\)"),
        ((np.zeros((1, 3)), *IDENTITY, np.eye(2)), r"lattice must have shape \(3, 3\), got \(2, 2\)"),
    ],
)
def test_wrong_shapes_are_told(arguments: tuple[Float64, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        expand_sites(*arguments, 0.01)  # type: ignore[call-arg, arg-type]


@given(st.lists(st.tuples(*[st.floats(-10, 10)] * 3), max_size=20), st.integers(0, 9))
def test_coordinates_are_read_to_the_last_bit(points: list[tuple[float, float, float]], doubt: int) -> None:
    texts = [f"{point[axis]!r}({doubt})" if doubt else repr(point[axis]) for axis in range(3) for point in points]
    rows, unusable, repeated = site_coordinates(texts, limit=1e100)
    np.testing.assert_array_equal(rows, np.array(points, np.float64).reshape(-1, 3), strict=True)
    assert unusable == -1
    assert repeated == (len(set(points)) < len(points))


@pytest.mark.parametrize("text", ["", ".", "?", "nan", "inf", "1e100", "0.3(", "0.3)", "0.3(x)", "1_0", "0x1", "1 2"])
def test_the_first_text_that_is_no_number_is_told(text: str) -> None:
    assert site_coordinates(["1", "2", "3", "4", text, text], limit=1e100)[1] == 4


def test_texts_come_in_threes() -> None:
    with pytest.raises(ValueError, match="got 4 texts"):
        site_coordinates(["1"] * 4, limit=1.0)
    with pytest.raises(ValueError, match="three lengths and three angles, got 5 texts"):
        cell_lattice(["1"] * 5, limit=1.0)
    with pytest.raises(TypeError):
        site_coordinates([1.0, 2.0, 3.0], limit=1.0)  # type: ignore[list-item]


@given(st.tuples(*[st.floats(0.1, 100)] * 3), st.tuples(*[st.integers(1, 178)] * 3))
def test_the_lattice_is_the_reference(lengths: tuple[float, ...], angles: tuple[int, ...]) -> None:
    texts: list[str | None] = [*map(repr, lengths), *(f"{angle}(1)" for angle in angles)]
    parameters, lattice, unusable, exists = cell_lattice(texts, limit=1e100)
    expected = reference_symmetry.lattice_of(*lengths, *angles)
    assert parameters == [*lengths, *angles]
    assert unusable == -1
    alpha, beta, gamma = sorted(angles)
    # Three angles make a corner when the largest is less than the others together, and all fill less than a circle.
    margin = min(alpha + beta - gamma, 360 - alpha - beta - gamma)
    if margin != 0:
        assert exists == (margin > 0)
    if margin > 0:
        np.testing.assert_allclose(lattice, expected, atol=1e-11 * max(lengths))
        np.testing.assert_allclose(parameters_of(lattice), parameters, rtol=1e-9)


def test_right_angles_are_right() -> None:
    _, lattice, _, _ = cell_lattice(["2", "3", "4", "90", "90.0", "9e1"], limit=1e100)
    np.testing.assert_array_equal(lattice, np.diag([2.0, 3.0, 4.0]))


@pytest.mark.parametrize("angles", ["120 120 120", "60 60 120", "90 90 180"])
def test_a_flat_cell_has_no_volume(angles: str) -> None:
    _, lattice, _, exists = cell_lattice([*"333", *angles.split()], limit=1e100)
    assert exists == (angles != "90 90 180")
    assert not exists or abs(np.linalg.det(lattice)) < 1e-6


@pytest.mark.parametrize("value", [None, "", "?", "nan", "1e100", "-inf", "4.0(x)"])
def test_the_first_parameter_that_is_no_number_is_told(value: str | None) -> None:
    assert cell_lattice(["1", "2", value, "90", value, "90"], limit=1e100)[2] == 2


@pytest.mark.parametrize("angles", ["90 90 190", "90 270 90", "-90 90 90", "450 90 90", "0 90 90", "90 180 90"])
def test_angles_of_a_cell_lie_between_0_and_180_degrees(angles: str) -> None:
    assert not cell_lattice([*"333", *angles.split()], limit=1e100)[3]


def test_no_cell_has_a_negative_length() -> None:
    assert [cell_lattice([a, "2", "3", "90", "90", "90"], limit=1e3)[3] for a in ("-1", "0", "1")] == [
        False,
        True,
        True,
    ]
