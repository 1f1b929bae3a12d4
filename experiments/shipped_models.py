"""How good models are on the validation crystals, and on those whose formula is not among the training crystals.

    .venv/bin/python experiments/shipped_models.py runs/sieve runs/cgcnn

The second is the fairer one: 28 % of these crystals share their formula with another, and a random split leaks them.
A table in Markdown, for docs/results.md.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from screening.crystals.batch import Crystals
from screening.crystals.formulas import reduced_formulas
from screening.crystals.read import read_batches
from screening.errors import ScreeningError
from screening.pretrained.shipped import load_model
from screening.training.config import LoopSettings
from screening.training.judge import Found, judge
from screening.training.labelled import LabelledGraphs

FOLDER = Path("../shared/data/mp36k")
METRIC = {"classification": "auc", "log10": "mae_log10", "linear": "mae"}


def crystals_of(path: Path) -> Iterator[Crystals]:
    """Read the crystals of a file."""
    return (batch.crystals for batch in read_batches([path]))


def formulas_of(path: Path) -> set[str]:
    """The reduced formulas that occur in a file."""
    return {formula for part in crystals_of(path) for formula in reduced_formulas(part.numbers, part.atom_offsets)}


def judged(model: str, validation: Path, known: set[str]) -> tuple[Found, Found, Mapping[str, str]]:
    """Metrics of a model on all crystals and on those of unknown formulas, and which metric each target is known by."""
    network, _ = load_model(model)
    graphs = LabelledGraphs.of(crystals_of(validation), network.targets, network.neighbors)
    new = np.flatnonzero([formula not in known for formula in graphs.formulas])
    kinds = {t.name: METRIC[t.kind if t.kind == "classification" else t.scale] for t in network.targets}
    found = [judge(network, graphs, rows, LoopSettings(batch_size=512)) for rows in (np.arange(len(graphs)), new)]
    return found[0], found[1], kinds


def table(models: Sequence[str], training: Path, validation: Path) -> str:
    """A row per target and metric; two columns per model."""
    known = formulas_of(training)
    columns: list[Found] = []
    kinds: Mapping[str, str] = {}
    for model in models:
        *both, kinds = judged(model, validation, known)
        columns += both
    names = [f"{model}, {what}" for model in models for what in ("all", "new formulas")]
    lines = [f"| target | metric | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    counts = [found[next(iter(kinds))]["count"] for found in columns]
    lines.append(f"| | crystals | {' | '.join(str(count) for count in counts)} |")
    for target, metric in kinds.items():
        row = [_shown(found[target][metric]) for found in columns]
        lines.append(f"| `{target}` | {metric} | {' | '.join(row)} |")
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Judge models on validation crystals.")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a file, the folder of a run, or a shipped name")
    parser.add_argument("--train", type=Path, default=FOLDER / "train.extxyz.gz")
    parser.add_argument("--validation", type=Path, default=FOLDER / "val.extxyz.gz")
    chosen = parser.parse_args()
    try:
        print(table(chosen.models, chosen.train, chosen.validation))
    except ScreeningError as error:
        print(f"shipped_models: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
