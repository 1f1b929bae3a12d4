"""Space groups: worked out when crystals are packed, in any number of processes; the file says with which tolerance."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import moyopy
import numpy as np
import pytest
from made import PERIODIC_KINDS, made_crystals
from typer.testing import CliRunner

from screening.cli import app
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal
from screening.crystals.pack import pack
from screening.crystals.packed import PackedCrystals
from screening.crystals.read import read
from screening.crystals.symmetry import GROUP_LABEL, space_group, space_groups
from screening.crystals.write import write
from screening.errors import InputError

CUBE = 4.0 * np.eye(3)


def crystal(name: str, positions: list[list[float]], numbers: list[int], *, pbc: bool = True) -> Crystal:
    places = np.array(positions) @ CUBE
    return Crystal(name, np.array(numbers, np.uint8), places, CUBE, pbc=(True, True, pbc))


PEROVSKITE = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
KNOWN = [
    (crystal("perovskite", PEROVSKITE, [56, 22, 8, 8, 8]), 221),
    (crystal("caesium chloride", PEROVSKITE[:2], [55, 17]), 221),
    (crystal("tungsten", PEROVSKITE[:2], [74, 74]), 229),
    (crystal("slab", PEROVSKITE, [56, 22, 8, 8, 8], pbc=False), 0),
]
SHIFTED = crystal("shifted", [*PEROVSKITE[:1], [0.5, 0.5, 0.51], *PEROVSKITE[2:]], [56, 22, 8, 8, 8])


@pytest.mark.parametrize(("crystal", "group"), KNOWN, ids=[c.id for c, _ in KNOWN])
def test_known_crystals_have_their_group(crystal: Crystal, group: int) -> None:
    assert space_group(crystal) == group


def test_the_tolerance_decides() -> None:
    # 0.04 angstrom off the centre: the mirror across the axis is gone, unless that is near enough.
    assert (space_group(SHIFTED, 0.01), space_group(SHIFTED, 0.1)) == (99, 221)


def test_a_search_that_panics_is_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        pass

    def fail(*arguments: object, **named: object) -> None:
        raise Panic

    monkeypatch.setattr(moyopy, "MoyoDataset", fail)
    assert space_groups(Crystals.of([KNOWN[0][0]])).tolist() == [0.0]

    def stopped(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(moyopy, "MoyoDataset", stopped)
    with pytest.raises(KeyboardInterrupt):
        space_group(KNOWN[0][0])


@pytest.mark.parametrize("workers", [1, 2])
def test_packing_works_them_out(tmp_path: Path, workers: int) -> None:
    crystals = [c for c, _ in KNOWN] + made_crystals(20, kinds=PERIODIC_KINDS, max_atoms=4)
    # A label of the file's own gives way, for it may be of another tolerance.
    crystals[0] = replace(crystals[0], labels={GROUP_LABEL: 7.0})
    write(Crystals.of(crystals), tmp_path / "all.extxyz", format="extxyz")
    pack([tmp_path / "all.extxyz"], tmp_path / "all.h5", workers=workers, space_group_tolerance=0.01)
    with PackedCrystals(tmp_path / "all.h5") as packed:
        assert packed.space_group_tolerance == 0.01
        groups = packed.label(GROUP_LABEL)
        assert groups[:4].tolist() == [group for _, group in KNOWN]
        assert groups.tolist() == space_groups(Crystals.of(crystals)).tolist()
        assert packed.label(GROUP_LABEL, 1, 3).tolist() == groups[1:3].tolist()
        assert packed.units[GROUP_LABEL] == "1"
    labels = [entry.labels[GROUP_LABEL] for entry in read(tmp_path / "all.h5") if isinstance(entry, Crystal)]
    assert labels == groups.tolist()


def test_a_file_without_them_says_so(tmp_path: Path) -> None:
    write(Crystals.of([KNOWN[0][0]]), tmp_path / "one.extxyz", format="extxyz")
    pack([tmp_path / "one.extxyz"], tmp_path / "one.h5")
    with PackedCrystals(tmp_path / "one.h5") as packed:
        assert packed.space_group_tolerance is None
        with pytest.raises(InputError, match="has no label spacegroup_number; it has none"):
            packed.label(GROUP_LABEL)


def test_the_command_works_them_out_if_asked(tmp_path: Path) -> None:
    write(Crystals.of([SHIFTED]), tmp_path / "one.extxyz", format="extxyz")
    given = ["pack", str(tmp_path / "one.extxyz"), "-o", str(tmp_path / "one.h5"), "--symmetry-tolerance", "0.1"]
    context = SimpleNamespace(check=lambda: None)
    with pytest.raises(InputError, match="--symmetry-tolerance is for --space-groups; give both"):
        CliRunner().invoke(app, given, obj=context, catch_exceptions=False)
    done = CliRunner().invoke(app, [*given, "--space-groups", "--workers", "1"], obj=context, catch_exceptions=False)
    assert done.exit_code == 0
    with PackedCrystals(tmp_path / "one.h5") as packed:
        assert (packed.space_group_tolerance, packed.label(GROUP_LABEL).tolist()) == (0.1, [221.0])
