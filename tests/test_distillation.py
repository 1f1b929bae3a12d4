"""Distillation: the loss is its equation, teachers are frozen and asked once, students of any width and edges learn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranked
import torch
from made import PERIODIC_KINDS, made_crystals
from sizes import small
from teaching_made import ENERGY, GAP, GRAPHS, made, saved

from screening import config
from screening.crystals.batch import Crystals
from screening.crystals.write import write
from screening.errors import InputError, ResourceError
from screening.models import checkpoint
from screening.models.header import Card
from screening.models.registry import ARCHITECTURES
from screening.predictions import Target
from screening.runs import rank_process
from screening.runs.rank_job import RankJob
from screening.training import teachers as teaching
from screening.training.config import LossName, SplitSettings
from screening.training.distillation_config import DistillationConfig
from screening.training.gradient import whole_loss
from screening.training.labelled import LabelledGraphs
from screening.training.lessons.distillation import TEACHER_GRAPHS
from screening.training.lessons.registry import lesson_of
from screening.training.loop import Progress
from screening.training.losses import TargetLoss
from screening.training.material import Listener
from screening.training.normalise import Normaliser
from screening.training.objectives.distillation import Distillation, TaughtAtoms, TaughtLabels
from screening.training.objectives.objective import Batch
from screening.training.objectives.properties import Properties
from screening.training.ranks import ALONE, Ranks
from screening.training.recipe import claim, prepare_files, prepare_objective, prepared, train
from screening.training.together import Fence


def properties() -> Properties:
    losses = [TargetLoss(LossName.MSE, 1.0), TargetLoss(LossName.L1, 3.0)]
    return Properties(GRAPHS, Normaliser.fit(GRAPHS.labels, GRAPHS.targets), losses)


@pytest.mark.parametrize("width", [8, 5])
def test_the_loss_is_its_equation(width: int) -> None:
    rng = np.random.default_rng(0)
    taught_atoms = rng.normal(size=(len(GRAPHS.numbers), width)).astype(np.float32)
    taught_atoms /= np.linalg.norm(taught_atoms, axis=1, keepdims=True)
    taught = rng.normal(size=GRAPHS.labels.shape)
    model, own = made(ENERGY, GAP).eval(), properties()
    objective = Distillation(GRAPHS, own, model, atoms=TaughtAtoms(taught_atoms, 0.3), labels=TaughtLabels(taught, 0.5))
    assert (objective.modules is None) == (width == 8)
    rows = np.array([4, 15, 0, 3])
    part = objective.gather(Batch(rows, np.arange(4), 0, 0, "cpu"))
    with torch.no_grad():
        sums = objective.sums(model, part)
        outputs, atoms = model(part.graph), model.encode(part.graph)
        if objective.modules is not None:
            atoms = objective.modules["projection"](atoms)
    labels = torch.from_numpy(own.normaliser.normalise(GRAPHS.labels[rows]))
    others = torch.from_numpy(own.normaliser.normalise(taught[rows]))
    total, units = 0.0, torch.nn.functional.normalize(atoms, dim=1)
    missing = labels.isnan()
    assert missing.sum(dim=0).tolist() == [2, 2]
    # One mean for each target, in which a prediction counts half of a label.
    right, counted = torch.where(missing, others, labels), torch.where(missing, 0.5, 1.0)
    for t, weight in enumerate((0.7 / 4, 0.7 * 3 / 4)):
        off = outputs[:, t] - right[:, t]
        each = off.square() if t == 0 else off.abs()
        total += weight * float((counted[:, t] * each).sum() / counted[:, t].sum())
    apart = [
        np.mean([((units[k].numpy() - taught_atoms[i]) ** 2).sum() for k, i in zip(here, there, strict=True)])
        for here, there in (
            (
                np.flatnonzero(part.graph.crystal_of_atom.numpy() == c),
                np.arange(GRAPHS.atom_offsets[row], GRAPHS.atom_offsets[row + 1]),
            )
            for c, row in enumerate(rows.tolist())
        )
    ]
    total += 0.3 * float(np.mean(apart))
    weights = list(objective.weights.values())
    assert sum(weights) == pytest.approx(1.0)
    assert float(sums.mean(weights)) == pytest.approx(total, rel=1e-5)
    # So it is of the sums of many batches, as the journal has them.
    assert objective.mean(sums.sums.tolist(), sums.counts.tolist()) == pytest.approx(total, rel=1e-5)
    assert {f"{ENERGY.name} taught", f"{GAP.name} taught"} <= set(objective.means(*map(torch.Tensor.tolist, sums)))


def test_ranks_give_the_loss_of_predictions_that_one_process_gives(tmp_path: Path) -> None:
    (together, alone), *_ = ranked.of_ranks(2, tmp_path, taught_by_ranks)
    assert together == pytest.approx(alone, rel=1e-6)
    assert together[0] > 0.0


def taught_by_ranks(ranks: Ranks, folder: Path) -> list[list[float]]:
    """Loss, sums and counts with predictions of a weight below 1, by all ranks and by this one alone."""
    del folder
    model, own = made(ENERGY, GAP).eval(), properties()
    objective = Distillation(GRAPHS, own, model, atoms=None, labels=TaughtLabels(np.ones_like(GRAPHS.labels), 0.05))
    found, rows = [], np.arange(12)
    for who in (ranks, ALONE):
        part = objective.gather(Batch(rows, who.places(GRAPHS, rows), 0, 0, "cpu"))
        loss = whole_loss(objective.sums(model, part), list(objective.weights.values()), who)
        found.append([loss.value, *loss.sums, *loss.counts])
    return found


CONFIG = """
[data]
train = ["labelled.extxyz"]
split.validation = 0.2
[model.settings]
width = 6
convolutions = 1
hidden = 8
cutoff = 4.0
[targets.formation_energy_per_atom]
[targets.band_gap]
[training]
epochs = 2
batch_size = 16
threads = 1
"""


def files_of_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> DistillationConfig:
    """Crystals with labels and without, teachers of atoms and of predictions, and settings that name them."""
    monkeypatch.chdir(folder)
    for name in ("training.recipe.draw_curves", "training.judge.draw_parity"):
        monkeypatch.setattr(f"screening.{name}", lambda *arguments: None)
    crystals = made_crystals(30, seed=1, kinds=PERIODIC_KINDS, max_atoms=4)
    more = made_crystals(16, seed=2, kinds=PERIODIC_KINDS, max_atoms=4, labels=(), prefix="more")
    write(Crystals.of(crystals), folder / "labelled.extxyz", format="extxyz")
    write(Crystals.of(more), folder / "more.extxyz", format="extxyz")
    (folder / "c.toml").write_text(CONFIG, encoding="utf-8")
    saved(folder / "encoder")
    saved(folder / "model", ENERGY, GAP)
    taught = ["distillation.teacher=encoder", "distillation.alpha=0.2", "predictions.teachers=['model']"]
    taught += ["predictions.crystals=['more.extxyz']"]
    return config.load(DistillationConfig, folder / "c.toml", overrides=[*taught, *overrides])


def test_a_run_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = files_of_a_run(tmp_path, monkeypatch)
    said: list[str] = []
    found = train(settings, tmp_path / "run", Listener(said.append, lambda progress: None))
    assert "unlabelled: 16 crystals" in said
    assert any(line.startswith("40 to train, 6 to validate, 0 to test") for line in said)
    lines = (tmp_path / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    terms = set(json.loads(lines[0])["train"]["losses"])
    assert {ENERGY.name, GAP.name, f"{GAP.name} taught", "nodes"} <= terms
    assert found["validation"]["targets"][GAP.name]["count"] <= 6
    # The model that is kept is one that `train` might have made.
    model, _ = checkpoint.load(tmp_path / "run/model.safetensors")
    assert {t.name for t in model.targets} == {ENERGY.name, GAP.name}
    again = train(settings, tmp_path / "run", Listener(said.append, lambda progress: None))
    assert again == found


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - {"cgcnn"}))
def test_every_architecture_learns_from_another(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = f"model={{architecture='{architecture}',settings={toml(small(architecture) | {'cutoff': 4.0})}}}"
    settings = files_of_a_run(tmp_path, monkeypatch, model, "training.epochs=6")
    train(settings, tmp_path / "run", Listener(lambda text: None, lambda progress: None))
    lines = (tmp_path / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    first, *_, last = (json.loads(line)["train"]["losses"]["nodes"] for line in lines)
    assert last < 0.98 * first
    assert checkpoint.load(tmp_path / "run/model.safetensors")[0].architecture == architecture


def toml(settings: dict[str, Any]) -> str:
    return "{" + ",".join(f"{name}={json.dumps(value)}" for name, value in settings.items()) + "}"


@pytest.mark.parametrize("scale", ["linear", "log10"])
def test_a_target_that_only_teachers_know_is_learned_from_them(
    scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk = Target("bulk_modulus", "GPa")
    settings = files_of_a_run(
        tmp_path,
        monkeypatch,
        "predictions.teachers=['bulk']",
        "data.train=['more.extxyz']",
        "predictions.crystals=['labelled.extxyz']",
        f"targets={{bulk_modulus={{scale='{scale}'}}}}",
        "data.split.validation=0",
    )
    model = made(bulk)
    # Values as of a modulus, all positive.
    model.set_scaling([200.0], [30.0])
    (tmp_path / "bulk").mkdir()
    checkpoint.save(model, tmp_path / "bulk/model.safetensors", Card(elements=(1, 8)))
    said: list[str] = []
    train(settings, tmp_path / "run", Listener(said.append, lambda progress: None))
    taught = np.load(next((tmp_path / "run/teacher").glob("predictions-*.npy")))[:, 0]
    assert (taught > 0).all()
    assert "training labels: bulk_modulus 0; predictions in place of missing ones: bulk_modulus 46" in "".join(said)
    assert any("crystals have elements that teacher cgcnn was not trained on, such as" in line for line in said)
    learned = np.log10(taught) if scale == "log10" else taught
    ((mean, std),) = checkpoint.load(tmp_path / "run/model.safetensors")[0].scaling
    np.testing.assert_allclose([mean, std], [learned.mean(), learned.std()], rtol=1e-6)
    # There is nothing to validate by.
    held = settings.model_copy(
        update={"data": settings.data.model_copy(update={"split": SplitSettings(validation=0.2)})}
    )
    with pytest.raises(InputError, match=r"none of 3 validation crystals has a label of these targets; choose others"):
        train(held, tmp_path / "held", Listener(said.append, lambda progress: None))


def test_graphs_for_a_teacher_are_of_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = files_of_a_run(tmp_path, monkeypatch, "cache=shared")
    listener = Listener(lambda text: None, lambda progress: None)
    block, others = teaching._Asked.block, []

    def overtaken(self: Any, number: int) -> Any:
        if not others:
            others.append(self._graphs)
            train(settings, tmp_path / "other", listener)
            # What this one is at work on is still there.
            assert (tmp_path / "run" / TEACHER_GRAPHS).is_dir()
            assert not (tmp_path / "other" / TEACHER_GRAPHS).exists()
        return block(self, number)

    monkeypatch.setattr(teaching._Asked, "block", overtaken)
    train(settings, tmp_path / "run", listener)
    assert not (tmp_path / "run" / TEACHER_GRAPHS).exists()
    assert {p.suffix for p in (tmp_path / "shared").iterdir()} == {".npy"}


def test_labels_of_crystals_that_are_there_for_predictions_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = made_crystals(7, seed=5, kinds=PERIODIC_KINDS, max_atoms=4, missing=0.0, prefix="known")
    write(Crystals.of(some), tmp_path / "known.extxyz", format="extxyz")
    for crystals, told in ((["more.extxyz"], False), (["more.extxyz", "known.extxyz"], True)):
        settings = files_of_a_run(tmp_path, monkeypatch, f"predictions.crystals={crystals}")
        said: list[str] = []
        train(settings, tmp_path / f"run{told}", Listener(said.append, lambda progress: None))
        assert ("7 of predictions.crystals have labels too, which are learned as labels" in said) == told


def test_crystals_without_labels_stay_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = files_of_a_run(tmp_path, monkeypatch)
    composed: list[int] = []
    fractions = LabelledGraphs.fractions

    def noted(self: LabelledGraphs, rows: Any) -> Any:
        assert isinstance(self.edge_vector.base, np.memmap)
        composed.append(len(rows))
        return fractions(self, rows)

    monkeypatch.setattr(LabelledGraphs, "fractions", noted)
    listener = Listener(lambda text: None, lambda progress: None)
    train(settings, tmp_path / "run", listener)
    # The composition of 24 training crystals, or fewer, for some of the 30 have no label; not of the 16 others.
    assert len(composed) == 1
    assert 0 < composed[0] <= 24
    assert not (tmp_path / "run/graphs").exists()
    alone = settings.model_copy(update={"predictions": None})
    assert not lesson_of(alone).maps_graphs


class Killed(Exception):
    """Stands for a kill."""


def test_a_state_is_of_its_teachers_and_of_what_it_started_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: dict[str, tuple[tuple[Target, ...], dict[str, Any]]] = {
        "encoder": ((), {}),
        "model": ((ENERGY, GAP), {}),
        "first": ((ENERGY, GAP), {"width": 6, "cutoff": 4.0}),
    }
    settings = files_of_a_run(tmp_path, monkeypatch, "training.save_every_s=0.0", "init.checkpoint=first")
    first = Path(saved(tmp_path / "first", ENERGY, GAP, width=6, cutoff=4.0), "model.safetensors").read_bytes()

    def kill(progress: Progress) -> None:
        if progress.step == 2:
            raise Killed

    quiet = Listener(lambda text: None, lambda progress: None)
    with pytest.raises(Killed):
        train(settings, tmp_path / "run", Listener(quiet.say, kill))
    for what, (targets, sizes) in models.items():
        saved(tmp_path / what, *targets, seed=7, **sizes)
        with pytest.raises(InputError, match="of a run with other settings or data, or from other models"):
            train(settings, tmp_path / "run", quiet)
        saved(tmp_path / what, *targets, **sizes)
        (tmp_path / "first/model.safetensors").write_bytes(first)
    train(settings, tmp_path / "run", quiet)


def test_a_device_that_is_not_there_is_named_before_teachers_speak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    settings = files_of_a_run(tmp_path, monkeypatch, "training.device=cuda")
    said: list[str] = []
    listener = Listener(said.append, lambda progress: None)
    with pytest.raises(ResourceError, match="torch sees no CUDA device"):
        train(settings, tmp_path / "run", listener)
    assert not (tmp_path / "run").exists()
    # The driver of ranks, which may be elsewhere than the GPUs, says what it does instead.
    folder = tmp_path / "driven"
    material = prepared(settings, folder, prepare_files(settings, folder, listener))
    files = prepare_objective(settings, material, folder, listener)
    assert [line for line in said if "no GPU here" in line]
    # Names that hold in whatever folder a rank is.
    assert all(Path(name).is_absolute() and Path(name).exists() for name in files.values())


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("distillation.teacher=nowhere", "nowhere: is no file, no folder and no shipped model"),
        ("predictions.teachers=['model','nowhere']", "nowhere: is no file, no folder and no shipped model"),
        ("predictions.teachers=['encoder']", "is a pre-trained encoder, which predicts nothing"),
        ("predictions.teachers=['other']", "no teacher predicts formation_energy_per_atom, band_gap; name teachers"),
        ("predictions.teachers=['model','meV']", "a teacher's band_gap is a regression in meV"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused_before_crystals_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, said: str
) -> None:
    settings = files_of_a_run(tmp_path, monkeypatch, override)
    saved(tmp_path / "other", Target("volume", "angstrom^3/cell"))
    saved(tmp_path / "meV", Target("band_gap", "meV"))
    with pytest.raises(InputError, match=said):
        train(settings, tmp_path / "run", Listener(lambda text: None, lambda progress: None))


def test_ranks_in_another_folder_find_what_the_driver_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = files_of_a_run(tmp_path, monkeypatch, "cache=shared", "init.checkpoint=first")
    saved(tmp_path / "first", ENERGY, GAP, seed=5, width=6, cutoff=4.0)
    folder, graphs = tmp_path / "run", tmp_path / "run/graphs"
    quiet = Listener(lambda text: None, lambda progress: None)
    # As runs/ranks.py does, in the folder that relative names are of.
    claim(folder, settings)
    sizes = prepare_files(settings, graphs, quiet)
    files = prepare_objective(settings, prepared(settings, graphs, sizes), folder, quiet)
    job = RankJob(
        command="distil",
        config=settings.model_dump(mode="json"),
        folder=str(folder),
        graphs=str(graphs),
        sizes=sizes,
        files=files,
        fence=str(Fence.raised(tmp_path / "fence", "t" * 32).path),
        token="t" * 32,
        rank=0,
        size=1,
        host="",
        port=0,
        silent_s=1.0,
    )
    # As it is read by the process of a rank, which is elsewhere: there may lie another teacher under that name.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("encoder", "model"):
        saved(elsewhere / name, *((ENERGY, GAP) if name == "model" else ()), seed=8)
    monkeypatch.chdir(elsewhere)
    told = RankJob(**json.loads(job.line()))
    found = rank_process.train(told, None, lambda kind, content: None)
    assert not (elsewhere / "shared").exists()
    monkeypatch.chdir(tmp_path)
    alone = train(settings, tmp_path / "alone", quiet)
    assert found == alone


def test_somebody_must_teach(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CONFIG, encoding="utf-8")
    with pytest.raises(InputError, match="nobody teaches; add"):
        config.load(DistillationConfig, tmp_path / "c.toml")


@pytest.mark.parametrize("name", ["nodes", "band_gap taught"])
def test_a_target_that_is_called_as_a_term_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f'{CONFIG}[targets."{name}"]\n', encoding="utf-8")
    with pytest.raises(InputError, match="rename that target"):
        config.load(DistillationConfig, tmp_path / "c.toml", overrides=["distillation.teacher=t"])
