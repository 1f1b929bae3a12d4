"""How good a finished model is on labelled crystals, in the units of its targets."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from screening.arrays import Int64
from screening.crystals.batch import Crystals
from screening.crystals.pack import Tally
from screening.crystals.read import read_batches
from screening.errors import InputError
from screening.models.model import CrystalModel
from screening.training.assess import in_units, normalised_outputs
from screening.training.config import LoopSettings
from screening.training.curves import draw_parity
from screening.training.labelled import LabelledGraphs
from screening.training.metrics import all_metrics, finite_or_none
from screening.training.normalise import held_labels
from screening.training.ranks import ALONE, Ranks

Found = dict[str, dict[str, float | None]]


def read_crystals(paths: Sequence[Path], *, workers: int, name: str, say: Callable[[str], None]) -> Iterator[Crystals]:
    """Read crystals from files; say at the end how many there are, how many were refused, which labels are missing."""
    tally = Tally()
    for batch in read_batches(list(paths), workers=workers):
        tally.add(batch)
        yield batch.crystals
    refused = tally.rejected.total()
    first = next((rejection.message for rejection in tally.first.values()), "")
    told = f", {refused:,} refused, the first: {first}" if refused else ""
    missing = f"; {tally.missing}" if tally.missing else ""
    say(f"{name}: {tally.accepted:,} crystals{told}{missing}")


def judge(
    model: CrystalModel,
    graphs: LabelledGraphs,
    rows: Int64,
    settings: LoopSettings,
    *,
    plot: Path | None = None,
    ranks: Ranks = ALONE,
) -> Found:
    """Predict crystals and compare with their labels; draw both into a PNG if asked."""
    predicted = in_units(model, normalised_outputs(model, graphs, rows, settings, ranks))
    labels = graphs.labels[rows]
    if plot is not None:
        draw_parity(predicted, labels, graphs.targets, plot)
    return finite_or_none(all_metrics(predicted, labels, graphs.targets))


def evaluate(
    model: CrystalModel,
    inputs: Sequence[Path],
    *,
    workers: int,
    device: str,
    plot: Path | None,
    say: Callable[[str], None],
    check: Callable[[], None],
) -> Found:
    """Read labelled crystals and judge a model by them; `check` is called between batches of the input."""

    def stream() -> Iterator[Crystals]:
        for crystals in read_crystals(inputs, workers=workers, name="read", say=say):
            check()
            yield crystals

    graphs = LabelledGraphs.of(stream(), model.targets, model.neighbors)
    if len(graphs) == 0:
        raise InputError("no crystal can be used; see what was refused with `screening pack`")
    if np.isnan(graphs.labels).all():
        names = ", ".join(target.name for target in model.targets)
        raise InputError(f"no crystal has a label of this model ({names}), {held_labels(graphs.held)}")
    return judge(model, graphs, np.arange(len(graphs)), LoopSettings(device=device, batch_size=512), plot=plot)
