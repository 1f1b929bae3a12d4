"""The loop: it learns, it stops where it should, and a run that is killed anywhere ends like one that was not."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made import PERIODIC_KINDS, made_crystals
from safetensors.torch import load_file
from torch import nn

from screening.crystals.batch import Crystals
from screening.errors import FileFormatError, InputError, ResourceError, ScreeningError
from screening.graphs import Neighbors
from screening.models.graph_tensors import GraphTensors
from screening.models.model import CrystalModel
from screening.models.registry import build
from screening.predictions import Target
from screening.training.assess import Assessment
from screening.training.config import LoopSettings, LossName
from screening.training.journal import read_journal, validation_of
from screening.training.labelled import LabelledGraphs
from screening.training.loop import JOURNAL_FILE, STATE_FILE, Fitting, Progress, Task
from screening.training.losses import TargetLoss
from screening.training.normalise import Normaliser
from screening.training.objectives.properties import Properties
from screening.training.optimise import MovingAverage, rate_of
from screening.training.resume import Position
from screening.training.splits import Split

TARGETS = (Target("formation_energy_per_atom", "eV/atom"), Target("is_metal", "1", "classification"))
LOSSES = [TargetLoss(LossName.MSE), TargetLoss(LossName.BCE, weight=0.5)]
SETTINGS = LoopSettings(
    epochs=3,
    batch_size=9,
    optimiser={"rate": 0.01, "weight_decay": 0.01},
    ema_decay=0.9,
    clip_norm=1.0,
    patience=3,
    threads=1,
)


def made_task() -> Task:
    crystals = Crystals.of(made_crystals(40, seed=1, kinds=PERIODIC_KINDS, max_atoms=6, missing=0.2))
    rng = np.random.default_rng(0)
    # An energy that the composition tells, and half of the crystals metals.
    energy = np.array([c.numbers.mean() / 40 for c in crystals])
    energy[::7] = np.nan
    labels = {"formation_energy_per_atom": energy, "is_metal": rng.integers(0, 2, 40).astype(float)}
    model = new_model()
    graphs = LabelledGraphs.of([replace(crystals, labels=labels)], TARGETS, model.neighbors)
    split = Split(np.arange(30), np.arange(30, 40), np.arange(0))
    normaliser = Normaliser.fit(graphs.labels[split.train], TARGETS)
    return Task(graphs, split, Properties(graphs, normaliser, LOSSES))


def new_model() -> CrystalModel:
    torch.manual_seed(0)
    sizes = {"width": 8, "convolutions": 1, "hidden": 8, "cutoff": 5.0, "elements": "one_hot"}
    return build("cgcnn", sizes, TARGETS)


TASK = made_task()


class Killed(Exception):
    """Stands for a kill: nothing in the loop expects it."""


@dataclass
class Run:
    """A run in a folder, and what it told."""

    folder: Path
    settings: LoopSettings = SETTINGS
    task: Task = TASK
    told: list[Progress] = field(default_factory=list)
    kept: list[tuple[int, dict[str, bytes]]] = field(default_factory=list)
    make: Callable[[], CrystalModel] = new_model
    said: list[str] = field(default_factory=list)

    def fit(self, *, watch: Callable[[Progress], None] = lambda progress: None, stamp: str = "s") -> Position:
        def told(progress: Progress) -> None:
            self.told.append(progress)
            watch(progress)

        self.folder.mkdir(exist_ok=True)
        model = self.make()
        normaliser = self.task.objective.normaliser
        model.set_scaling(normaliser.mean.tolist(), normaliser.std.tolist())
        say = self.said.append
        return Fitting(
            model, self.task, self.settings, self.folder, stamp=stamp, keep=self.keep, watch=told, say=say
        ).run()

    def keep(self, model: CrystalModel, epoch: int, found: Assessment | None) -> None:
        assert not model.training
        self.kept.append((epoch, {name: t.numpy().tobytes() for name, t in model.state_dict().items()}))

    def killed_at(self, step: int) -> None:
        def watch(progress: Progress) -> None:
            if progress.step == step:
                raise Killed

        with pytest.raises(Killed):
            self.fit(watch=watch)


def journal(folder: Path) -> list[dict[str, Any]]:
    """The journal without what the clock decides."""
    clock = ("seconds", "crystals_per_s")
    return [{k: v for k, v in entry.items() if k not in clock} for entry in read_journal(folder / JOURNAL_FILE)]


def state(folder: Path) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(folder / STATE_FILE).items()}


def positions(at: Position) -> dict[str, Any]:
    return {k: v for k, v in asdict(at).items() if k != "journal_bytes"}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Position]:
    run = Run(tmp_path_factory.mktemp("undisturbed"))
    return run, run.fit()


def assert_same_end(run: Run, at: Position, undisturbed: tuple[Run, Position]) -> None:
    whole, end = undisturbed
    assert positions(at) == positions(end)
    assert journal(run.folder) == journal(whole.folder)
    assert state(run.folder) == state(whole.folder)
    assert run.kept[-1] == whole.kept[-1]


STEPS = 3 * math.ceil(30 / 9)


def test_two_runs_are_the_same(tmp_path: Path, undisturbed: tuple[Run, Position]) -> None:
    run = Run(tmp_path / "run")
    assert_same_end(run, run.fit(), undisturbed)
    assert [p.step for p in run.told] == list(range(1, STEPS + 1))
    assert {p.steps for p in run.told} == {STEPS}


@pytest.mark.parametrize("interval", [0.0, 1e9], ids=["saved each step", "saved each epoch"])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_killed_after_any_step_and_continued_is_never_killed(
    tmp_path: Path, undisturbed: tuple[Run, Position], step: int, interval: float
) -> None:
    run = Run(tmp_path / "run", SETTINGS.model_copy(update={"save_every_s": interval}))
    run.killed_at(step)
    torch.manual_seed(step)
    assert_same_end(run, run.fit(), undisturbed)


def test_killed_again_and_again(tmp_path: Path, undisturbed: tuple[Run, Position]) -> None:
    run = Run(tmp_path / "run", SETTINGS.model_copy(update={"save_every_s": 0.0}))
    for step in range(2, STEPS + 1):
        run.killed_at(step)
    assert_same_end(run, run.fit(), undisturbed)


@pytest.mark.parametrize(
    "where", ["loop.save_state", "journal.Journal.write", "objectives.properties.assess", "resume.write_whole"]
)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_killed_at_the_end_of_an_epoch(
    tmp_path: Path, undisturbed: tuple[Run, Position], monkeypatch: pytest.MonkeyPatch, where: str, count: int
) -> None:
    calls = 0
    module, _, attribute = f"screening.training.{where}".rpartition(".")

    def dying(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        found = original(*arguments, **named)
        if calls == count:
            raise Killed
        return found

    run = Run(tmp_path / "run")
    with monkeypatch.context() as patch:
        import importlib

        owner: Any = importlib.import_module("screening.training." + where.split(".")[0])
        for part in module.removeprefix("screening.training.").split(".")[1:]:
            owner = getattr(owner, part)
        original = getattr(owner, attribute)
        patch.setattr(owner, attribute, dying)
        with pytest.raises(Killed):
            run.fit()
    assert_same_end(run, run.fit(), undisturbed)


def test_a_model_is_measured_with_gradients_if_its_objective_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    measure = Properties.assess

    def watched(self: Properties, *arguments: Any) -> Assessment:
        seen.append(torch.is_grad_enabled())
        return measure(self, *arguments)

    monkeypatch.setattr(Properties, "assess", watched)
    Run(tmp_path / "off").fit()
    monkeypatch.setattr(Properties, "differentiates_inputs", True)
    Run(tmp_path / "on").fit()
    assert seen == [False] * 3 + [True] * 3


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    first = run.fit()
    told = len(run.told)
    assert run.fit() == first
    assert len(run.told) == told


def test_torch_is_told_to_repeat_itself_while_it_trains_only(tmp_path: Path) -> None:
    seen = []
    Run(tmp_path / "run").fit(watch=lambda progress: seen.append(torch.are_deterministic_algorithms_enabled()))
    assert set(seen) == {True}
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_it_learns(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", LoopSettings(epochs=25, batch_size=8, optimiser={"rate": 0.02}, threads=1))
    run.fit()
    losses = [entry["train"]["losses"]["formation_energy_per_atom"] for entry in journal(run.folder)]
    assert losses[-1] < 0.35 * losses[0]


def test_the_journal_says_what_is_measured(undisturbed: tuple[Run, Position]) -> None:
    run, end = undisturbed
    entries = read_journal(run.folder / JOURNAL_FILE)
    assert [entry["epoch"] for entry in entries] == [1, 2, 3]
    best = min(entries, key=lambda entry: entry["validation"]["loss"])
    assert (end.best_epoch, end.best) == (best["epoch"], best["validation"]["loss"])
    assert run.kept[-1][0] == best["epoch"]
    metrics = entries[0]["validation"]["targets"]
    assert set(metrics["is_metal"]) == {"count", "mae", "rmse", "auc", "accuracy", "positives"}
    assert metrics["formation_energy_per_atom"]["count"] == int((~np.isnan(TASK.graphs.labels[30:, 0])).sum())


def test_the_kept_model_gives_the_metrics_in_the_journal(undisturbed: tuple[Run, Position]) -> None:
    run, end = undisturbed
    model = new_model()
    weights = run.kept[-1][1]
    shapes = model.state_dict()
    model.load_state_dict(
        {n: torch.frombuffer(bytearray(raw), dtype=shapes[n].dtype).view(shapes[n].shape) for n, raw in weights.items()}
    )
    found = TASK.objective.assess(model, TASK.split.validation, SETTINGS)
    assert found.loss == end.best


def test_patience_ends_a_run(tmp_path: Path) -> None:
    settings = LoopSettings(epochs=30, batch_size=30, optimiser={"rate": 1.0, "name": "sgd"}, patience=2, threads=1)
    end = Run(tmp_path / "run", settings).fit()
    assert end.done
    assert end.stale == 2
    assert end.epoch == end.best_epoch + 2 < 30


@pytest.mark.parametrize("kill", [False, True])
def test_a_run_that_loses_what_it_learned_says_so(tmp_path: Path, kill: bool) -> None:
    steep = {"name": "one_cycle", "warmup": 0.9}
    settings = LoopSettings(epochs=6, batch_size=30, optimiser={"rate": 30.0}, schedule=steep, threads=1)
    run = Run(tmp_path / "run", settings)
    if kill:
        run.killed_at(3)
    run.fit()
    losses = [entry["train"]["loss"] for entry in journal(run.folder)]
    first = next(n for n in range(1, 6) if losses[n] > 10 * min(losses[:n]))
    assert len(run.said) >= 1
    assert run.said[0].startswith(f"epoch {first + 1}: the training loss is {losses[first]:.3g}, and was")
    assert "lower training.optimiser.rate" in run.said[0]
    calm = Run(tmp_path / "calm", settings.model_copy(update={"optimiser": SETTINGS.optimiser}))
    calm.fit()
    assert calm.said == []


def test_without_validation_the_last_epoch_is_kept(tmp_path: Path) -> None:
    split = Split(np.arange(30), np.arange(0), np.arange(0))
    run = Run(tmp_path / "run", task=replace(TASK, split=split))
    assert run.fit().best_epoch == 3
    assert [epoch for epoch, _ in run.kept] == [3]


@pytest.mark.parametrize("select", ["formation_energy_per_atom.mae", "is_metal.auc"])
def test_the_selected_metric_chooses(tmp_path: Path, select: str) -> None:
    run = Run(tmp_path / "run", SETTINGS.model_copy(update={"select": select, "patience": None}))
    end = run.fit()
    name, metric = select.split(".")
    values = [entry["validation"]["targets"][name][metric] for entry in journal(run.folder)]
    assert values[end.best_epoch - 1] == (max(values) if metric == "auc" else min(values))


class Fragile(CrystalModel):
    """A stand-in that fails at one crystal, and whose normalisation spreads that over the batch when it trains."""

    architecture = "fragile"

    def __init__(self, failing: int) -> None:
        super().__init__(SETTINGS, TARGETS)
        self.table = nn.Linear(1, 4)
        self.norm = nn.BatchNorm1d(4)
        self.heads = nn.Linear(4, 2)
        self.failing = TASK.graphs.take(np.array([failing]))[0].numbers

    @property
    def neighbors(self) -> Neighbors:
        return TASK.graphs.neighbors

    @property
    def width(self) -> int:
        return 4

    def encode(self, graph: GraphTensors) -> torch.Tensor:
        return self.norm(self.table(graph.numbers[:, None] / 50.0))

    def readout(self, atoms: torch.Tensor, graph: GraphTensors) -> torch.Tensor:
        crystals = [atoms[graph.crystal_of_atom == c].mean(0) for c in range(graph.crystals)]
        learned = self.heads(torch.stack(crystals))
        parts = [graph.numbers[graph.crystal_of_atom == c] for c in range(graph.crystals)]
        fails = torch.tensor([part.tolist() == self.failing.tolist() for part in parts])
        spread = fails.any() if self.training else fails[:, None]
        return learned + torch.where(spread, math.nan, 0.0)


def test_a_crystal_that_makes_the_loss_infinite_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", make=lambda: Fragile(5))
    with pytest.raises(ScreeningError, match=r"epoch 1, batch \d: the loss is not finite for made-000005; check"):
        run.fit()


def test_a_validation_crystal_without_a_prediction_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", make=lambda: Fragile(33))
    with pytest.raises(ScreeningError, match=r"predictions are not finite for made-000033; check"):
        run.fit()


def test_weights_that_diverge_are_told_apart_from_bad_crystals(tmp_path: Path) -> None:
    settings = LoopSettings(
        epochs=3, batch_size=10, optimiser={"name": "sgd", "rate": 1e20}, schedule={"name": "constant"}, threads=1
    )
    with pytest.raises(ScreeningError, match=r"not finite.*lower training\.optimiser\.rate"):
        Run(tmp_path / "run", settings).fit()


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"precision": "bf16"}, InputError, "is for GPUs"),
        ({"device": "tpu"}, InputError, "expected cpu, cuda"),
        ({"select": "band_gap.mae"}, InputError, "expected one of loss, formation_energy_per_atom.mae"),
        ({"select": "is_metal.r2"}, InputError, "expected one of"),
    ],
)
def test_settings_that_cannot_be_used_are_named(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        Run(tmp_path / "run", SETTINGS.model_copy(update=change)).fit()


def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ResourceError, match="torch sees no CUDA device"):
        Run(tmp_path / "run", SETTINGS.model_copy(update={"device": "cuda"})).fit()


def test_states_of_another_run_damaged_or_foreign_are_refused(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", SETTINGS.model_copy(update={"save_every_s": 0.0}))
    run.killed_at(2)
    with pytest.raises(InputError, match="of a run with other settings or data"):
        run.fit(stamp="other")
    path = run.folder / STATE_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileFormatError, match=r"is damaged.*delete it"):
        run.fit()
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(FileFormatError, match="is no state of a training run"):
        run.fit()


@pytest.mark.parametrize("name", ["constant", "one_cycle", "cosine", "multistep"])
def test_schedules_start_peak_and_end_where_they_should(name: str) -> None:
    settings = LoopSettings(schedule={"name": name, "warmup": 0.3}).schedule
    rates = [rate_of(settings, rate=2.0, steps=101)(step) for step in range(101)]
    expected = {
        "constant": (2.0, 2.0, 2.0),
        "one_cycle": (2.0 / 25, 2.0, 2.0 / 1e4),
        "cosine": (2.0 / 31, 2.0, 2.0 / 1e4),
        "multistep": (2.0, 2.0, 0.02),
    }
    assert (rates[0], rates[30], rates[100]) == pytest.approx(expected[name])
    assert max(rates) == pytest.approx(2.0)
    assert all(math.isfinite(rate_of(settings, rate=1.0, steps=1)(0)) for _ in range(1))


def test_one_cycle_is_that_of_torch() -> None:
    settings = LoopSettings(schedule={"name": "one_cycle", "warmup": 0.3, "start_div": 25.0, "end_div": 25e4}).schedule
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.5, total_steps=50, pct_start=0.3)
    rate = rate_of(settings, rate=0.5, steps=50)
    for step in range(50):
        # torch counts the rise to one step before 0.3 * 50.
        assert optimiser.param_groups[0]["lr"] == pytest.approx(rate(step), rel=0.12)
        optimiser.step()
        if step < 49:
            theirs.step()


def test_the_average_moves_and_exchanges() -> None:
    model = new_model()
    average = MovingAverage(model, 0.5)
    start = {name: t.clone() for name, t in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1.0
    average.update(step=1000)
    weight = "embedding.weight"
    torch.testing.assert_close(average.tensors[weight], start[weight] + 0.5)
    average.exchange()
    torch.testing.assert_close(model.state_dict()[weight], start[weight] + 0.5)
    average.exchange()
    torch.testing.assert_close(model.state_dict()[weight], start[weight] + 1.0)


@pytest.mark.parametrize("left", ["nothing", "no file", "a line and a half"])
def test_a_run_goes_on_without_lines_that_are_lost(tmp_path: Path, left: str) -> None:
    said: list[str] = []
    run = Run(tmp_path, SETTINGS.model_copy(update={"epochs": 4, "patience": None}), said=said)
    run.killed_at(9)
    path = tmp_path / JOURNAL_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:20] if left == "a line and a half" else b"")
    if left == "no file":
        path.unlink()
    assert said == []
    run.killed_at(13)
    assert said == [f"{path}: has lost lines of epochs that are done; going on without them"]
    run.fit()
    assert len(said) == 1
    kept = [1] if left == "a line and a half" else []
    assert [entry["epoch"] for entry in read_journal(path)] == [*kept, 3, 4]
    assert validation_of(path, 3)["loss"] > 0
    assert validation_of(path, 2) is None


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"epoch": 1}\n' + bytes(20) + b'{"epoch": 2}\n')
    with pytest.raises(FileFormatError, match=r"metrics\.jsonl: line 2 is damaged; remove that line, and the same"):
        read_journal(path)


def test_a_line_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"epoch": 1}) + '\n{"epoch": ', encoding="utf-8")
    assert read_journal(path) == [{"epoch": 1}]
    assert read_journal(tmp_path / "none") == []
