"""The loop: epochs of batches, each a step; validation, the best model kept, the state saved.

What a step does depends on the settings, the data and the state alone: not on the clock, the thread that
gathers batches, or how often the run was interrupted. Several ranks may make each step together: all of them run this
loop, in step, each with a part of every batch, and end with the same weights.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.nn.utils import clip_grad_norm_

from screening.errors import InputError, ResourceError, ScreeningError
from screening.models.graph_tensors import GraphTensors
from screening.models.model import CrystalModel
from screening.training.assess import Assessment, assess, mean_losses, named
from screening.training.batching import epoch_batches, prefetched
from screening.training.config import LoopSettings
from screening.training.gradient import differentiate, whole_loss
from screening.training.journal import Journal
from screening.training.labelled import LabelledGraphs
from screening.training.losses import TargetLoss, crystal_losses, masked_sums
from screening.training.normalise import Normaliser
from screening.training.optimise import MovingAverage, optimiser_of, rate_of
from screening.training.ranks import ALONE, Ranks, require_shareable
from screening.training.resume import Learner, Position, agreed, load_state, repeatable, save_state
from screening.training.splits import Split

Int64 = npt.NDArray[np.int64]

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
    """What is to be learned from what: labelled graphs, their split, their normaliser and the loss of each head."""

    graphs: LabelledGraphs
    split: Split
    normaliser: Normaliser
    losses: Sequence[TargetLoss]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What this rank computes of a batch of `rows`: the crystals at `places`, and their normalised labels."""

    rows: Int64
    places: Int64
    graph: GraphTensors
    labels: Tensor


Watch = Callable[[Progress], None]
Keep = Callable[[CrystalModel, int, Assessment | None], None]


