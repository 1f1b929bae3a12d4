"""A training run from its configuration to its checkpoint: read, split, fit, judge; once, or once per fold.

    config.toml          the configuration, resolved, before anything else is done
    metrics.jsonl        a line per epoch            state.safetensors   while unfinished: where to continue
    model.safetensors    the best model so far       metrics.json        when finished: how good it is
    curves.png, parity-validation.png, parity-test.png

With folds, each is such a folder, `fold-0` and so on, and `folds.json` joins their metrics. Running a configuration
again in its folder continues it. Several ranks run the same recipe in step; the first one alone reads and writes there.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from screening import config as toml
from screening.errors import InputError
from screening.graphs import Neighbors
from screening.models import checkpoint, registry
from screening.models.model import CrystalModel
from screening.ops import core
from screening.training.assess import Assessment
from screening.training.config import SplitSettings, TrainingConfig
from screening.training.curves import draw_curves
from screening.training.folds import summary_of
from screening.training.graph_files import GraphWriter, mapped_graphs
from screening.training.journal import read_journal
from screening.training.judge import judge, read_crystals
from screening.training.labelled import LabelledGraphs
from screening.training.loop import JOURNAL_FILE, STATE_FILE, Fitting, Keep, Task, Watch
from screening.training.losses import TargetLoss
from screening.training.normalise import Normaliser
from screening.training.objectives.properties import Properties
from screening.training.ranks import ALONE, Ranks
from screening.training.resume import write_whole
from screening.training.splits import Split, split_in_folds, split_once

Int64 = npt.NDArray[np.int64]

CONFIG_FILE, MODEL_FILE, METRICS_FILE, FOLDS_FILE = "config.toml", "model.safetensors", "metrics.json", "folds.json"


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told how a run goes: `say` a sentence now and then, `watch` every step. `check` may raise, to end it."""

    say: Callable[[str], None]
    watch: Watch
    check: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """What runs learn from: graphs of training, validation and test files, end to end; of which, and how many each."""

    graphs: LabelledGraphs
    files: tuple[tuple[Path, ...], ...]
    sizes: tuple[int, ...]

    def fitted(self, config: TrainingConfig) -> "Material":
        """The same crystals with the labels of a configuration's targets."""
        if self.files != _files(config):
            raise InputError("these graphs are of other files than the configuration names; prepare its own")
        neighbors = _model(config).neighbors
        if self.graphs.neighbors != neighbors:
            raise InputError(f"the model needs {neighbors}, these graphs have {self.graphs.neighbors}; prepare others")
        return replace(self, graphs=self.graphs.for_targets(config.heads))


