"""Crystals drawn: images on faces, bonds that chemists would draw, everything inside the picture, nothing mirrored."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import made_crystals
from pages import page_of

from screening.crystals.crystal import Crystal
from screening.crystals.elements import NUMBER_OF
from screening.report.candidates import space_group
from screening.report.drawing import SIZE, crystal_drawing, gradients, looks
from screening.report.element_looks import shade
from screening.report.scene import MOST_ATOMS, Scene, scene_of

CRYSTALS = made_crystals(70, seed=5, max_atoms=9)


def crystal(symbols: str, fractional: list[list[float]], lattice: np.ndarray, *, periodic: bool = True) -> Crystal:
    numbers = np.array([NUMBER_OF[symbol] for symbol in symbols.split()], np.uint8)
    return Crystal("made", numbers, np.array(fractional) @ lattice, lattice, (periodic, periodic, periodic))


PEROVSKITE = crystal(
    "Sr Ti O O O", [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]], 3.905 * np.eye(3)
)


METHANE = [[0.0, 0, 0], [1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]


def bonds_of(scene: Scene) -> list[tuple[int, ...]]:
    return sorted({tuple(sorted(scene.numbers[pair].tolist())) for pair in scene.bonds})


def test_a_perovskite_has_its_corners_faces_and_octahedron() -> None:
    scene = scene_of(PEROVSKITE)
    counts = dict(zip(*np.unique(scene.numbers, return_counts=True), strict=True))
    assert counts == {38: 8, 22: 1, 8: 6}
    assert len(scene.edges) == 12
    assert len(scene.bonds) == 6
    assert bonds_of(scene) == [(8, 22)]
    lengths = np.linalg.norm(scene.positions[scene.bonds[:, 0]] - scene.positions[scene.bonds[:, 1]], axis=1)
    np.testing.assert_allclose(lengths, 3.905 / 2)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (crystal("Na Cl", [[0, 0, 0], [0.5, 0.5, 0.5]], 2.82 * (1 - np.eye(3))), [(11, 17)]),
        (crystal("Al", [[0, 0, 0]], 2.025 * (1 - np.eye(3))), [(13, 13)]),
        (crystal("Ba F F", [[0, 0, 0], [0.25] * 3, [0.75] * 3], 3.1 * (1 - np.eye(3))), [(9, 56)]),
        (
            crystal("C H H H H", METHANE, 0.63 * np.eye(3), periodic=False),
            [(1, 6)],
        ),
        (crystal("Xe Xe", [[0, 0, 0], [0.5] * 3], 6.0 * np.eye(3)), []),
    ],
)
def test_bonds(made: Crystal, expected: list[tuple[int, int]]) -> None:
    assert bonds_of(scene_of(made)) == expected


@given(st.sampled_from(CRYSTALS))
def test_a_scene_holds_every_atom_and_keeps_distances(made: Crystal) -> None:
    scene = scene_of(made)
    assert scene.numbers[: len(made)].tolist() == made.numbers.tolist()
    assert len(scene.edges) == {0: 0, 1: 1, 2: 4, 3: 12}[sum(made.pbc)]
    images = scene.numbers[len(made) :].tolist()
    assert set(images) <= set(made.numbers.tolist())
    # What is drawn is the crystal turned: distances of bonds are distances between images.
    inverse = np.linalg.pinv(made.lattice)
    turned = scene.positions[: len(made)] - scene.positions[0]
    before = made.positions - made.positions[0]
    for k in range(1, len(made)):
        lengths = [
            np.linalg.norm(before[k] + np.array(s) @ made.lattice) for s in _shifts(before[k], inverse, made.pbc)
        ]
        assert min(abs(np.linalg.norm(turned[k]) - length) for length in lengths) < 1e-6
    drawn = page_of(crystal_drawing(scene, "a cell")).one("svg")
    for circle in drawn.all("circle"):
        x, y, r = (float(circle.attributes[name]) for name in ("cx", "cy", "r"))
        assert min(x, y) - r >= -12
        assert max(x, y) + r <= SIZE + 12
    assert json.loads(drawn.attributes["data-scene"])["reach"] == pytest.approx(scene.reach, abs=0.01)


def _shifts(vector: np.ndarray, inverse: np.ndarray, pbc: tuple[bool, ...]) -> list[tuple[int, ...]]:
    near = -np.round(vector @ inverse)
    steps = [range(int(near[k]) - 3, int(near[k]) + 4) if pbc[k] else (0,) for k in range(3)]
    return [(a, b, c) for a in steps[0] for b in steps[1] for c in steps[2]]


def test_handedness_is_kept() -> None:
    for made in CRYSTALS:
        if len(made) >= 4 and not any(made.pbc):
            ours = scene_of(made).positions[:4]
            assert np.linalg.det(ours[1:] - ours[0]) == pytest.approx(
                np.linalg.det(made.positions[1:4] - made.positions[0])
            )


def test_large_cells_are_drawn_in_part() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(8)] * 3), axis=-1).reshape(-1, 3) / 8
    scene = scene_of(Crystal("large", np.full(512, 14, np.uint8), grid * 20.0, 20.0 * np.eye(3)))
    assert (len(scene.numbers), scene.left_out) == (MOST_ATOMS, 512 - MOST_ATOMS)
    assert len(crystal_drawing(scene, "large")) < 60_000


def test_a_single_atom_without_a_cell() -> None:
    scene = scene_of(Crystal("atom", np.array([6], np.uint8), np.zeros((1, 3)), np.zeros((3, 3)), (False,) * 3))
    assert (len(scene.numbers), len(scene.edges), len(scene.bonds)) == (1, 0, 0)
    assert "NaN" not in crystal_drawing(scene, "atom")


def test_space_groups() -> None:
    assert space_group(PEROVSKITE) == ("P m -3 m", 221)
    assert space_group(crystal("C", [[0, 0, 0]], np.zeros((3, 3)), periodic=False)) is None
    sheared = crystal("Cs Cl", [[0, 0, 0], [0.5, 0, 0]], np.array([[4.0, 0, 0], [1e6, 5, 0], [0, 1e6, 5]]))
    assert space_group(sheared) is None
    together = Crystal("twice", np.array([6, 6], np.uint8), np.zeros((2, 3)), 4 * np.eye(3))
    assert space_group(together) is None


def test_shades() -> None:
    assert (shade("#804020", 1.0), shade("#804020", -1.0), shade("#804020", 0.0)) == ("#ffffff", "#000000", "#804020")
    assert 'id="z22"' in gradients([22, 22])
    assert json.loads(looks([22]))["elements"]["22"][0] == 0.8
