"""The folder of a run: made for one model and one input, and refused to every other; `run.json` says which.

run.json          what identifies the run, and the settings it began with; written whole before anything is predicted
provenance.jsonl  a line per start and end of a driver       driver.json   while a driver works here
slurm.jsonl       jobs of Slurm that were asked for          cluster/      logs of workers, by job
input.h5          the packed input, unless one was given     shards/       what is done, a file per range of rows
results.h5        everything in one file, once all is done   relaxed.h5     the relaxed crystals, if it relaxes them
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from screening.crystals.crystal import Reason
from screening.crystals.pack import HDF5_SIGNATURE, Tally, pack, readers
from screening.crystals.packed import PackedCrystals
from screening.errors import InputError, ResourceError, ScreeningError, UnfinishedError, permitted
from screening.files.sink import sweep_parts_of
from screening.models.header import Card, read_card, require_targets
from screening.models.potential_files import required_energy
from screening.predictions import Target
from screening.pretrained.shipped import RUN_MODEL, model_file
from screening.runs import sources
from screening.runs.config import ScreenConfig
from screening.runs.listener import Listener
from screening.runs.provenance import commit, now
from screening.runs.worker import model_hash
from screening.store.record import (
    INPUT,
    PASSED_OVER,
    RELAXED,
    RESULTS,
    RUN_FILE,
    SHARDS,
    RunRecord,
    read_record,
    record_of,
    write_record,
)
from screening.store.schema import Stamp
from screening.version import code_version

# What training writes first, and then; known here by name, because a driver loads no torch.
TRAINING_BEGINS = "config.toml"
TRAINING_LEAVES = ("metrics.jsonl", "state.safetensors", RUN_MODEL, "fold-0", "folds.json")


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The model of a run, as far as it can be known without loading it."""

    name: str
    path: Path
    hash: str
    architecture: str
    targets: tuple[Target, ...]
    card: Card

    @classmethod
    def of(cls, name: str) -> "ModelFile":
        """Find a model by what `--model` takes, and read its header; refuse one that predicts nothing."""
        path = model_file(name).resolve()
        architecture, targets, card = read_card(path)
        require_targets(path, targets)
        return cls(name, path, model_hash(path), architecture, targets, card)

    @classmethod
    def potential(cls, config: ScreenConfig) -> "ModelFile | None":
        """Find what crystals are relaxed with, if they are; refuse a model that is no potential."""
        if config.relax.potential is None:
            return None
        found = cls.of(config.relax.potential)
        required_energy(found.path)
        return found

    @property
    def words(self) -> str:
        """The model in a few words."""
        return f"{self.path} ({self.card.title or self.architecture}, {self.hash[:12]})"

    def facts(self) -> dict[str, Any]:
        """What the record of a run says of it."""
        card = self.card.model_dump(mode="json")
        return {"name": self.name, "path": str(self.path), "architecture": self.architecture, "card": card}


@dataclass(frozen=True, slots=True)
class Run:
    """A run that may begin or go on: its record, its packed input, its model, and the potential if it relaxes."""

    record: RunRecord
    packed: Path
    model: ModelFile
    potential: ModelFile | None = None

    @property
    def shards(self) -> Path:
        """Where shard files go."""
        return self.record.folder / SHARDS


