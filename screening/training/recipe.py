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
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from screening import config as toml
from screening.errors import FileFormatError, InputError, ResourceError
from screening.files.sink import sweep_parts_of
from screening.files.whole import write_whole
from screening.models.model import CrystalModel
from screening.ops import core
from screening.pretrained.shipped import RUN_MODEL
from screening.training.assess import Assessment
from screening.training.cards import card_of, keeping, reword
from screening.training.config import RunSettings
from screening.training.curves import draw_curves
from screening.training.folds import summary_of
from screening.training.graph_files import GraphWriter, mapped_graphs
from screening.training.journal import read_journal
from screening.training.judge import read_crystals
from screening.training.labelled import LabelledGraphs
from screening.training.lessons.lesson import Lesson, Work
from screening.training.lessons.registry import lesson_of
from screening.training.loop import JOURNAL_FILE, STATE_FILE, Fitting, Keep, Task, require_device
from screening.training.material import Listener, Material
from screening.training.ranks import ALONE, Ranks
from screening.training.splits import Split

CONFIG_FILE, METRICS_FILE, FOLDS_FILE, GRAPHS = "config.toml", "metrics.json", "folds.json", "graphs"
STAMP = "stamp"
LEARNED = (STATE_FILE, RUN_MODEL, METRICS_FILE, FOLDS_FILE)
NAMED_KEYS = 3


def train(
    config: RunSettings,
    folder: Path,
    listener: Listener,
    *,
    material: Material | None = None,
    files: Mapping[str, str] | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Run a configuration in a folder, or go on with it there; give its final metrics.

    Runs on the same files share what `prepare` makes of them, with the targets of all of them; alone, a run prepares
    its own, and `files` as `prepare_objective` gives them. Of several ranks, each of which is called with the same, the
    first one alone tells its listener anything, and gets the metrics.

    >>> train(load(TrainingConfig, "train.toml"), Path("run"), Listener(print, lambda progress: None))
    """
    require_device(config.training)
    if ranks.writes():
        claim(folder, config)
        # Where nothing has been learned another one may lie there, which only whoever works there alone replaces.
        _write_config(folder, config)
    lesson = lesson_of(config)
    if files is None:
        lesson.check()
    with _using_threads(config.training.threads), _material(lesson, folder, listener, material) as own:
        found = prepare_objective(config, own, folder, listener) if files is None else files
        return _divided(lesson, own, folder, listener, ranks, found)


@contextmanager
def _material(lesson: Lesson[Any], folder: Path, listener: Listener, given: Material | None) -> Iterator[Material]:
    if given is not None:
        yield fitted(lesson.config, given)
    elif not lesson.maps_graphs:
        yield prepare(lesson.config, listener)
    else:
        try:
            sizes = prepare_files(lesson.config, folder / GRAPHS, listener)
            yield prepared(lesson.config, folder / GRAPHS, sizes)
        finally:
            shutil.rmtree(folder / GRAPHS, ignore_errors=True)


def _divided(
    lesson: Lesson[Any], own: Material, folder: Path, listener: Listener, ranks: Ranks, files: Mapping[str, str]
) -> dict[str, Any]:
    config = lesson.config
    graphs, splits = own.graphs, lesson.splits(own)
    if not config.data.split.in_folds:
        return _run(lesson, Work(graphs, splits[0], folder, listener, ranks, files))
    chosen = config.data.split.fold
    if chosen is not None and chosen >= len(splits):
        raise InputError(f"data.split.fold is {chosen}, but there are folds 0 to {len(splits) - 1}")
    found = []
    for fold in range(len(splits)) if chosen is None else [chosen]:
        place = folder / f"fold-{fold}"
        if ranks.writes():
            listener.say(f"fold {fold} of {len(splits)}")
            place.mkdir(exist_ok=True)
        found.append(_run(lesson, Work(graphs, splits[fold], place, listener, ranks, files)))
    if not ranks.writes():
        return {}
    summary = summary_of([each["test"]["targets"] for each in found])
    _write_json(folder / FOLDS_FILE, summary)
    return summary


def claim(folder: Path, config: RunSettings) -> None:
    """Write the resolved configuration, or see that the folder's own is the same but for the card's words.

    Where nothing was learned by it, another may take its place.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"{folder}: cannot be made a folder ({error.strerror or error}); choose another") from error
    path = folder / CONFIG_FILE
    if not path.exists():
        _write_config(folder, config)
    elif _has_learned(folder):
        differing = _differing(path, config)
        if differing:
            raise InputError(
                f"{folder} holds a run with other settings ({differing}); choose another folder with --out"
            )


