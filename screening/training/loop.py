"""The loop: epochs of batches, each a step; validation, the best model kept, the state saved.

What a step does depends on the settings, the data and the state alone: not on the clock, the thread that
gathers batches, or how often the run was interrupted. Several ranks may make each step together: all of them run this
loop, in step, each with a part of every batch, and end with the same weights.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.amp.grad_scaler import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from screening.arrays import Int64
from screening.errors import InputError, ResourceError, ScreeningError
from screening.models.model import CrystalModel
from screening.training.assess import Assessment, named
from screening.training.batching import epoch_batches, prefetched
from screening.training.config import LoopSettings
from screening.training.gradient import BatchLoss, differentiate, whole_loss
from screening.training.journal import Journal
from screening.training.labelled import LabelledGraphs
from screening.training.objectives.objective import Batch, Objective, Part
from screening.training.optimise import MovingAverage, optimiser_of, rate_of
from screening.training.ranks import ALONE, Ranks, require_shareable
from screening.training.resume import Learner, Position, agreed, load_state, repeatable, save_state
from screening.training.splits import Split
from screening.training.tuning import WHOLE, Tuning

STATE_FILE, JOURNAL_FILE = "state.safetensors", "metrics.jsonl"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is after a step: the mean loss of the epoch so far, and crystals a second since it started."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    rate: float
    validation: str


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What is to be learned from what: graphs, which of them are for what, and the objective on them."""

    graphs: LabelledGraphs
    split: Split
    objective: Objective
    tuning: Tuning = WHOLE


Watch = Callable[[Progress], None]
Keep = Callable[[CrystalModel, int, Assessment | None], None]


