"""Relaxation: each crystal ends on its own, the same in every batch, and where ASE's optimiser would."""

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made import PERIODIC_KINDS, made_crystals
from sizes import SMOOTH, small
from typer.testing import CliRunner, Result

import screening
from screening.cli import app
from screening.crystals.batch import Crystals
from screening.crystals.convert import crystal_to_ase
from screening.crystals.crystal import Crystal
from screening.crystals.elements import SYMBOLS
from screening.crystals.write import write
from screening.errors import InputError
from screening.models.checkpoint import save
from screening.models.header import Card
from screening.models.model import CrystalModel
from screening.models.registry import build
from screening.predictions import Target
from screening.relaxation.potential import Potential
from screening.relaxation.relax import Outcome, Relaxed, relax
from screening.relaxation_limits import AT_ONCE, RelaxationLimits

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("one_torch_thread")]

TARGET = Target("referenced_energy_per_atom", "eV/atom")


class Morse(torch.nn.Module):
    """Stands for a model's forward pass: Morse's potential between neighbours, faded out at the cutoff."""

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff

    def forward(self, graph):
        distance = graph.edge_distance()
        fade = (1 - (distance / self.cutoff).clamp(max=1) ** 4) ** 2
        off = torch.exp(1.5 * (2.5 - distance))
        energy = 0.5 * fade * (off * off - 2 * off)
        centre = torch.repeat_interleave(torch.arange(len(graph.numbers)), graph.edge_graph.edge_offsets.diff().long())
        sums = torch.zeros(graph.crystals, dtype=distance.dtype).index_add(0, graph.crystal_of_atom[centre], energy)
        return (sums / graph.edge_graph.atom_offsets.diff())[:, None]


@pytest.fixture
def morse(monkeypatch: pytest.MonkeyPatch) -> CrystalModel:
    model = build("sieve", small("sieve") | SMOOTH["sieve"], [TARGET]).double()
    # Not the module itself, which torch would file among the parts of the model.
    monkeypatch.setattr(model, "forward", Morse(model.neighbors.cutoff).__call__)
    return model


def cells(count: int, *, seed: int = 0, max_atoms: int = 5) -> Crystals:
    return Crystals.of(made_crystals(count, seed=seed, kinds=PERIODIC_KINDS, max_atoms=max_atoms, labels=("energy",)))


def relaxed(model: CrystalModel, *batches: Crystals, atoms: int = AT_ONCE, **limits: float) -> list[Relaxed]:
    with Potential(model, threads=1) as potential:
        return list(relax(potential, batches, RelaxationLimits(**limits), atoms=atoms))


def test_a_potential_follows_its_model_and_leaves_its_gradients_alone() -> None:
    model = build("sieve", small("sieve") | SMOOTH["sieve"], [TARGET])
    crystals = cells(3)
    with Potential(model, threads=1) as potential:
        assert model.training
        before = potential(crystals).energy
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.1)
        after = potential(crystals).energy
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert not np.allclose(before, after)
    with Potential(model, threads=1) as fresh:
        np.testing.assert_array_equal(fresh(crystals).energy, after)


def test_relaxed_crystals_have_no_force_and_no_stress_left(morse: CrystalModel) -> None:
    crystals = cells(6, max_atoms=3)
    found = relaxed(morse, crystals, steps=400)
    assert [one.crystal.id for one in found] == crystals.ids
    ends = [one.outcome for one in found]
    assert ends.count(Outcome.CONVERGED) >= 4
    with Potential(morse, threads=1) as potential:
        again = potential(Crystals.of(one.crystal for one in found))
    offsets = Crystals.of(one.crystal for one in found).atom_offsets
    for c, one in enumerate(found):
        if one.outcome is not Outcome.CONVERGED:
            continue
        forces = again.forces[offsets[c] : offsets[c + 1]]
        assert np.linalg.norm(forces, axis=1).max() < 0.05
        assert np.abs(again.stress[c]).max() < 0.003
        assert one.energy <= one.energy_before + 1e-9
        np.testing.assert_array_equal(one.crystal.forces, forces)
        assert dict(one.crystal.labels) == {TARGET.name: one.energy / len(one.crystal)}


def test_a_crystal_ends_alike_alone_and_among_others(morse: CrystalModel) -> None:
    crystals = cells(7, seed=3)
    together = relaxed(morse, crystals, steps=25)
    in_turns = relaxed(morse, crystals[:3], crystals[3:], steps=25, atoms=6)
    for one, other in zip(together, in_turns, strict=True):
        assert (one.outcome, one.steps) == (other.outcome, other.steps)
        np.testing.assert_array_equal(one.crystal.positions, other.crystal.positions)
        np.testing.assert_array_equal(one.crystal.lattice, other.crystal.lattice)


