"""`screening train-forces`: a potential from energies, forces and stresses, or from atoms that were moved."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from screening.arrays import Float64, Int64
from screening.errors import InputError
from screening.models.derivatives import require_smooth
from screening.models.model import CrystalModel
from screening.models.potential_files import REFERENCED
from screening.predictions import Target
from screening.training.config import RunSettings
from screening.training.forces_config import ForcesConfig
from screening.training.journal import validation_of
from screening.training.labelled import LabelledGraphs
from screening.training.lessons.lesson import Lesson, Start, Work
from screening.training.lessons.properties import sizes
from screening.training.loop import JOURNAL_FILE
from screening.training.material import Listener, Material
from screening.training.mechanics import STRESS, VOLUME
from screening.training.objectives.denoising import Denoising, DenoisingByDerivative, DenoisingByHead
from screening.training.objectives.forces import Compared, EnergyForceStress, Sources
from screening.training.objectives.frozen import calibrate
from screening.training.ranks import Ranks
from screening.training.references import References
from screening.training.splits import Split, split_once
from screening.training.tuning import INIT, Tuning, located, origins_of, require_startable, started

ENERGY = Target("energy", "eV/cell")
LEARNED = Target(REFERENCED, "eV/atom")
SMALLEST_SCALE = 1e-3
ENCODER_RESTS = Tuning(frozen=None)


class ForcesLesson(Lesson[ForcesConfig]):
    """A run that learns derivatives. What a head of noise has learned from has no targets: it is an encoder."""

    command: ClassVar[str] = "train-forces"
    settings_type: ClassVar[type[RunSettings]] = ForcesConfig
    keeps_forces: ClassVar[bool] = True
    config: ForcesConfig

    @property
    def labels(self) -> tuple[Target, ...]:
        return (ENERGY, VOLUME, *STRESS)

    @property
    def targets(self) -> tuple[Target, ...]:
        return () if self.config.forces.learn == "denoising_by_head" else (LEARNED,)

    @property
    def parts(self) -> Mapping[str, tuple[Path, ...]]:
        """Each entry of `data.train` is a source."""
        names = [path.name for path in self.config.data.train]
        if len(set(names)) < len(names):
            raise InputError(f"data.train: sources are told apart by their names, which are {', '.join(names)}")
        return {path.name: (path,) for path in self.config.data.train}

    def splits(self, material: Material) -> list[Split]:
        """Divide each source alike, and note which crystals are of which."""
        settings, fraction = self.config.data.split, self.config.data.fraction
        ends = np.cumsum([0, *material.sizes])
        found = []
        for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            if start < end:
                own = split_once(settings, material.graphs.formulas[start:end]).thinned(fraction, seed=settings.seed)
                found.append(Split(own.train + start, own.validation + start, own.test + start))
        if not found:
            raise InputError("data.train holds no crystal that can be used; see what was refused with `screening pack`")
        parts = zip(*((split.train, split.validation, split.test) for split in found), strict=True)
        self._sources = Sources(tuple(self.parts), np.repeat(np.arange(len(material.sizes)), material.sizes))
        return [Split(*(np.concatenate(part) for part in parts))]

    @property
    def selectable(self) -> Mapping[str, Sequence[str]]:
        return (EnergyForceStress if self.config.forces.learn == "labels" else Denoising).measured()

    def check(self) -> None:
        """Refuse a model that has no forces, and a checkpoint to start from that does not fit, too."""
        super().check()
        model = self.new_model()
        require_smooth(model)
        require_startable(model, self.config.init)

    def prepare(self, graphs: LabelledGraphs, folder: Path, listener: Listener) -> dict[str, str]:
        """Find the checkpoint to start from, if there is one."""
        del graphs, folder, listener
        return located(self.config.init)

    def origins(self, work: Work) -> tuple[str, ...]:
        """A hash of that checkpoint."""
        return origins_of(work.files)

    def start(self, work: Work) -> Start:
        self._require_labels(work)
        model = self.new_model()
        objective = self._objective(work, model)
        if work.ranks.is_first:
            work.listener.say(self._described(work))
            self._begin(model, work, calibrates=objective.differentiates_inputs)
        _agree_on_scaling(model, work.ranks)
        return Start(model, objective, Tuning.of(self.config.init))

    def references(self, work: Work) -> Mapping[str, Mapping[str, float]]:
        """The zero of energy of each source, if energies are learned."""
        return self._references(work).as_card() if self.config.forces.learns_energies else {}

    @property
    def limits(self) -> str:
        """What its energies are not."""
        if self.config.forces.learn == "denoising":
            return "Learned from moved atoms alone: its forces tell where atoms are at rest, its energies have no unit."
        if self.config.forces.learns_energies or not self.targets:
            return ""
        return "Learned without energies: those of crystals of other elements cannot be compared."

    def judged(self, work: Work, epoch: int) -> dict[str, Any]:
        """Errors of the model that was kept; of a head, which was not, those of its epoch."""
        if self.config.forces.learn == "denoising_by_head":
            return self._journalled(work, epoch)
        model = self.loaded(work)
        _agree_on_scaling(model, work.ranks)
        objective = self._objective(work, model)
        found = {}
        for name, rows in (("validation", work.split.validation), ("test", work.split.test)):
            if len(rows):
                assessed = objective.assess(model, rows, self.config.training, work.ranks).as_json()
                found[name] = {key: assessed[key] for key in ("loss", objective.section)}
        return found

    def _objective(self, work: Work, model: CrystalModel) -> Compared:
        require_smooth(model)
        graphs, settings = work.graphs, self.config.forces
        match settings.learn:
            case "labels":
                return EnergyForceStress(graphs, self._above_references(work), self._sources, settings)
            case "denoising":
                return DenoisingByDerivative(graphs, self._sources, settings)
            case "denoising_by_head":
                return DenoisingByHead(graphs, self._sources, settings, model)

    def _begin(self, model: CrystalModel, work: Work, *, calibrates: bool) -> None:
        """Give a new model its scale and moments, or what the checkpoint has that it starts from."""
        init = self.config.init
        if self.config.forces.learn == "labels":
            model.set_scaling([0.0], [self._scale(work)])
        kept = {} if init is None else started(model, init, work.files[INIT]).scaling
        if kept:
            # A head gives values on the scale on which it learned.
            model.set_scaling(*zip(*(kept[target.name] for target in model.targets), strict=True))
        elif calibrates:
            model.train()
            if init is not None:
                ENCODER_RESTS.rest(model)
            calibrate(model, work.graphs, work.split.train, self.config.training)

    def _above_references(self, work: Work) -> Float64:
        """The energy of each crystal above the references of its source, in eV/atom."""
        energies = work.graphs.labels[:, 0] / work.graphs.atom_counts
        found: Float64 = energies - self._references(work).per_atom(self._fractions(work), self._sources.of)
        return found

    def _scale(self, work: Work) -> float:
        """What learned values are multiplied by: the size of forces, which references cannot make small by fitting.

        Where energies alone are learned, theirs.
        """
        rows, settings = work.split.train, self.config.forces
        sizes = [work.graphs.forces_in(rows).astype(np.float64), self._above_references(work)[rows]]
        for numbers in sizes if settings.force or settings.stress else sizes[::-1]:
            known = numbers[~np.isnan(numbers)]
            found = float(np.sqrt((known**2).mean())) if len(known) else 0.0
            if found > SMALLEST_SCALE:
                return found
        return 1.0

    def _references(self, work: Work) -> References:
        graphs, rows = work.graphs, work.split.train
        per_atom = graphs.labels[rows, 0] / graphs.atom_counts[rows]
        fractions = self._fractions(work)[rows]
        return References.fit(fractions, per_atom, self._sources.of[rows], self._sources.names)

    def _fractions(self, work: Work) -> Float64:
        return work.graphs.fractions(np.arange(len(work.graphs)))

    def _require_labels(self, work: Work) -> None:
        """Refuse a weight on a label that no training crystal has: the term would count as zero, and nobody see it."""
        if self.config.forces.learn != "labels":
            return
        graphs, rows, settings = work.graphs, work.split.train, self.config.forces
        for name, count in _counted(graphs, rows).items():
            if count == 0 and getattr(settings, name):
                raise InputError(
                    f"data.train: no crystal to train on has the label {name}, whose weight forces.{name} is "
                    f"{getattr(settings, name):g}; set it to 0, or give crystals with labels that docs/forces.md lists"
                )

    def _described(self, work: Work) -> str:
        rows, graphs = work.split.train, work.graphs
        if self.config.forces.learn != "labels":
            return f"{sizes(graphs, work.split)}; labels are not used"
        found = _counted(graphs, rows)
        labels = f"{found['energy']:,} energies, {found['force']:,} forces, {found['stress']:,} stresses"
        return f"{sizes(graphs, work.split)}; training labels: {labels}{self._left_out(work)}"

    def _left_out(self, work: Work) -> str:
        """Say how many energies nothing is compared with."""
        unknown = np.isnan(self._above_references(work)) & ~np.isnan(work.graphs.labels[:, 0])
        if not unknown.any():
            return ""
        count, first = int(unknown.sum()), work.graphs.ids[int(np.flatnonzero(unknown)[0])]
        return (
            f"; {count:,} energies to validate and test are left out, such as that of {first}: no training energy of "
            "their source tells of one of their elements"
        )

    def _journalled(self, work: Work, epoch: int) -> dict[str, Any]:
        text = b""
        if work.ranks.is_first:
            text = json.dumps(validation_of(work.folder / JOURNAL_FILE, epoch)).encode()
        found = json.loads(work.ranks.told(text))
        return {"validation": {"loss": found["loss"], "denoising": found["denoising"]}} if found else {}


def _counted(graphs: LabelledGraphs, rows: Int64) -> dict[str, int]:
    """How many labels of each kind there are, by the name of its weight; of force one an atom."""
    numbers = {
        "energy": graphs.labels[rows, 0],
        "force": graphs.forces_in(rows)[:, 0],
        "stress": graphs.labels[rows, 2],
    }
    return {name: int((~np.isnan(values)).sum()) for name, values in numbers.items()}


def _agree_on_scaling(model: CrystalModel, ranks: Ranks) -> None:
    """Let all ranks have the scaling of the first one's model, which is no part of its weights."""
    if ranks.size > 1 and model.targets:
        model.set_scaling(*json.loads(ranks.told(json.dumps(list(zip(*model.scaling, strict=True))).encode())))
