"""Which crystals a model learns from, is chosen by, and is judged by: row numbers, decided by a seed alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from screening.arrays import Float64, Int64
from screening.errors import InputError
from screening.training.config import SplitSettings


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Rows of each part, ascending, no row in two of them."""

    train: Int64
    validation: Int64
    test: Int64

    def thinned(self, fraction: float, *, seed: int) -> "Split":
        """Keep a fraction of the training rows; a smaller fraction keeps a part of what a larger one keeps."""
        if fraction == 1.0:
            return self
        kept = max(1, round(fraction * len(self.train)))
        order = np.random.default_rng([seed, 1]).permutation(len(self.train))
        return Split(np.sort(self.train[order[:kept]]), self.validation, self.test)


def split_once(settings: SplitSettings, formulas: Sequence[str]) -> Split:
    """Divide at random, whole formulas at a time if asked, into train, validation and test."""
    rows = np.arange(len(formulas))
    test, rest = _drawn(rows, settings.test, settings, formulas)
    validation, train = _drawn(rest, settings.validation, settings, formulas, of=len(rows))
    return _checked(Split(train, validation, test))


def split_in_folds(settings: SplitSettings, formulas: Sequence[str], folds: Float64) -> list[Split]:
    """Make one split per fold, the fold its test set, and a validation part drawn from the rest."""
    places = _given(folds) if settings.by == "folds" else _made(settings, formulas)
    splits = []
    for fold in range(int(places.max()) + 1):
        if not (places == fold).any():
            raise InputError(f"fold {fold} is empty: one formula has more crystals than a fold; ask for fewer folds")
        rest = np.flatnonzero(places != fold)
        validation, train = _drawn(rest, settings.validation, settings, formulas)
        splits.append(_checked(Split(train, validation, np.flatnonzero(places == fold))))
    return splits


def _given(folds: Float64) -> Int64:
    without = np.flatnonzero(np.isnan(folds))
    if len(folds) == 0 or len(without):
        raise InputError(f"{len(without)} of {len(folds)} crystals have no label `fold`; split by random or formula")
    values, places = np.unique(folds, return_inverse=True)
    if len(values) < 2 or not np.array_equal(values, np.arange(len(values))):
        raise InputError(f"labels `fold` must be 0, 1, ... without gaps, got {values[:9].tolist()}")
    return places.astype(np.int64)


def _made(settings: SplitSettings, formulas: Sequence[str]) -> Int64:
    count = settings.folds or 0
    groups = _groups(np.arange(len(formulas)), settings, formulas)
    if len(np.unique(groups)) < count:
        raise InputError(f"{len(np.unique(groups))} groups of crystals cannot make {count} folds; ask for fewer")
    places = np.empty(len(groups), np.int64)
    ordered = _shuffled(groups, settings.seed)
    # Fold k ends with the group that reaches (k + 1) / count of the crystals.
    for fold, part in enumerate(_cut_at(ordered, groups, [k * len(groups) / count for k in range(1, count)])):
        places[part] = fold
    return places


def _drawn(
    rows: Int64, fraction: float, settings: SplitSettings, formulas: Sequence[str], *, of: int | None = None
) -> tuple[Int64, Int64]:
    """Draw a fraction of `of` rows (all of them if not given) by whole groups; the drawn and the others, ascending."""
    if fraction == 0.0:
        return rows[:0], rows
    groups = _groups(rows, settings, formulas)
    wanted = fraction * (len(rows) if of is None else of)
    drawn, others = _cut_at(_shuffled(groups, settings.seed), groups, [wanted])
    return np.sort(rows[drawn]), np.sort(rows[others])


def _groups(rows: Int64, settings: SplitSettings, formulas: Sequence[str]) -> Int64:
    if settings.by != "formula":
        return np.arange(len(rows))
    return np.unique(np.array([formulas[r] for r in rows.tolist()]), return_inverse=True)[1].astype(np.int64)


def _shuffled(groups: Int64, seed: int) -> Int64:
    """Places ordered by a random rank of their group."""
    rank = np.random.default_rng([seed, 0]).permutation(int(groups.max(initial=-1)) + 1)
    return np.argsort(rank[groups], kind="stable")


def _cut_at(ordered: Int64, groups: Int64, wanted: Sequence[float]) -> list[Int64]:
    """Cut where a group ends, as near as can be to each wanted count."""
    ends = np.concatenate([[0], np.flatnonzero(np.diff(groups[ordered], append=-1)) + 1])
    cuts = [int(ends[np.abs(ends - count).argmin()]) for count in wanted]
    return np.split(ordered, cuts)


def _checked(split: Split) -> Split:
    if len(split.train) == 0:
        raise InputError("the split leaves no crystal to train on; lower validation and test, or give more crystals")
    return split