def made_folder(out: Path) -> Path:
    """Make the folder of a run, if need be, with its folder of shards; refuse the folder of a training run."""
    with permitted(out):
        is_of_training = _is_of_training(out)
    if is_of_training:
        raise InputError(f"{out}: is the folder of a training run; choose another folder for this one with --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Private when it is made; whoever wants to share a run opens its folder, which then stays so.
        out.mkdir(mode=0o700, exist_ok=True)
        (out / SHARDS).mkdir(exist_ok=True)
    except OSError as error:
        raise ResourceError(f"{out}: cannot be made a folder ({error.strerror or error}); choose another") from error
    return out


def _is_of_training(folder: Path) -> bool:
    # A configuration alone may be one of a screen; a folder with a record is gone on with, whatever else is there.
    if (folder / RUN_FILE).exists() or not (folder / TRAINING_BEGINS).exists():
        return False
    return any((folder / name).exists() for name in TRAINING_LEAVES)


def require_inputs(inputs: Sequence[Path]) -> None:
    """Refuse to begin with nothing, or with what is not there."""
    if not inputs:
        raise InputError("nothing to screen: name a packed file, a file of crystals, a folder or an archive")
    for path in inputs:
        with permitted(path):
            is_there = path.exists()
        if not is_there:
            raise InputError(f"{path}: no such file or folder")


def opened_run(
    folder: Path,
    inputs: Sequence[Path],
    model: ModelFile,
    config: ScreenConfig,
    listener: Listener,
    *,
    potential: ModelFile | None = None,
    ignore: Sequence[Path] = (),
    alone: bool = True,
    check: Callable[[], object] = lambda: None,
) -> Run:
    """Begin a run in a folder, or go on with the one there, if it is of the same model and input.

    What is to `ignore`, and the folder itself, are no inputs, though they may lie in a folder that is. A driver that is
    not `alone`, being one of several parts, needs a packed file. `check` raises when the folder is not this driver's
    any more.
    """
    ours = [folder, *ignore]
    if not alone and _given_packed(inputs, config) is None:
        raise InputError(
            f"{', '.join(map(str, inputs))}: parts of a run need one packed file, which none of them makes; "
            "make it with `screening pack`, and name it as the input"
        )
    for name in (RUN_FILE, INPUT, RELAXED, RESULTS) if alone else ():
        sweep_parts_of(folder / name)
    if not (folder / RUN_FILE).exists():
        return _begun(folder, inputs, model, potential, config, listener, ours, check)
    record = read_record(folder)
    _require_same(folder, record, model, potential, config)
    _tell_version(record, listener)
    return Run(record, _same_input(record, inputs, config, ours), model, potential)


def _begun(
    folder: Path,
    inputs: Sequence[Path],
    model: ModelFile,
    potential: ModelFile | None,
    config: ScreenConfig,
    listener: Listener,
    ours: Sequence[Path],
    check: Callable[[], object],
) -> Run:
    origin, tally = None, Tally()
    packed = _given_packed(inputs, config)
    if packed is None:
        origin = sources.described(inputs, without=ours)
        packed = folder / INPUT
        tally = _pack(inputs, packed, config, listener, ours, check)
    with PackedCrystals(packed) as crystals:
        relaxation = None if potential is None else config.relax.relaxation(potential.hash)
        stamp = Stamp(model.hash, crystals.fingerprint, model.targets, relaxation)
        limits = asdict(crystals.limits)
        rows = len(crystals)
    facts: dict[str, Any] = {
        "created": now(),
        "code_version": code_version(),
        "commit": commit(),
        "device": config.device,
        "embeddings": config.embeddings,
        "model": model.facts(),
        **({} if potential is None else {"potential": potential.facts()}),
        "sources": origin,
        PASSED_OVER: _passed_over(tally),
        "crystal_limits": limits,
        "config": config.model_dump(mode="json"),
    }
    record = record_of(folder, stamp, packed, rows, **facts)
    listener.packed(Tally())
    check()
    write_record(record)
    return Run(record, packed, model, potential)


def _given_packed(inputs: Sequence[Path], config: ScreenConfig) -> Path | None:
    """The input, if it is one packed file that was packed with the limits that are asked for."""
    if not _is_packed(inputs):
        return None
    with PackedCrystals(inputs[0]) as crystals:
        fits = config.input.limits(crystals.limits) == crystals.limits
    return inputs[0].resolve() if fits else None


def _asked_limits(inputs: Sequence[Path], config: ScreenConfig) -> dict[str, Any]:
    """The limits that crystals are asked to keep: those of a packed file, where nothing else is said."""
    if not _is_packed(inputs):
        return asdict(config.input.limits())
    with PackedCrystals(inputs[0]) as crystals:
        return asdict(config.input.limits(crystals.limits))


def _is_packed(inputs: Sequence[Path]) -> bool:
    if len(inputs) != 1:
        return False
    with permitted(inputs[0]):
        if not inputs[0].is_file():
            return False
        with inputs[0].open("rb") as file:
            return file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE


def _pack(
    inputs: Sequence[Path],
    packed: Path,
    config: ScreenConfig,
    listener: Listener,
    ours: Sequence[Path],
    check: Callable[[], object],
) -> Tally:
    def watch(tally: Tally) -> None:
        check()
        if listener.stopping():
            raise UnfinishedError(f"stopped after {tally.read:,} crystals were read; the same command reads them again")
        listener.packed(tally)

    workers = config.input.workers or readers(inputs)
    limits = config.input.limits()
    listener.tell("packing", {"inputs": list(map(str, inputs)), "workers": workers})
    tally = pack(inputs, packed, limits=limits, workers=workers, ignore=ours, progress=watch)
    if tally.missing:
        listener.say(tally.missing)
    duplicates = tally.rejected[Reason.DUPLICATE_ID]
    counts = {"read": tally.read, "accepted": tally.accepted, "duplicate": duplicates}
    rejected = tally.rejected.total() - duplicates
    listener.tell("packed", counts | {"rejected": rejected, PASSED_OVER: _passed_over(tally)})
    return tally


def _passed_over(tally: Tally) -> dict[str, Any]:
    return {"files": tally.skipped, "first": tally.first_skipped}


def _require_same(
    folder: Path, record: RunRecord, model: ModelFile, potential: ModelFile | None, config: ScreenConfig
) -> None:
    content = record.content
    different, batches = "", content.get("config", {}).get("batches", {})
    if content["model_hash"] != model.hash:
        different = f"model: there {_known(content.get('model', {}), content['model_hash'])}, now {model.words}"
    elif relaxation := _other_relaxation(record, potential, config):
        different = relaxation
    elif content.get("device") != config.device:
        different = f"device: there {content.get('device')}, now {config.device}"
    elif content.get("embeddings") != config.embeddings:
        there, now = ("with" if wanted else "without" for wanted in (content.get("embeddings"), config.embeddings))
        different = f"embeddings: there {there} them, now {now}"
    elif config.device == "cuda" and {"relax_atoms": None} | batches != config.batches.model_dump():
        different = f"batches, on which last bits depend on a GPU: there {batches}, now {config.batches.model_dump()}"
    if different:
        raise _another_run(folder, different)


def _other_relaxation(record: RunRecord, potential: ModelFile | None, config: ScreenConfig) -> str:
    """What is different about relaxing crystals; empty if nothing is."""
    before = record.stamp.relaxation
    if before is None or potential is None:
        there, now = ("without it" if one is None else "with it" for one in (before, potential))
        return "" if there == now else f"relaxation: there {there}, now {now}"
    if before.potential_hash != potential.hash:
        known = _known(record.content.get("potential", {}), before.potential_hash)
        return f"potential: there {known}, now {potential.words}"
    ours, theirs = (asdict(one) for one in (config.relax.relaxation(potential.hash), before))
    different = [f"relax.{name} there {theirs[name]}, now {ours[name]}" for name in ours if ours[name] != theirs[name]]
    return ", ".join(different)


def _known(described: Mapping[str, Any], hash: str) -> str:
    title = described.get("card", {}).get("title") or described.get("architecture", "unknown")
    return f"{described.get('path')} ({title}, {hash[:12]})"


def _tell_version(record: RunRecord, listener: Listener) -> None:
    """Say when another version goes on than began; each shard has the one that made it."""
    before = {name: record.content.get(name) for name in ("code_version", "commit")}
    ours = {"code_version": code_version(), "commit": commit()}
    if before == ours or (record.folder / RESULTS).exists():
        return
    there, here = (" ".join(str(part) for part in one.values() if part) for one in (before, ours))
    listener.tell("other_version", {"before": before, "now": ours})
    listener.say(f"{record.folder} was begun with version {there}, and goes on with {here}: shards of both are mixed")


def _same_input(record: RunRecord, inputs: Sequence[Path], config: ScreenConfig, ours: Sequence[Path]) -> Path:
    """The packed input of a run, if it is made of these inputs."""
    packed = _given_packed(inputs, config)
    if packed is None:
        limits, asked = record.content.get("crystal_limits"), _asked_limits(inputs, config)
        if limits != asked:
            raise _another_run(record.folder, f"input: there with {limits}, now {asked}")
        before = record.content.get("sources")
        if before is None:
            raise _another_run(record.folder, f"input: there {record.packed}, now {', '.join(map(str, inputs))}")
        different = sources.difference(before, sources.described(inputs, without=ours))
        if different:
            cure = f"or name {record.packed} as the input, to go on with what was packed"
            raise _another_run(record.folder, f"input: {different}", cure)
        packed = record.packed
    with PackedCrystals(packed) as crystals:
        found, expected = crystals.fingerprint, record.stamp.input_fingerprint
    if found != expected:
        raise _another_run(record.folder, f"input: there crystals {expected[:12]}, now {found[:12]} in {packed}")
    return packed


def _another_run(folder: Path, different: str, cure: str = "or give what it was started with") -> ScreeningError:
    return InputError(f"{folder} holds another run ({different}); choose another folder with --out, {cure}")