def train(
    config: TrainingConfig,
    folder: Path,
    listener: Listener,
    *,
    material: Material | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Run a configuration in a folder, or go on with it there; give its final metrics.

    Runs on the same files share what `prepare` makes of them, with the targets of all of them; alone, a run prepares
    its own. Of several ranks, each of which is called with the same, the first one alone tells its listener anything,
    and gets the metrics.

    >>> train(load(TrainingConfig, "train.toml"), Path("run"), Listener(print, lambda progress: None))
    """
    if ranks.writes():
        claim(folder, config)
    with _using_threads(config.training.threads):
        return _train(config, folder, listener, material, ranks)


def _train(
    config: TrainingConfig, folder: Path, listener: Listener, material: Material | None, ranks: Ranks
) -> dict[str, Any]:
    own = prepare(config, listener) if material is None else material.fitted(config)
    graphs, splits = own.graphs, splits_of(config, own)
    if not config.data.split.in_folds:
        return _run(config, graphs, splits[0], folder, listener, ranks)
    chosen = config.data.split.fold
    if chosen is not None and chosen >= len(splits):
        raise InputError(f"data.split.fold is {chosen}, but there are folds 0 to {len(splits) - 1}")
    found = []
    for fold in range(len(splits)) if chosen is None else [chosen]:
        place = folder / f"fold-{fold}"
        if ranks.writes():
            listener.say(f"fold {fold} of {len(splits)}")
            place.mkdir(exist_ok=True)
        found.append(_run(config, graphs, splits[fold], place, listener, ranks))
    if not ranks.writes():
        return {}
    summary = summary_of([each["test"]["targets"] for each in found])
    _write_json(folder / FOLDS_FILE, summary)
    return summary


def claim(folder: Path, config: TrainingConfig) -> None:
    """Write the resolved configuration, or see that the folder's own is the same."""
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / CONFIG_FILE, toml.to_toml(config)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        differing = _first_difference(path.read_text(encoding="utf-8"), text)
        raise InputError(f"{folder} holds a run with other settings ({differing}); choose another folder with --out")
    write_whole(path, text.encode())


def _first_difference(before: str, now: str) -> str:
    lines = zip(before.splitlines(), now.splitlines(), strict=False)
    return next((f"there {a!r}, now {b!r}" for a, b in lines if a != b), "one has more keys than the other")


@contextmanager
def _using_threads(threads: int | None) -> Iterator[None]:
    """Let native calls have all threads and torch's one: with several each, theirs and ours wait for each other."""
    before = torch.get_num_threads()
    with core.using_threads(threads):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _model(config: TrainingConfig) -> CrystalModel:
    """A new model; its weights depend on the seed alone."""
    torch.manual_seed(config.training.seed)
    return registry.build(config.model.architecture, config.model.settings, config.heads)


def prepare(config: TrainingConfig, listener: Listener) -> Material:
    """Read a configuration's files, and list the neighbours of their crystals as its model needs them."""
    parts: list[LabelledGraphs] = []
    neighbors = _model(config).neighbors
    sizes = _read(config, neighbors, listener, parts.append)
    return Material(LabelledGraphs.joined(parts, config.heads, neighbors), _files(config), sizes)


def prepare_files(config: TrainingConfig, folder: Path, listener: Listener) -> tuple[int, ...]:
    """Do the same into files in a folder, for processes that share them; give the number of crystals of each part."""
    neighbors = _model(config).neighbors
    with GraphWriter(folder, config.heads, neighbors) as writer:
        return _read(config, neighbors, listener, writer.append)


def prepared(config: TrainingConfig, folder: Path, sizes: tuple[int, ...]) -> Material:
    """Take what `prepare_files` left in a folder."""
    return Material(mapped_graphs(folder), _files(config), sizes)


def _read(
    config: TrainingConfig, neighbors: Neighbors, listener: Listener, take: Callable[[LabelledGraphs], None]
) -> tuple[int, ...]:
    sizes, seen = [], set[str]()
    for what, paths in zip(("train", "validation", "test"), _files(config), strict=True):
        own, size = set[str](), 0
        if paths:
            stream = read_crystals(paths, workers=config.data.workers, name=what, say=listener.say)
            for part in LabelledGraphs.parts(stream, config.heads, neighbors):
                listener.check()
                take(part)
                own.update(part.ids)
                size += len(part)
        repeated = seen & own
        if repeated:
            listener.say(
                f"{what}: {len(repeated):,} ids are in an earlier part too, such as {min(repeated)}: does it leak?"
            )
        seen |= own
        sizes.append(size)
    return tuple(sizes)


def _files(config: TrainingConfig) -> tuple[tuple[Path, ...], ...]:
    return config.data.train, config.data.validation, config.data.test


def splits_of(config: TrainingConfig, material: Material) -> list[Split]:
    """Divide crystals as a configuration says: one split, or one per fold."""
    settings, fraction, seed = config.data.split, config.data.fraction, config.data.split.seed
    graphs = material.graphs
    if settings.by == "files":
        return [_split_of_files(settings, material).thinned(fraction, seed=seed)]
    if settings.in_folds:
        found = split_in_folds(settings, graphs.formulas, graphs.folds)
        return [split.thinned(fraction, seed=seed) for split in found]
    return [split_once(settings, graphs.formulas).thinned(fraction, seed=seed)]


def _split_of_files(settings: SplitSettings, material: Material) -> Split:
    train, validation, test = np.split(np.arange(len(material.graphs)), np.cumsum(material.sizes)[:2])
    if settings.held_formulas:
        drawing = SplitSettings(by="formula", validation=0.0, test=settings.held_formulas, seed=settings.seed)
        # Training crystals come first, so that rows among them are rows among all.
        drawn = split_once(drawing, material.graphs.formulas[: len(train)])
        train, test = drawn.train, drawn.test
    return Split(train, validation, test)


def _run(
    config: TrainingConfig, graphs: LabelledGraphs, split: Split, folder: Path, listener: Listener, ranks: Ranks
) -> dict[str, Any]:
    done = folder / METRICS_FILE
    finished = ranks.told(done.read_bytes() if ranks.is_first and done.exists() else b"")
    if finished:
        if ranks.is_first:
            listener.say(f"{folder} is finished")
        found: dict[str, Any] = json.loads(finished)
        return found
    normaliser = _normaliser(graphs, split, ranks)
    model = _model(config)
    model.set_scaling(normaliser.mean.tolist(), normaliser.std.tolist())
    losses = [TargetLoss(t.resolved_loss, t.weight, t.delta) for t in config.targets.values()]
    task = Task(graphs, split, Properties(graphs, normaliser, losses))
    stamp = ""
    keep: Keep = _kept_by_others
    if ranks.is_first:
        listener.say(_described(graphs, split))
        learned = normaliser.normalise(graphs.labels[split.train])
        model.start_from(torch.from_numpy(graphs.fractions(split.train)), torch.from_numpy(learned))
        card = _card(config, graphs, split)
        stamp = _stamp(config, card.fingerprint, graphs.fingerprint(split.validation))
        keep = _keeping(folder / MODEL_FILE, card)
    fitting = Fitting(model, task, config.training, folder, stamp=stamp, keep=keep, watch=listener.watch, ranks=ranks)
    at = fitting.run()
    outcome = {"epochs": at.epoch, "best_epoch": at.best_epoch} | _judged(config, graphs, split, folder, ranks)
    if ranks.writes():
        draw_curves(read_journal(folder / JOURNAL_FILE), graphs.targets, folder / "curves.png")
        _write_json(done, outcome)
        (folder / STATE_FILE).unlink(missing_ok=True)
    return outcome


def _normaliser(graphs: LabelledGraphs, split: Split, ranks: Ranks) -> Normaliser:
    """Measure the labels; ranks take the first one's numbers."""
    found = Normaliser.fit(graphs.labels[split.train], graphs.targets)
    if ranks.size == 1:
        return found
    mean, std = json.loads(ranks.told(json.dumps([found.mean.tolist(), found.std.tolist()]).encode()))
    return Normaliser(found.targets, np.array(mean), np.array(std))


def _card(config: TrainingConfig, graphs: LabelledGraphs, split: Split) -> checkpoint.Card:
    return checkpoint.Card(
        title=config.card.title or f"{config.model.architecture} for {', '.join(t.name for t in graphs.targets)}",
        description=config.card.description,
        licence=config.card.licence,
        limits=config.card.limits,
        elements=tuple(graphs.elements(split.train)),
        fingerprint=graphs.fingerprint(split.train),
    )


def _keeping(path: Path, card: checkpoint.Card) -> Keep:
    def keep(best: CrystalModel, epoch: int, found: Assessment | None) -> None:
        metrics = {} if found is None else {"validation": found.metrics}
        checkpoint.save(best, path, card.model_copy(update={"metrics": metrics}))

    return keep


def _kept_by_others(best: CrystalModel, epoch: int, found: Assessment | None) -> None:
    raise AssertionError("only the first rank writes")


def _judged(config: TrainingConfig, graphs: LabelledGraphs, split: Split, folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Metrics of the checkpoint as it lies on disk."""
    model = _loaded(config, folder, ranks)
    found = {}
    for name, rows in (("validation", split.validation), ("test", split.test)):
        if len(rows):
            plot = folder / f"parity-{name}.png" if ranks.writes() else None
            found[name] = {"targets": judge(model, graphs, rows, config.training, plot=plot, ranks=ranks)}
    return found


def _loaded(config: TrainingConfig, folder: Path, ranks: Ranks) -> CrystalModel:
    """The checkpoint, from the first rank's disk to the others."""
    if ranks.is_first:
        model, _ = checkpoint.load(folder / MODEL_FILE, device=config.training.device)
        ranks.told(save_tensors(model.state_dict()) if ranks.size > 1 else b"")
        return model
    model = _model(config)
    model.load_state_dict(load_tensors(ranks.told(b"")))
    return model.to(config.training.device).eval()


def _described(graphs: LabelledGraphs, split: Split) -> str:
    counts = (~np.isnan(graphs.labels[split.train])).sum(axis=0).tolist()
    labels = ", ".join(f"{target.name} {count:,}" for target, count in zip(graphs.targets, counts, strict=True))
    sizes = f"{len(split.train):,} to train, {len(split.validation):,} to validate, {len(split.test):,} to test"
    return f"{sizes}; training labels: {labels}"


def _stamp(config: TrainingConfig, *fingerprints: str) -> str:
    """What a state must agree on to be continued: everything that decides a step."""
    decisive = config.model_dump(mode="json", exclude={"training": {"save_every_s"}})
    del decisive["card"]
    text = json.dumps([decisive, *fingerprints], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, json.dumps(content, indent=2, allow_nan=False).encode() + b"\n")
