"""The study in words: tables in Markdown of whatever is finished."""

from tables import DASH, Estimate, fixed, table

from multitask.claims import Claim, claims_of
from multitask.outcomes import VALIDATIONS, Measure, Outcomes, Validation, auc_measure
from multitask.plan import (
    CLASSIFIED,
    FERMI,
    FORMATION,
    GAP,
    LEARNED,
    METAL,
    PAIR,
    PERCENTS,
    SET_UPS,
    SHORT,
    SINGLES,
    WHOLE,
    Targets,
    short,
)

UNITS = {FORMATION: "eV/atom", GAP: "eV", FERMI: "eV"}
REGRESSED = (*SINGLES, *SET_UPS)
NAMES: dict[Validation, str] = {"random": "random validation", "formula": "formulas held out"}


def report_of(outcomes: Outcomes, *, runs: int) -> str:
    """Write the report: claims first, then the numbers behind them."""
    finished = len({run for run, _ in outcomes.values})
    head = (
        f"{finished} of {runs} runs are finished. Numbers are means over seeds ± their standard error; gains and rises "
        "are taken within each seed. The random validation crystals also chose the epochs; those held out did not."
    )
    sections = ["# Single-task against multi-task", head, "## Claims", claims_table(outcomes)]
    for validation in VALIDATIONS:
        sections += [
            f"## Mean absolute error, {NAMES[validation]}",
            errors_table(outcomes, validation),
            f"## Gain over single tasks in %, {NAMES[validation]}",
            gains_table(outcomes, validation),
            f"## Learning curves, {NAMES[validation]}",
            curves_table(outcomes, validation),
            f"## Ranks and classes, {NAMES[validation]}",
            ranks_table(outcomes, validation),
        ]
    return "\n\n".join(sections) + "\n"


def claims_table(outcomes: Outcomes) -> str:
    """Each claim with what was measured, and its verdict, on each kind of validation."""
    rows = []
    for same in zip(*(claims_of(outcomes, validation) for validation in VALIDATIONS), strict=True):
        judged = [cell for claim in same for cell in (measured(claim), claim.verdict)]
        rows.append([same[0].says, same[0].published, seeds(same[0]), *judged])
    heads = [head for validation in VALIDATIONS for head in (NAMES[validation], "verdict")]
    return table(["claim", "published", "seeds", *heads], rows, numbers=True)


def errors_table(outcomes: Outcomes, validation: Validation) -> str:
    """MAE of each target in each set-up, on the whole training set."""
    rows = [
        [short(targets, weight), *(_error(outcomes, targets, t, validation, WHOLE, weight) for (t,) in SINGLES)]
        for targets, weight in (*((single, 1.0) for single in SINGLES), *LEARNED)
    ]
    return table(["learned", *(f"{SHORT[t]} ({UNITS[t]})" for (t,) in SINGLES)], rows, numbers=True)


def gains_table(outcomes: Outcomes, validation: Validation) -> str:
    """By how much MAE falls, per target and on average, against single tasks of the same seed."""
    rows = [
        [
            short(targets, weight),
            *(_gain(outcomes, targets, t, validation, WHOLE, weight) if t in targets else "" for (t,) in SINGLES),
            fixed(Estimate.of(outcomes.mean_gains(targets, validation, weight=weight)), 1),
        ]
        for targets, weight in LEARNED
    ]
    return table(["learned together", *(SHORT[t] for (t,) in SINGLES), "mean"], rows, numbers=True)


def curves_table(outcomes: Outcomes, validation: Validation) -> str:
    """MAE and gain by the part of the training set; and what part serves single tasks as well."""
    columns = [column for t in PAIR for column in (f"{SHORT[t]} alone", f"{SHORT[t]} in the pair", "gain %")]
    rows = [
        [f"{percent} %", *_curve_cells(outcomes, validation, percent), _equal(outcomes, validation, percent)]
        for percent in PERCENTS
    ]
    return table(["crystals", *columns, "as good as single tasks from, %"], rows, numbers=True)


def ranks_table(outcomes: Outcomes, validation: Validation) -> str:
    """Spearman's rank correlation of formation energy, and how well metals are told from the rest."""
    rank = Measure(FORMATION, "spearman", validation)
    rows = [
        [
            short(targets),
            fixed(Estimate.of(outcomes.by_seed(targets, WHOLE, rank)), 4) if FORMATION in targets else "",
            _area(outcomes, targets, validation),
        ]
        for targets in (*REGRESSED, *CLASSIFIED)
        if {FORMATION, GAP, METAL} & set(targets)
    ]
    return table(
        ["learned", "Spearman of formation energy", "AUC of metals, by their head or the gap"], rows, numbers=True
    )


def measured(claim: Claim) -> str:
    """What was measured of a claim, and where, if that is not part of the claim."""
    return fixed(claim.measured, claim.digits, claim.unit) + (f" ({claim.where})" if claim.where else "")


def seeds(claim: Claim) -> str:
    """How many seeds a claim was measured with, which is the same on each kind of validation."""
    return DASH if claim.measured is None else str(claim.measured.seeds)


def _error(
    outcomes: Outcomes, targets: Targets, target: str, validation: Validation, percent: int, weight: float = 1.0
) -> str:
    if target not in targets:
        return ""
    mae = Measure(target, "mae", validation)
    return fixed(Estimate.of(outcomes.by_seed(targets, percent, mae, weight=weight)), 4)


def _gain(
    outcomes: Outcomes, targets: Targets, target: str, validation: Validation, percent: int, weight: float = 1.0
) -> str:
    return fixed(Estimate.of(outcomes.gains(targets, target, validation, percent=percent, weight=weight)), 1)


def _curve_cells(outcomes: Outcomes, validation: Validation, percent: int) -> list[str]:
    cells = []
    for target in PAIR:
        cells += [_error(outcomes, own, target, validation, percent) for own in ((target,), PAIR)]
        cells.append(_gain(outcomes, PAIR, target, validation, percent))
    return cells


def _equal(outcomes: Outcomes, validation: Validation, percent: int) -> str:
    return fixed(Estimate.of(outcomes.equal_percents(PAIR, validation, percent=percent)), 1)


def _area(outcomes: Outcomes, targets: Targets, validation: Validation) -> str:
    if not {GAP, METAL} & set(targets):
        return ""
    return fixed(Estimate.of(outcomes.by_seed(targets, WHOLE, auc_measure(targets, validation))), 4)
