"""Validation: each reason found and worded, nothing raised, good crystals untouched, brute force agrees."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import KINDS, assert_same, closest_distance, made_batch, made_crystal, made_crystals

from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal, Reason
from screening.crystals.validate import CROWD, CrystalLimits, validate
from screening.errors import InputError

pytestmark = pytest.mark.native

CUBE = np.eye(3) * 4.0


def one(positions: object, lattice: object = CUBE, pbc: tuple[bool, bool, bool] = (True, True, True)) -> Crystal:
    at = np.array(positions, np.float64).reshape(-1, 3)
    return Crystal("mp-1", np.full(len(at), 8, np.uint8), at, np.array(lattice, np.float64), pbc, source="a.cif")


def refusal(crystal: Crystal, **limits: float | int) -> tuple[str, str]:
    found = validate(Crystals.of([crystal]), CrystalLimits(**limits))  # type: ignore[arg-type]
    assert len(found.accepted) == 0
    assert found.rejected_rows.tolist() == [0]
    (rejection,) = found.rejections
    assert (rejection.id, rejection.source) == ("mp-1", "a.cif")
    return rejection.reason, rejection.message


def test_good_crystals_pass_unchanged() -> None:
    crystals = made_crystals(4 * len(KINDS), forces=True)
    found = validate(Crystals.of(crystals))
    assert found.rejections == []
    for ours, expected in zip(found.accepted, crystals, strict=True):
        assert_same(ours, expected)


def test_empty_batch() -> None:
    found = validate(Crystals.of([]))
    assert len(found.accepted) == 0
    assert found.rejections == []


REFUSED = [
    (one([]), Reason.EMPTY, "mp-1: has no atoms; check that its sites were written"),
    (
        one([[0, 0, 0], [0, np.nan, 2]]),
        Reason.NON_FINITE,
        "mp-1: coordinate y of atom 1 is nan; expected a number below 1e+07 angstrom; "
        "check the file for missing or overflowed values",
    ),
    (one([[0, 0, -np.inf]]), Reason.NON_FINITE, "coordinate z of atom 0 is -inf"),
    (one([[3e7, 0, 0]]), Reason.NON_FINITE, "coordinate x of atom 0 is 30000000.0"),
    (one([[0, 0, 0]], CUBE + np.diag([0, 0, np.nan])), Reason.NON_FINITE, "component z of lattice vector 2 is nan"),
    (one([[0, 0, 0]], np.zeros((3, 3))), Reason.TINY_VOLUME, "volume is 0 cubic angstrom per atom (minimum 0.5)"),
    (one([[0, 0, 0]], np.eye(3)[[0, 1, 1]] * 9), Reason.TINY_VOLUME, "volume is 0 cubic angstrom"),
    (one([[0, 0, 0], [0.4, 0, 0]], np.eye(3) * 0.8), Reason.TINY_VOLUME, "volume is 0.256 cubic angstrom per atom"),
    (one([[0, 0, 0]], np.diag([0.5, 0.5, 0]), (True, True, False)), Reason.TINY_VOLUME, "area is 0.25 square angstrom"),
    (one([[0, 0, 0]], np.eye(3)[[0, 0, 2]], (True, True, False)), Reason.TINY_VOLUME, "area is 0 square angstrom"),
    (
        one([[0, 0, 0]], np.zeros((3, 3)), (False, True, False)),
        Reason.TINY_VOLUME,
        "length is 0 angstrom (minimum 0.79",
    ),
    (
        one([[0, 0, 0]], [[1e6, 0, 0], [1e6, 1e-3, 0], [0, 0, 9]]),
        Reason.TINY_VOLUME,
        "the cell is flat: its faces across lattice vector 0 are 0.001 angstrom apart (minimum 0.01)",
    ),
    (
        one([[1, 1, 1], [2, 2, 2], [1, 1, 1.02]]),
        Reason.ATOMS_TOO_CLOSE,
        "mp-1: atoms 0 and 2 are 0.02 angstrom apart (minimum 0.5); check the file for duplicated sites",
    ),
    (one([[0, 0, 0.1], [0, 0, 3.8]]), Reason.ATOMS_TOO_CLOSE, "atoms 0 and 1 are 0.3 angstrom apart"),
    (one([[0, 0, 0], [0, 0, 40]]), Reason.ATOMS_TOO_CLOSE, "atoms 0 and 1 are 0 angstrom apart"),
    (one([[0, 0, 0], [0, 0, 0]], CUBE * 0, (False,) * 3), Reason.ATOMS_TOO_CLOSE, "atoms 0 and 1 are 0 angstrom"),
    (
        one([[0, 0, 0]], np.diag([0.4, 5, 5])),
        Reason.ATOMS_TOO_CLOSE,
        "atom 0 and its periodic image are 0.4 angstrom apart (minimum 0.5); check the lattice vectors",
    ),
]


@pytest.mark.parametrize(
    ("crystal", "reason", "message"), REFUSED, ids=[f"{r}-{k}" for k, (_, r, _) in enumerate(REFUSED)]
)
def test_reason_and_sentence(crystal: Crystal, reason: Reason, message: str) -> None:
    found_reason, found_message = refusal(crystal)
    assert found_reason == reason
    assert message in found_message
    assert found_message.startswith("mp-1: ")


def test_limits_are_the_users() -> None:
    two = one([[0, 0, 0], [0, 0, 1]])
    assert refusal(two, max_atoms=1)[1] == "mp-1: has 2 atoms (maximum 1); raise max_atoms or leave it out"
    assert refusal(two, min_distance=1.5)[0] == Reason.ATOMS_TOO_CLOSE
    assert refusal(two, min_volume_per_atom=33)[0] == Reason.TINY_VOLUME
    assert len(validate(Crystals.of([two]), CrystalLimits(max_atoms=2)).accepted) == 1
    touching = one([[0, 0, 0], [0, 0, 0]])
    assert len(validate(Crystals.of([touching]), CrystalLimits(min_distance=0)).accepted) == 1


@pytest.mark.parametrize(
    "wrong", [{"min_distance": -1}, {"min_distance": np.nan}, {"min_distance": 11}, {"max_atoms": 0}]
)
def test_senseless_limits_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        CrystalLimits(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [0, 119, 255])
def test_unknown_element(number: int) -> None:
    crystal = Crystal("mp-1", np.array([8, number], np.uint8), np.array([[0, 0, 0], [2.0, 2, 2]]), CUBE, source="a.cif")
    reason, message = refusal(crystal)
    assert reason == Reason.UNKNOWN_ELEMENT
    assert f"atom 1 has the atomic number {number}" in message


def test_bad_crystals_do_not_touch_their_neighbours() -> None:
    good = made_crystals(len(REFUSED))
    mixed = [c for pair in zip(good, (bad for bad, _, _ in REFUSED), strict=True) for c in pair]
    found = validate(Crystals.of(mixed))
    assert found.rejected_rows.tolist() == list(range(1, 2 * len(good), 2))
    assert [r.reason for r in found.rejections] == [reason for _, reason, _ in REFUSED]
    for ours, expected in zip(found.accepted, good, strict=True):
        assert_same(ours, expected)


def test_labels_that_are_not_finite_become_missing() -> None:
    at, force, stress = np.zeros((1, 3)), np.ones((1, 3)), np.ones((3, 3))
    labels = [{"band_gap": np.inf, "energy": 1.0}, {"band_gap": 2.0}]
    crystals = [
        Crystal("a", np.ones(1, np.uint8), at, CUBE, labels=labels[0], forces=force * np.nan, stress=stress),
        Crystal("b", np.ones(1, np.uint8), at, CUBE, labels=labels[1], forces=force),
    ]
    found = validate(Crystals.of(crystals))
    assert found.unusable == ["band_gap of a"]
    a, b = found.accepted
    assert (a.labels, b.labels) == ({"energy": 1.0}, {"band_gap": 2.0})
    assert (a.forces is None, b.forces is None) == (True, False)
    assert (a.stress is None, b.stress is None) == (False, True)


def test_partly_broken_forces_and_stress_are_missing_as_a_whole() -> None:
    rng = np.random.default_rng(0)
    crystals = [made_crystal(rng, f"c{k}", forces=True) for k in range(3)]
    batch = Crystals.of(crystals)
    assert batch.forces is not None
    assert batch.stress is not None
    batch.forces[batch.atom_offsets[1], 2] = np.inf
    batch.stress[2, 0, 1] = np.nan
    assert validate(batch).unusable == ["the forces of c1", "the stress of c2"]
    found = validate(batch).accepted
    assert [c.forces is None for c in found] == [False, True, False]
    assert [c.stress is None for c in found] == [False, False, True]


def test_thousands_of_atoms_on_one_point_cost_no_memory() -> None:
    crowd = one(np.tile([1.0, 2.0, 3.0], (20_000, 1)), np.eye(3) * 60)
    assert "atoms 0 and 1 are 0 angstrom apart" in refusal(crowd)[1]
    clusters = one(np.random.default_rng(0).uniform(0, 0.3, (5_000, 3)), np.eye(3) * 60)
    assert refusal(clusters)[0] == Reason.ATOMS_TOO_CLOSE


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), atoms=st.integers(1, 2 * CROWD), kind=st.sampled_from(KINDS))
def test_refuses_exactly_what_brute_force_refuses(seed: int, atoms: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    crystal = made_crystal(rng, "mp-1", kind=kind, max_atoms=1)
    scatter = rng.uniform(0, 1, (atoms, 3)) @ (crystal.lattice if kind != "molecule" else np.eye(3) * 8)
    crystal = one(scatter, crystal.lattice * 2, crystal.pbc)
    closest = closest_distance(crystal.positions, crystal.lattice, crystal.pbc, 0.5)
    found = validate(Crystals.of([crystal]), CrystalLimits(min_volume_per_atom=0))
    if closest < 0.5:
        assert found.rejections[0].reason == Reason.ATOMS_TOO_CLOSE
        if atoms <= CROWD:
            assert f" {closest:.2g} angstrom apart" in found.rejections[0].message
    else:
        assert found.rejections == []


def numbers() -> st.SearchStrategy[float]:
    special = [0.0, 1e-320, 1e-8, 1e7, -1e7, 1e8, 1e300, np.inf, -np.inf, np.nan, 1.0, 3.0]
    return st.one_of(st.sampled_from(special), st.floats(-10, 10, width=32))


@settings(max_examples=300)
@given(
    lattice=st.lists(numbers(), min_size=9, max_size=9),
    positions=st.lists(st.tuples(numbers(), numbers(), numbers()), max_size=4),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    min_volume=st.sampled_from([0.0, 0.5]),
)
def test_nothing_raises(
    lattice: list[float], positions: list[tuple[float, ...]], pbc: tuple[bool, bool, bool], min_volume: float
) -> None:
    neighbours = made_crystals(2)
    odd = one(positions, np.reshape(lattice, (3, 3)), pbc)
    found = validate(Crystals.of([neighbours[0], odd, neighbours[1]]), CrystalLimits(min_volume_per_atom=min_volume))
    assert len(found.accepted) + len(found.rejections) == 3
    assert {neighbours[0].id, neighbours[1].id} <= set(found.accepted.ids)


def test_many_at_once_agree_with_one_by_one() -> None:
    batch = made_batch(300, seed=3)
    positions = batch.positions.copy()
    positions[::41] = positions[1::41][: len(positions[::41])]
    broken = Crystals(batch.ids, batch.numbers, positions, batch.lattice, batch.pbc, batch.atom_offsets)
    together = validate(broken)
    alone = [validate(broken[k : k + 1]) for k in range(len(broken))]
    assert together.rejections == [r for found in alone for r in found.rejections]
    assert together.rejections
    assert list(together.accepted.ids) == [i for found in alone for i in found.accepted.ids]