def _write_config(folder: Path, config: RunSettings) -> None:
    write_whole(folder / CONFIG_FILE, [toml.to_toml(config).encode()])


def _has_learned(folder: Path) -> bool:
    """Whether anything is there that a run with other settings would spoil."""
    places = [folder, *folder.glob("fold-*")]
    kept = any((place / name).exists() for place in places for name in LEARNED)
    journals = [place / JOURNAL_FILE for place in places]
    return kept or any(journal.exists() and journal.stat().st_size for journal in journals)


def _differing(path: Path, config: RunSettings) -> str:
    """Name the first keys in which a run's configuration is not the one of its folder, but for the card's words."""
    try:
        found = toml.differences(path.read_text(encoding="utf-8"), toml.to_toml(config), but=("card",))
    except ValueError as error:
        raise FileFormatError(
            f"{path}: is damaged ({error}); choose another folder with --out, or remove this one"
        ) from error
    more = [f"and {len(found) - NAMED_KEYS} more"] if len(found) > NAMED_KEYS else []
    return "; ".join([*found[:NAMED_KEYS], *more])


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


def prepare(config: RunSettings, listener: Listener) -> Material:
    """Read a configuration's files, and list the neighbours of their crystals as its model needs them."""
    lesson = lesson_of(config)
    parts: list[LabelledGraphs] = []
    sizes = _read(lesson, listener, parts.append)
    joined = LabelledGraphs.joined(parts, lesson.labels, lesson.neighbors, forces=lesson.keeps_forces)
    return Material(joined, lesson.files, sizes)


def prepare_files(config: RunSettings, folder: Path, listener: Listener) -> tuple[int, ...]:
    """Do the same into files in a folder, for processes that share them; give the number of crystals of each part."""
    lesson = lesson_of(config)
    with GraphWriter(folder, lesson.labels, lesson.neighbors, forces=lesson.keeps_forces) as writer:
        return _read(lesson, listener, writer.append)


def prepared(config: RunSettings, folder: Path, sizes: tuple[int, ...]) -> Material:
    """Take what `prepare_files` left in a folder."""
    return Material(mapped_graphs(folder), lesson_of(config).files, sizes)


def fitted(config: RunSettings, material: Material) -> Material:
    """Take of material what a configuration asks for; it must be of the same files and neighbours."""
    lesson = lesson_of(config)
    return material.fitted(lesson.files, lesson.neighbors, lesson.labels)


def prepare_objective(config: RunSettings, material: Material, folder: Path, listener: Listener) -> dict[str, str]:
    """Work out what else a run needs, once, before any rank is at work; the files it lies in."""
    return lesson_of(config).prepare(material.graphs, folder, listener)


def splits_of(config: RunSettings, material: Material) -> list[Split]:
    """Divide the crystals as the configuration says; with folds, once for each."""
    return lesson_of(config).splits(material)


def _read(lesson: Lesson[Any], listener: Listener, take: Callable[[LabelledGraphs], None]) -> tuple[int, ...]:
    sizes, seen = [], set[str]()
    several = sum(map(bool, lesson.files)) > 1
    for what, paths in lesson.parts.items():
        own, size = set[str](), 0
        if paths:
            stream = read_crystals(paths, workers=lesson.config.data.workers, name=what, say=listener.say)
            for part in LabelledGraphs.parts(stream, lesson.labels, lesson.neighbors, forces=lesson.keeps_forces):
                listener.check()
                take(part)
                own.update(part.ids if several else ())
                size += len(part)
        repeated = seen & own
        if repeated:
            listener.say(
                f"{what}: {len(repeated):,} ids are in an earlier part too, such as {min(repeated)}: does it leak?"
            )
        seen |= own
        sizes.append(size)
    return tuple(sizes)