class Fitting:
    """One run of the loop. `keep` stores the model whenever it is the best so far; `watch` is told every step.

    `say` is told what is amiss in the folder or with the run, and no reason to end.
    """

    def __init__(
        self,
        model: CrystalModel,
        task: Task,
        settings: LoopSettings,
        folder: Path,
        *,
        stamp: str,
        keep: Keep,
        watch: Watch,
        say: Callable[[str], None] = lambda text: None,
        ranks: Ranks = ALONE,
    ) -> None:
        require_device(settings)
        require_metric(settings.select, task.objective.selectable)
        self._model = model.to(settings.device)
        self._learned = task.objective.learner(self._model).to(settings.device)
        self._task, self._settings, self._ranks = task, settings, ranks
        self._keep, self._watch, self._say = keep, watch, say
        task.tuning.freeze(self._model)
        if ranks.size > 1:
            require_shareable(self._learned, model.architecture)
        self._state_path, self._stamp = folder / STATE_FILE, stamp
        learned = self._learned
        average = MovingAverage(learned, settings.ema_decay) if settings.ema_decay is not None else None
        scaler = GradScaler(settings.device.partition(":")[0], enabled=settings.precision == "fp16")
        self._learner = Learner(learned, self._optimiser(), average, scaler, settings.device)
        self._parameters = [p for p in learned.parameters() if p.requires_grad]
        terms = len(task.objective.weights)
        self._at = Position(sums=[0.0] * terms, counts=[0] * terms)
        # The first rank alone reads and writes here: what another machine sees of a file may be old.
        if ranks.is_first and self._state_path.exists():
            self._at = load_state(self._state_path, self._learner, stamp=stamp)
        self._at = agreed(self._learner, self._at, ranks)
        self._journal = None
        if ranks.writes():
            self._journal = Journal(folder / JOURNAL_FILE, valid_bytes=self._at.journal_bytes, say=say)
        self._steps = sum(len(self._batches(epoch)) for epoch in range(settings.epochs))
        self._rate = rate_of(settings.schedule, rate=settings.optimiser.rate, steps=self._steps)
        self._validation = ""

    def run(self) -> Position:
        """Train to the end, from wherever the state in the folder is."""
        with repeatable(self._settings.device):
            while not self._at.done:
                self._run_epoch()
        return self._at

    def _run_epoch(self) -> None:
        started = saved = time.monotonic()
        crystals = 0
        self._learned.train()
        self._task.tuning.rest(self._model)
        # `closing` is not needed: the generator is exhausted, or dies with this frame.
        for rows, part in prefetched(self._batches(self._at.epoch)[self._at.batch :], self._gathered):
            save = self._step(part, save=time.monotonic() - saved >= self._settings.save_every_s)
            crystals += len(rows)
            self._tell(crystals / max(time.monotonic() - started, 1e-9))
            if save:
                self._save()
                saved = time.monotonic()
        self._end_epoch(crystals, time.monotonic() - started)

    def _optimiser(self) -> Optimizer:
        factors = self._task.tuning.factors(self._model)
        return optimiser_of(self._learned, self._settings.optimiser, factors)

    def _batches(self, epoch: int) -> list[Int64]:
        settings = self._settings
        return epoch_batches(
            self._task.graphs,
            self._task.split.train,
            batch_size=settings.batch_size,
            max_atoms=settings.max_atoms,
            max_edges=settings.max_edges,
            seed=settings.seed,
            epoch=epoch,
        )

    def _gathered(self, rows: Int64) -> Part:
        places = self._ranks.places(self._task.graphs, rows)
        settings = self._settings
        return self._task.objective.gather(Batch(rows, places, self._at.epoch, settings.seed, settings.device))

    def _step(self, part: Part, *, save: bool) -> bool:
        """Learn from a batch; tell whether the state is to be saved, which the first rank's clock decides for all."""
        learner, settings = self._learner, self._settings
        self._set_rate()
        loss = self._loss(part, asks=save)
        if not loss.is_finite:
            raise self._diverged(part)
        differentiate(loss, self._model.penalty(), self._parameters, learner.scaler, self._ranks)
        learner.scaler.unscale_(learner.optimiser)
        limit = math.inf if settings.clip_norm is None else settings.clip_norm
        norm = float(clip_grad_norm_(self._parameters, limit))
        # A scaler skips steps whose float16 gradients overflow; nothing else may.
        if not math.isfinite(norm) and not learner.scaler.is_enabled():
            raise self._exploded(part)
        learner.scaler.step(learner.optimiser)
        learner.scaler.update()
        if learner.average is not None:
            learner.average.update(self._at.step)
        self._count(loss.sums, loss.counts)
        return loss.asked

    def _set_rate(self) -> None:
        for group in self._learner.optimiser.param_groups:
            group["lr"] = group["factor"] * self._rate(self._at.step)

    def _loss(self, part: Part, *, asks: bool) -> BatchLoss:
        objective, narrow = self._task.objective, DTYPES.get(self._settings.precision)
        device = self._settings.device
        with (
            self._shared(part),
            torch.autocast(device.partition(":")[0], narrow, enabled=narrow is not None),
        ):
            own = objective.sums(self._model, part)
        return whole_loss(own, list(objective.weights.values()), self._ranks, asks=asks)

    def _shared(self, part: Part) -> AbstractContextManager[None]:
        return self._ranks.sharing(part.batch.places, len(part.batch.rows), self._settings.device)

    def _count(self, sums: Sequence[float], counts: Sequence[float]) -> None:
        at = self._at
        at.sums = [a + b for a, b in zip(at.sums, sums, strict=True)]
        at.counts = [a + b for a, b in zip(at.counts, counts, strict=True)]
        at.batch += 1
        at.step += 1

    def _end_epoch(self, crystals: int, seconds: float) -> None:
        at, objective = self._at, self._task.objective
        loss = self._train_loss()
        entry = {
            "epoch": at.epoch + 1,
            "step": at.step,
            "rate": self._rate(at.step - 1),
            "train": {"loss": loss, "losses": objective.means(at.sums, at.counts)},
            "seconds": round(seconds, 3),
            "crystals_per_s": round(crystals / max(seconds, 1e-9), 1),
        }
        self._tell_if_lost(loss)
        at.epoch, at.batch = at.epoch + 1, 0
        at.sums, at.counts = [0.0] * len(at.sums), [0] * len(at.counts)
        validation = self._validate()
        if validation is not None:
            entry["validation"] = validation.as_json()
            select = self._settings.select
            self._validation = f"validation {select} {_shown(validation, select):.4g} after epoch {at.epoch}"
        if self._journal is not None and self._ranks.writes():
            at.journal_bytes = self._journal.write(entry | {"best": at.best_epoch == at.epoch})
        patience = self._settings.patience
        at.done = at.epoch == self._settings.epochs or (patience is not None and at.stale >= patience)
        self._save()

    def _tell_if_lost(self, loss: float) -> None:
        """Say so if the loss of an epoch is far above what it was; more epochs seldom bring back what was learned."""
        at = self._at
        is_lost = at.lowest is not None and loss > LOST * at.lowest
        if is_lost and self._ranks.is_first:
            self._say(
                f"epoch {at.epoch + 1}: the training loss is {loss:.3g}, and was {at.lowest:.3g}: what the weights had "
                f"learned is lost; {CALMER}"
            )
        at.lowest = loss if is_lost or at.lowest is None else min(at.lowest, loss)

    def _validate(self) -> Assessment | None:
        """Measure the model, with averaged weights where there are some, and keep it if it is the best."""
        at, task, average = self._at, self._task, self._learner.average
        if average is not None:
            average.exchange()
        found = None
        if len(task.split.validation):
            self._learned.eval()
            with torch.set_grad_enabled(task.objective.differentiates_inputs):
                found = task.objective.assess(self._model, task.split.validation, self._settings, self._ranks)
        if self._is_best(found) and self._ranks.writes():
            self._learned.eval()
            self._keep(self._model, at.epoch, found)
        if average is not None:
            average.exchange()
        return found

    def _is_best(self, found: Assessment | None) -> bool:
        at = self._at
        if found is None:
            at.best_epoch = at.epoch
            return at.epoch == self._settings.epochs
        score = found.score(self._settings.select)
        if math.isnan(score):
            raise InputError(
                f"{self._settings.select} is not defined on these validation crystals; select another metric"
            )
        if at.best is not None and score >= at.best:
            at.stale += 1
            return False
        at.best, at.best_epoch, at.stale = score, at.epoch, 0
        return True

    def _train_loss(self) -> float:
        return self._task.objective.mean(self._at.sums, self._at.counts)

    def _tell(self, rate: float) -> None:
        if not self._ranks.is_first:
            return
        at = self._at
        self._watch(
            Progress(
                at.epoch + 1, self._settings.epochs, at.step, self._steps, self._train_loss(), rate, self._validation
            )
        )

    def _save(self) -> None:
        if self._ranks.writes():
            save_state(self._state_path, self._learner, self._at, stamp=self._stamp)
        self._at = agreed(self._learner, self._at, self._ranks)

    def _diverged(self, part: Part) -> ScreeningError:
        """Say which crystals make the loss infinite."""
        where = f"epoch {self._at.epoch + 1}, batch {self._at.batch + 1}: the loss is not finite"
        rows = part.batch.rows
        wrong = self._not_finite(part)
        if len(wrong) == len(rows) > 1:
            # Normalisation over the batch spreads one crystal's fault, and leaves it in the running statistics. With
            # these mended, a model in its evaluation mode fails at the crystals at fault only.
            for buffer in self._learned.buffers():
                buffer.copy_(torch.nan_to_num(buffer))
            self._learned.eval()
            wrong = self._not_finite(part)
        if len(wrong) in (0, len(rows)):
            return ScreeningError(f"{where} for all its {len(rows)} crystals: the weights have diverged; {CALMER}")
        return ScreeningError(f"{where} for {named(self._task.graphs, rows[wrong])}; check these crystals, or {CALMER}")

    def _each(self, part: Part) -> list[tuple[float, int]]:
        """The loss of each crystal of the batch, on all ranks, and its place."""
        with self._shared(part):
            losses = self._task.objective.each(self._model, part).detach().tolist()
        pairs = zip(losses, part.batch.places.tolist(), strict=True)
        # JSON holds no NaN between ranks.
        return [(math.nan if loss is None else loss, place) for loss, place in self._ranks.joined(_as_json(pairs))]

    def _not_finite(self, part: Part) -> Int64:
        """The places in the batch of crystals whose loss is not finite."""
        return np.array(sorted(place for loss, place in self._each(part) if not math.isfinite(loss)), np.int64)

    def _exploded(self, part: Part) -> ScreeningError:
        worst = sorted(self._each(part), reverse=True)[:3]
        rows = part.batch.rows[[place for _, place in worst]]
        return ScreeningError(
            f"epoch {self._at.epoch + 1}, batch {self._at.batch + 1}: the gradient is not finite; the largest losses "
            f"are those of {named(self._task.graphs, rows)}; check these crystals, or {CALMER}"
        )


# So many times its lowest, the loss of an epoch is no longer that of a model that learns.
LOST = 10.0
CALMER = "lower training.optimiser.rate or set training.clip_norm"


def _as_json(pairs: Iterable[tuple[float, int]]) -> list[list[float | int | None]]:
    return [[loss if math.isfinite(loss) else None, place] for loss, place in pairs]


def _shown(found: Assessment, select: str) -> float:
    return abs(found.score(select))


def require_device(settings: LoopSettings) -> None:
    """Raise if this machine has no such device."""
    kind = settings.device.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise InputError(f"training.device is {settings.device!r}; expected cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ResourceError(f"training.device is {settings.device!r}, but torch sees no CUDA device; set it to cpu")
    if kind == "cpu" and settings.precision != "float32":
        raise InputError(f"training.precision = {settings.precision!r} is for GPUs; use float32 on a CPU")


def require_metric(select: str, selectable: Mapping[str, Sequence[str]]) -> None:
    """Raise if the best epoch is to be chosen by what is not measured."""
    known = ["loss", *(f"{name}.{metric}" for name, own in selectable.items() for metric in own)]
    if select not in known:
        raise InputError(f"training.select is {select!r}; expected one of {', '.join(known)}")