class Fitting:
    """One run of the loop. `keep` stores the model whenever it is the best so far; `watch` is told every step."""

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
        ranks: Ranks = ALONE,
    ) -> None:
        _require_device(settings)
        _require_metric(settings.select, task.graphs)
        self._model = model.to(settings.device)
        self._task, self._settings, self._keep, self._watch, self._ranks = task, settings, keep, watch, ranks
        if ranks.size > 1:
            require_shareable(model)
        self._state_path, self._stamp = folder / STATE_FILE, stamp
        self._labels = torch.from_numpy(task.normaliser.normalise(task.graphs.labels)).to(torch.float32)
        average = MovingAverage(model, settings.ema_decay) if settings.ema_decay is not None else None
        scaler = GradScaler(settings.device.partition(":")[0], enabled=settings.precision == "fp16")
        self._learner = Learner(model, optimiser_of(model, settings.optimiser), average, scaler, settings.device)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._at = Position(sums=[0.0] * len(task.losses), counts=[0] * len(task.losses))
        # The first rank alone reads and writes here: what another machine sees of a file may be old.
        if ranks.is_first and self._state_path.exists():
            self._at = load_state(self._state_path, self._learner, stamp=stamp)
        self._at = agreed(self._learner, self._at, ranks)
        self._journal = Journal(folder / JOURNAL_FILE, valid_bytes=self._at.journal_bytes) if ranks.writes() else None
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
        self._model.train()
        # `closing` is not needed: the generator is exhausted, or dies with this frame.
        for rows, part in prefetched(self._batches(self._at.epoch)[self._at.batch :], self._gathered):
            save = self._step(part, save=time.monotonic() - saved >= self._settings.save_every_s)
            crystals += len(rows)
            self._tell(crystals / max(time.monotonic() - started, 1e-9))
            if save:
                self._save()
                saved = time.monotonic()
        self._end_epoch(crystals, time.monotonic() - started)

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
        own = rows[places]
        graph, _ = self._task.graphs.take(own, device=self._settings.device)
        return Part(rows, places, graph, self._labels[own].to(self._settings.device))

    def _step(self, part: Part, *, save: bool) -> bool:
        """Learn from a batch; tell whether the state is to be saved, which the first rank's clock decides for all."""
        learner, settings = self._learner, self._settings
        for group in learner.optimiser.param_groups:
            group["lr"] = self._rate(self._at.step)
        with self._ranks.sharing(part.places, len(part.rows), settings.device):
            outputs = self._forward(part.graph)
        own = masked_sums(outputs, part.labels, self._task.losses)
        loss = whole_loss(own, [loss.weight for loss in self._task.losses], self._ranks, asks=save)
        if not loss.is_finite:
            raise self._diverged(part, outputs.detach())
        differentiate(loss, self._model.penalty(), self._parameters, learner.scaler, self._ranks)
        learner.scaler.unscale_(learner.optimiser)
        limit = math.inf if settings.clip_norm is None else settings.clip_norm
        norm = float(clip_grad_norm_(self._parameters, limit))
        # A scaler skips steps whose float16 gradients overflow; nothing else may.
        if not math.isfinite(norm) and not learner.scaler.is_enabled():
            raise self._exploded(part, outputs.detach())
        learner.scaler.step(learner.optimiser)
        learner.scaler.update()
        if learner.average is not None:
            learner.average.update(self._at.step)
        self._count(loss.sums, loss.counts)
        return loss.asked

    def _forward(self, graph: GraphTensors) -> Tensor:
        narrow = DTYPES.get(self._settings.precision)
        with torch.autocast(self._settings.device.partition(":")[0], narrow, enabled=narrow is not None):
            outputs: Tensor = self._model(graph)
        return outputs.float()

    def _count(self, sums: Sequence[float], counts: Sequence[int]) -> None:
        at = self._at
        at.sums = [a + b for a, b in zip(at.sums, sums, strict=True)]
        at.counts = [a + b for a, b in zip(at.counts, counts, strict=True)]
        at.batch += 1
        at.step += 1

    def _end_epoch(self, crystals: int, seconds: float) -> None:
        at, task = self._at, self._task
        sums, counts = torch.tensor(at.sums, dtype=torch.float64), torch.tensor(at.counts)
        entry = {
            "epoch": at.epoch + 1,
            "step": at.step,
            "rate": self._rate(at.step - 1),
            "train": {"loss": self._train_loss(), "losses": mean_losses(task.normaliser, sums, counts)},
            "seconds": round(seconds, 3),
            "crystals_per_s": round(crystals / max(seconds, 1e-9), 1),
        }
        at.epoch, at.batch = at.epoch + 1, 0
        at.sums, at.counts = [0.0] * len(at.sums), [0] * len(at.counts)
        validation = self._validate()
        if validation is not None:
            entry["validation"] = validation.as_json()
            self._validation = f"validation {self._settings.select} {_shown(validation, self._settings.select):.4g}"
        if self._journal is not None and self._ranks.writes():
            at.journal_bytes = self._journal.write(entry | {"best": at.best_epoch == at.epoch})
        patience = self._settings.patience
        at.done = at.epoch == self._settings.epochs or (patience is not None and at.stale >= patience)
        self._save()

    def _validate(self) -> Assessment | None:
        """Measure the model, with averaged weights where there are some, and keep it if it is the best."""
        at, task, average = self._at, self._task, self._learner.average
        if average is not None:
            average.exchange()
        found = None
        if len(task.split.validation):
            found = assess(
                self._model,
                task.graphs,
                task.split.validation,
                normaliser=task.normaliser,
                losses=task.losses,
                settings=self._settings,
                ranks=self._ranks,
            )
        if self._is_best(found) and self._ranks.writes():
            self._model.eval()
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
        terms = zip(self._task.losses, self._at.sums, self._at.counts, strict=True)
        weight = sum(loss.weight for loss in self._task.losses)
        return sum(loss.weight * total / max(count, 1) for loss, total, count in terms) / weight

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

    @torch.no_grad()
    def _diverged(self, part: Part, outputs: Tensor) -> ScreeningError:
        """Say which crystals make the loss infinite."""
        where = f"epoch {self._at.epoch + 1}, batch {self._at.batch + 1}: the loss is not finite"
        rows = part.rows
        wrong = self._not_finite(part, outputs)
        if len(wrong) == len(rows) > 1:
            # Normalisation over the batch spreads one crystal's fault, and leaves it in the running statistics. With
            # these mended, a model in its evaluation mode fails at the crystals at fault only.
            for buffer in self._model.buffers():
                buffer.copy_(torch.nan_to_num(buffer))
            wrong = self._not_finite(part, self._model.eval()(part.graph))
        if len(wrong) in (0, len(rows)):
            return ScreeningError(f"{where} for all its {len(rows)} crystals: the weights have diverged; {CALMER}")
        return ScreeningError(f"{where} for {named(self._task.graphs, rows[wrong])}; check these crystals, or {CALMER}")

    def _not_finite(self, part: Part, outputs: Tensor) -> Int64:
        """The places in the batch, on all ranks, of crystals whose loss is not finite."""
        each, _ = crystal_losses(outputs, part.labels, self._task.losses)
        found = part.places[~torch.isfinite(each).all(dim=1).cpu().numpy()]
        return np.array(sorted(self._ranks.joined(found.tolist())), np.int64)

    def _exploded(self, part: Part, outputs: Tensor) -> ScreeningError:
        each, _ = crystal_losses(outputs, part.labels, self._task.losses)
        losses = zip(each.sum(dim=1).tolist(), part.places.tolist(), strict=True)
        worst = sorted(self._ranks.joined([list(pair) for pair in losses]), reverse=True)[:3]
        rows = part.rows[[place for _, place in worst]]
        return ScreeningError(
            f"epoch {self._at.epoch + 1}, batch {self._at.batch + 1}: the gradient is not finite; the largest losses "
            f"are those of {named(self._task.graphs, rows)}; check these crystals, or {CALMER}"
        )


SELECTABLE = {
    "regression": ("mae", "rmse", "r2", "spearman"),
    "classification": ("mae", "rmse", "auc", "accuracy"),
}
CALMER = "lower training.optimiser.rate or set training.clip_norm"


def _shown(found: Assessment, select: str) -> float:
    return abs(found.score(select))


def _require_device(settings: LoopSettings) -> None:
    kind = settings.device.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise InputError(f"training.device is {settings.device!r}; expected cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ResourceError(f"training.device is {settings.device!r}, but torch sees no CUDA device; set it to cpu")
    if kind == "cpu" and settings.precision != "float32":
        raise InputError(f"training.precision = {settings.precision!r} is for GPUs; use float32 on a CPU")


def _require_metric(select: str, graphs: LabelledGraphs) -> None:
    kinds = {target.name: target.kind for target in graphs.targets}
    known = ["loss", *(f"{name}.{metric}" for name, kind in kinds.items() for metric in SELECTABLE[kind])]
    if select not in known:
        raise InputError(f"training.select is {select!r}; expected one of {', '.join(known)}")