def test_a_crystal_that_takes_long_times_out_and_others_do_not_wait(morse: CrystalModel) -> None:
    found = relaxed(morse, cells(6), steps=3)
    assert {one.outcome for one in found} <= {Outcome.CONVERGED, Outcome.TIMED_OUT}
    assert max(one.steps for one in found) == 3
    assert all(one.steps == 0 for one in relaxed(morse, cells(2), steps=0))


def test_what_is_not_finite_or_swells_diverges_alone(morse: CrystalModel) -> None:
    fine, broken = made_crystals(2, seed=1, kinds=["cell"], max_atoms=3)
    broken = replace(broken, positions=np.zeros((2, 3)), numbers=np.array([6, 6], np.uint8))
    alone, (good, bad) = relaxed(morse, Crystals.of([fine])), relaxed(morse, Crystals.of([fine, broken]))
    assert bad.outcome is Outcome.DIVERGED
    assert bad.crystal.forces is None
    assert not bad.crystal.labels
    np.testing.assert_array_equal(good.crystal.positions, alone[0].crystal.positions)
    assert Outcome.DIVERGED in {one.outcome for one in relaxed(morse, cells(4), swell=1.0000001, steps=5)}


@pytest.mark.parametrize("architecture", SMOOTH)
def test_atoms_in_one_place_harm_no_other_crystal_of_a_model(architecture: str) -> None:
    model = build(architecture, small(architecture) | SMOOTH[architecture], [TARGET])
    fine, broken = made_crystals(2, seed=1, kinds=["cell"], max_atoms=3)
    broken = replace(broken, positions=np.zeros((2, 3)), numbers=np.array([6, 6], np.uint8))
    with Potential(model, threads=1) as potential:
        alone, among = potential(Crystals.of([fine])), potential(Crystals.of([fine, broken, fine]))
    np.testing.assert_array_equal(among.energy[[0, 2]], np.repeat(alone.energy, 2))
    np.testing.assert_array_equal(among.forces[: len(fine)], alone.forces)
    np.testing.assert_array_equal(among.stress[2], alone.stress[0])
    assert np.isfinite(alone.forces).all()


def test_a_crystal_that_an_atom_leaves_diverges_and_an_atom_alone_does_not(
    morse: CrystalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    attracts = morse.forward
    monkeypatch.setattr(morse, "forward", lambda graph: -attracts(graph))
    pair, single = (
        Crystal(
            id=f"{atoms} atoms",
            numbers=np.full(atoms, 6, np.uint8),
            positions=np.array([[2.8 * k, 0.0, 0.0] for k in range(atoms)]),
            lattice=np.zeros((3, 3)),
            pbc=(False, False, False),
        )
        for atoms in (2, 1)
    )
    torn, alone = relaxed(morse, Crystals.of([pair, single]), steps=400)
    assert np.linalg.norm(np.diff(torn.crystal.positions, axis=0)) > 0.9 * 4.0
    assert torn.outcome is Outcome.DIVERGED
    assert (alone.outcome, alone.steps) == (Outcome.CONVERGED, 0)


def test_cells_stay_where_they_are_fixed_or_not_periodic(morse: CrystalModel) -> None:
    crystals = Crystals.of(made_crystals(4, seed=2, kinds=["cell", "slab", "wire", "molecule"], max_atoms=4))
    for found in (relaxed(morse, crystals, steps=20, cells=False), relaxed(morse, crystals, steps=20)[1:]):
        for one in found:
            before = crystals[crystals.ids.index(one.crystal.id)]
            np.testing.assert_array_equal(one.crystal.lattice, before.lattice)
            assert one.energy <= one.energy_before + 1e-9


def test_single_crystals_relax_as_batches_do_and_what_is_none_is_refused(morse: CrystalModel) -> None:
    batch = cells(3, seed=5)
    limits = RelaxationLimits(steps=5)
    with Potential(morse, threads=1) as potential:
        many = list(relax(potential, [batch], limits))
        for given in (batch, list(batch), iter(batch), [batch[0], batch[1:]]):
            found = list(relax(potential, given, limits))
            assert [one.crystal.id for one in found] == batch.ids
            assert [one.energy for one in found] == [one.energy for one in many]
        single: Any = batch[0]
        with pytest.raises(InputError, match="relax takes crystals, got the one 'made-000000': one crystal goes in"):
            list(relax(potential, single))


def test_nothing_in_gives_nothing(morse: CrystalModel) -> None:
    assert relaxed(morse) == []
    assert relaxed(morse, Crystals.of([])) == []


def test_ase_finds_the_same_energy_with_the_calculator(morse: CrystalModel) -> None:
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    crystal = made_crystals(1, seed=5, kinds=["cell"], max_atoms=2)[0]
    (ours,) = relaxed(morse, Crystals.of([crystal]), force=1e-4, stress=1e-5, steps=3000)
    atoms = crystal_to_ase(crystal)
    atoms.calc = screening.Calculator(morse, threads=1)
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-4, steps=500)
    assert ours.outcome is Outcome.CONVERGED
    assert atoms.get_potential_energy() == pytest.approx(ours.energy, abs=1e-3)


