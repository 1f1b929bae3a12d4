"""Shortlists without crystals that are the same: which stay, in which order, and how many are asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from shards import predicted, write_run
from typer.testing import CliRunner

from screening import crystal_from_pymatgen
from screening.cli import app
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.errors import InputError
from screening.query.query import Query

BY = "formation_energy_per_atom"
SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
CAESIUM = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.5), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
ZINCBLENDE = Structure.from_spacegroup("F-43m", Lattice.cubic(6.1), ["Na", "Cl"], [[0, 0, 0], [0.25, 0.25, 0.25]])


def shown_otherwise(structure: Structure, seed: int) -> Structure:
    """The same crystal: larger, moved as a whole, its atoms in another order, its volume a little other."""
    draw = np.random.default_rng(seed)
    other = structure * np.array([[1, 0, 0], [0, 1, 0], [draw.integers(1, 3), 0, draw.integers(1, 3)]])
    other.scale_lattice(other.volume * draw.uniform(0.9, 1.1))
    other.translate_sites(list(range(len(other))), draw.random(3))
    return Structure.from_sites([other[k] for k in draw.permutation(len(other))])


# Which structure each crystal has; ranks are those of `predicted`, by chance.
KINDS = [SALT, CAESIUM, ZINCBLENDE, SALT.get_primitive_structure(), *[SALT, CAESIUM] * 8]
WHICH = np.array([0, 1, 2, 0, *[0, 1] * 8])


def made() -> list[Crystal]:
    shown = [one if k < 4 else shown_otherwise(one, k) for k, one in enumerate(KINDS)]
    return [crystal_from_pymatgen(one, id=f"c{k}") for k, one in enumerate(shown)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    refused = [Rejection("bad", "b.cif", Reason.TINY_VOLUME, "bad: small")]
    return write_run(tmp_path_factory.mktemp("run") / "run", Crystals.of(made()), (9,), rejections=refused)


def ranked() -> list[int]:
    energy = predicted(Crystals.of(made()), 0, len(KINDS)).values[BY]
    return np.argsort(energy, kind="stable").tolist()


def first_of_each(rows: list[int]) -> list[int]:
    return [row for k, row in enumerate(rows) if WHICH[row] not in WHICH[rows[:k]]]


def test_the_best_of_each_structure_stays_in_its_place(run: Path) -> None:
    asked = Query(run).top(3, by=BY).distinct()
    wanted = first_of_each(ranked())
    assert asked.frame()["row"].to_list() == wanted
    assert [crystal.id for crystal in asked.crystals()] == [f"c{row}" for row in wanted]
    assert asked.count() == 3
    # What was looked at until the third was found, but for the three.
    assert asked.left_out() == ranked().index(wanted[2]) + 1 - 3


def test_fewer_structures_than_wanted_are_all_that_there_are(run: Path) -> None:
    asked = Query(run).distinct().top(10, by=BY, descending=True)
    assert asked.frame()["row"].to_list() == first_of_each(ranked()[::-1])
    assert (asked.count(), asked.left_out()) == (3, len(KINDS) - 3)
    frame, count = asked.head(2)
    assert (len(frame), count) == (2, 3)


def test_without_a_rank_the_first_stays(run: Path) -> None:
    assert Query(run).top(2).distinct().frame()["row"].to_list() == [0, 1]
    assert Query(run).where("nsites < 0").top(2).distinct().count() == 0


def test_a_question_that_wants_all_rows_leaves_none_out(run: Path) -> None:
    assert Query(run).top(7, by=BY).left_out() == 0


def test_layers_are_not_compared(tmp_path: Path) -> None:
    layers = [replace(crystal, pbc=(True, True, False)) for crystal in made()[:4]]
    run = write_run(tmp_path / "run", Crystals.of(layers))
    assert Query(run).top(4).distinct().count() == 4


def test_how_many_are_wanted_must_be_said(run: Path) -> None:
    with pytest.raises(InputError, match="say how many are wanted by `top`"):
        Query(run).distinct().frame()
    refused = CliRunner().invoke(app, ["query", str(run), "--distinct"])
    assert refused.exit_code != 0
    assert "say how many you want with --top" in str(refused.exception)


def test_what_has_no_atoms_cannot_be_compared(run: Path) -> None:
    with pytest.raises(InputError, match="there are no atoms of it"):
        Query(run).status("all").top(30).distinct().frame()


def test_the_command_says_how_many_it_left_out(run: Path, tmp_path: Path) -> None:
    asked = ["query", str(run), "--top", "10", "--by", BY, "--distinct"]
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0, shown.output
    assert "17 left out, which have the structure of a better one" in shown.stderr
    assert [line.split()[0] for line in shown.stdout.splitlines()[1:]] == [f"c{row}" for row in first_of_each(ranked())]
    written = CliRunner().invoke(app, [*asked, "-o", str(tmp_path / "few.extxyz")])
    assert f"3 crystals in {tmp_path / 'few.extxyz'}" in written.stdout