def _run(lesson: Lesson[Any], work: Work) -> dict[str, Any]:
    config, folder, ranks, listener = lesson.config, work.folder, work.ranks, work.listener
    done = folder / METRICS_FILE
    finished = ranks.told(_outcome_in(done) if ranks.is_first and done.exists() else b"")
    if finished:
        found: dict[str, Any] = json.loads(finished)
        if ranks.is_first:
            _require_current(found, lesson, work)
            _reword(lesson, work)
            listener.say(f"{folder} is finished")
        return found
    _require_edges(work)
    start = lesson.start(work)
    task = Task(work.graphs, work.split, start.objective, start.tuning)
    stamp = ""
    keep: Keep = _kept_by_others
    if ranks.is_first:
        card = card_of(lesson, work)
        stamp = _stamp(lesson, work, card.fingerprint)
        keep = keeping(folder / RUN_MODEL, card)
        # What runs that were killed had begun to write.
        for name in (STATE_FILE, RUN_MODEL):
            sweep_parts_of(folder / name)
    fitting = Fitting(
        start.model,
        task,
        config.training,
        folder,
        stamp=stamp,
        keep=keep,
        watch=listener.watch,
        say=listener.say,
        ranks=ranks,
    )
    at = fitting.run()
    outcome = {"epochs": at.epoch, "best_epoch": at.best_epoch} | lesson.judged(work, at.best_epoch)
    if ranks.writes():
        _reword(lesson, work)
        outcome[STAMP] = _final_stamp(stamp, work)
        draw_curves(read_journal(folder / JOURNAL_FILE), lesson.targets, folder / "curves.png")
        _write_json(done, outcome)
        (folder / STATE_FILE).unlink(missing_ok=True)
    return outcome


def _reword(lesson: Lesson[Any], work: Work) -> None:
    """Let the model say what the configuration says by now: its best epoch may lie before the last change of it."""
    if reword(work.folder / RUN_MODEL, lesson):
        work.listener.say(f"{work.folder / RUN_MODEL} has the words of [card] now, on the same weights")


def _outcome_in(file: Path) -> bytes:
    """What a finished run has left, an object of JSON."""
    content = file.read_bytes()
    try:
        whole = isinstance(json.loads(content), dict)
    except ValueError:
        whole = False
    if not whole:
        raise FileFormatError(f"{file}: is damaged; remove it to train here again, or remove the folder")
    return content


def _require_current(found: dict[str, Any], lesson: Lesson[Any], work: Work) -> None:
    """Refuse what a run found with other data, or from other models; of older versions nothing says which it had."""
    if STAMP not in found:
        return
    if found[STAMP] != _final_stamp(_stamp(lesson, work, work.graphs.fingerprint(work.split.train)), work):
        raise InputError(
            f"{work.folder}: is finished, with other settings or data, or from other models; choose another folder, or "
            "delete this one"
        )


def _require_edges(work: Work) -> None:
    """Refuse crystals whose atoms see no other, as those of a cutoff in nanometres do."""
    graphs = work.graphs
    if not graphs.edge_counts[work.split.train].any():
        raise InputError(
            f"no atom to train on has a neighbour within {graphs.neighbors.cutoff:g} angstrom; give "
            "model.settings.cutoff in angstrom, or check the unit of the crystals"
        )


def _kept_by_others(best: CrystalModel, epoch: int, found: Assessment | None) -> None:
    raise AssertionError("only the first rank writes")


def _stamp(lesson: Lesson[Any], work: Work, learned_from: str) -> str:
    """What a state must agree on to be continued: everything that decides a step."""
    fingerprints = (learned_from, work.graphs.fingerprint(work.split.validation), *lesson.origins(work))
    decisive = lesson.config.model_dump(mode="json", exclude={"training": {"save_every_s"}})
    del decisive["card"]
    if decisive.get("init", "") is None:
        # As it was before there was such a setting.
        del decisive["init"]
    text = json.dumps([decisive, *fingerprints], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _final_stamp(stamp: str, work: Work) -> str:
    """The same of a finished run, which has measured test crystals too."""
    return hashlib.sha256(f"{stamp} {work.graphs.fingerprint(work.split.test)}".encode()).hexdigest()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, [json.dumps(content, indent=2, allow_nan=False).encode(), b"\n"])