def test_the_calculator_agrees_with_finite_differences_of_ase(morse: CrystalModel) -> None:
    from ase.calculators.calculator import PropertyNotImplementedError
    from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

    atoms = crystal_to_ase(made_crystals(1, seed=6, kinds=["cell"], max_atoms=3)[0])
    atoms.calc = screening.Calculator(morse, threads=1)
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-5), atol=1e-5)
    np.testing.assert_allclose(atoms.get_stress(), calculate_numerical_stress(atoms, eps=1e-5), atol=1e-6)
    molecule = crystal_to_ase(made_crystals(1, seed=6, kinds=["molecule"])[0])
    molecule.calc = screening.Calculator(morse, threads=1)
    with pytest.raises(PropertyNotImplementedError, match="no stress"):
        molecule.get_stress()


@pytest.mark.parametrize("wrong", [{"force": 0.0}, {"stress": -1.0}, {"steps": -1}, {"swell": 1.0}])
def test_limits_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    [(name, value)] = wrong.items()
    with pytest.raises(InputError, match=f"a relaxation needs .*, got {name} {value}$"):
        RelaxationLimits(**wrong)


def test_there_must_be_room_for_an_atom(morse: CrystalModel) -> None:
    with pytest.raises(InputError, match="at least one atom, got 0"):
        relaxed(morse, cells(1), atoms=0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.manual_seed(0)
    save(build("sieve", small("sieve") | SMOOTH["sieve"], [TARGET]), tmp_path / "potential.safetensors", Card())
    write(
        made_crystals(5, seed=2, max_atoms=3, labels=("energy",), forces=True), tmp_path / "in.extxyz", format="extxyz"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def called(*words: str) -> Result:
    context = SimpleNamespace(check=lambda: None)
    return CliRunner().invoke(app, ["relax", *words], obj=context, catch_exceptions=False)


def test_a_model_without_forces_is_told_in_one_line(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"is no potential: it predicts formation_energy.* has learned no forces"):
        called("in.extxyz", "-m", "default", "-o", "out.extxyz")
    with pytest.raises(InputError, match=r"got force 0\.0$"):
        called("in.extxyz", "-m", "potential.safetensors", "-o", "out.extxyz", "--force", "0")
    assert capfd.readouterr() == ("", "")
    assert not (folder / "out.extxyz").exists()


def test_the_command_writes_crystals_in_their_order_and_a_table(folder: Path) -> None:
    words = ("-m", "potential.safetensors", "-o", "out.extxyz.gz", "--table", "out.csv", "--steps", "2")
    ran = called("in.extxyz", *words)
    assert ran.exit_code == 0
    assert "5 crystals in" in ran.stdout
    before = list(screening.read("in.extxyz"))
    after = list(screening.read("out.extxyz.gz"))
    assert [one.id for one in after] == [one.id for one in before]
    assert all(set(one.labels) == {TARGET.name} and one.forces is not None for one in after)
    with (folder / "out.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [one.id for one in before]
    assert {row["outcome"] for row in rows} <= set(Outcome)
    assert [float(row["energy"]) / len(one) for row, one in zip(rows, after, strict=True)] == pytest.approx(
        [one.labels[TARGET.name] for one in after], rel=1e-12
    )


def test_what_is_refused_is_a_row_where_it_came_and_in_the_total(folder: Path) -> None:
    crystals = made_crystals(3, seed=2, kinds=["cell"], max_atoms=3)
    close = replace(crystals[1], id="close", positions=np.zeros((2, 3)), numbers=np.array([6, 6], np.uint8))
    write([crystals[0], close, crystals[1]], folder / "a.extxyz", format="extxyz")
    write([crystals[1], crystals[2]], folder / "b.extxyz", format="extxyz")
    words = ("-m", "potential.safetensors", "-o", "out.extxyz", "--table", "out.csv", "--steps", "1")
    ran = called("a.extxyz", "b.extxyz", *words)
    assert ran.exit_code == 0
    assert ran.stdout.startswith("5 crystals in")
    assert "2 rejected" in ran.stdout
    with (folder / "out.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    first, second, third = (one.id for one in crystals)
    assert [row["id"] for row in rows] == [first, "close", second, second, third]
    reasons = ["", "atoms_too_close", "", "duplicate_id", ""]
    assert [row["reason"] for row in rows] == reasons
    assert [row["outcome"] == "rejected" for row in rows] == list(map(bool, reasons))
    assert all(
        bool(row["message"]) == bool(row["reason"]) and bool(row["energy"]) != bool(row["reason"]) for row in rows
    )
    assert [one.id for one in screening.read("out.extxyz")] == [first, second, third]


def test_elements_that_the_potential_has_not_seen_are_told(folder: Path) -> None:
    crystals = list(screening.read("in.extxyz"))
    first, foreign = crystals[0], sorted(set(crystals[0].numbers.tolist()))
    known = sorted({int(z) for one in crystals for z in one.numbers} - set(foreign))
    torch.manual_seed(0)
    model = build("sieve", small("sieve") | SMOOTH["sieve"], [TARGET])
    save(model, folder / "some.safetensors", Card(elements=tuple(known)))
    save(model, folder / "all.safetensors", Card(elements=tuple(range(1, 100))))
    words = ("in.extxyz", "-o", "out.extxyz", "--table", "out.csv", "--steps", "0")
    expected = {
        "some": [str(len(set(one.numbers.tolist()) - {*known})) for one in crystals],
        "all": ["0"] * 5,
        "potential": [""] * 5,
    }
    for name, counts in expected.items():
        ran = called(*words, "-m", f"{name}.safetensors")
        with (folder / "out.csv").open(encoding="utf-8") as file:
            assert [row["unseen_elements"] for row in csv.DictReader(file)] == counts
        symbols = ", ".join(SYMBOLS[z] for z in foreign)
        said = f"{5 - counts.count('0')} of 5 crystals have elements that the potential was not trained on, such as "
        assert (f"{said}{first.id} ({symbols})" in ran.stderr) == (name == "some")
        assert ("not trained on" in ran.stderr) == (name == "some")


def test_the_table_grows_as_crystals_end_and_is_asked_for_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("in.extxyz", "-m", "potential.safetensors", "-o", "out.extxyz", "--steps", "0")
    with pytest.raises(InputError, match=r"nowhere/out\.csv: there is no folder nowhere; make it first"):
        called(*words, "--table", "nowhere/out.csv")
    assert not (folder / "out.extxyz").exists()
    sizes: list[int] = []

    def slow_write(crystals, path, *, format):
        for _ in crystals:
            (part,) = folder.glob("out.csv*.part")
            sizes.append(part.stat().st_size)
        raise InputError("stopped")

    monkeypatch.setattr("screening.crystals.write.write", slow_write)
    with pytest.raises(InputError, match="stopped"):
        called(*words, "--table", "out.csv", "--atoms-at-once", "1")
    assert len(sizes) == 5
    assert sizes == sorted(set(sizes))
    assert not list(folder.glob("out.csv*"))


@pytest.mark.parametrize("source", ["in.extxyz", "./in.extxyz", "."])
def test_the_command_overwrites_none_of_its_inputs(folder: Path, source: str) -> None:
    before = (folder / "in.extxyz").read_bytes()
    for options in (("-o", "in.extxyz"), ("-o", "out.extxyz", "--table", "in.extxyz")):
        with pytest.raises(InputError, match="is one of the inputs; choose another name for the output"):
            called(source, "-m", "potential.safetensors", *options)
    assert (folder / "in.extxyz").read_bytes() == before


def test_the_command_refuses_what_it_cannot_write_and_models_without_forces(folder: Path) -> None:
    with pytest.raises(InputError, match=r"expected a name that ends in \.extxyz"):
        called("in.extxyz", "-m", "potential.safetensors", "-o", "out.cif")
    save(build("sieve", small("sieve"), [TARGET]), folder / "jumping.safetensors", Card())
    with pytest.raises(InputError, match="not smooth"):
        called("in.extxyz", "-m", "jumping.safetensors", "-o", "out.extxyz")
    assert not (folder / "out.extxyz").exists()
