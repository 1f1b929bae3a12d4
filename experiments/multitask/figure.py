"""The study in one picture: learning curves with the spread of the seeds, and the gains of learning together."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter
from tables import Estimate

from multitask.outcomes import VALIDATIONS, Measure, Outcomes, Validation
from multitask.plan import LEARNED, PAIR, PERCENTS, SHORT, SINGLES, Targets, short
from multitask.report import NAMES, UNITS

ALONE, TOGETHER = "tab:blue", "tab:orange"
COLOURS = {"formation": "tab:green", "gap": "tab:red", "fermi": "tab:purple", "mean": "black"}
BAR = 0.2


def draw(outcomes: Outcomes, path: Path) -> None:
    """Draw a row of panels per kind of validation into a PNG."""
    figure = Figure(figsize=(12.5, 3.6 * len(VALIDATIONS)), layout="constrained")
    rows = figure.subplots(len(VALIDATIONS), len(PAIR) + 1, squeeze=False)
    for panels, validation in zip(rows, VALIDATIONS, strict=True):
        for panel, target in zip(panels, PAIR, strict=False):
            _curves(panel, outcomes, target, validation)
        _gains(panels[-1], outcomes, validation)
    part = path.with_name(f"{path.name}.part")
    figure.savefig(part, format="png", dpi=130)
    part.replace(path)


def _curves(panel: Axes, outcomes: Outcomes, target: str, validation: Validation) -> None:
    sets: list[tuple[Targets, str, str]] = [((target,), ALONE, "alone"), (PAIR, TOGETHER, short(PAIR))]
    for targets, colour, label in sets:
        points = {
            percent: list(found.values())
            for percent in PERCENTS
            if (found := outcomes.by_seed(targets, percent, Measure(target, "mae", validation)))
        }
        shares, values = list(points), list(points.values())
        means = [sum(own) / len(own) for own in values]
        if points:
            panel.plot(shares, means, "o-", color=colour, label=label, markersize=4)
            panel.fill_between(shares, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.2)
            # Not before there are points: an empty logarithmic axis has no ticks to find.
            panel.set_yscale("log")
    panel.set(xscale="log", xlim=(PERCENTS[0] / 1.2, PERCENTS[-1] * 1.2), xlabel="% of the training crystals")
    panel.set(title=f"{SHORT[target]}, {NAMES[validation]}", ylabel=f"MAE ({UNITS[target]})")
    panel.set_xticks(PERCENTS, [str(percent) for percent in PERCENTS], minor=False)
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_major_formatter(ScalarFormatter())
    panel.yaxis.set_minor_formatter(ScalarFormatter())
    panel.tick_params(axis="y", which="minor", labelsize="x-small")
    if panel.lines:
        panel.legend(frameon=False, fontsize="small")


def _gains(panel: Axes, outcomes: Outcomes, validation: Validation) -> None:
    for place, (targets, weight) in enumerate(LEARNED):
        found = {SHORT[t]: outcomes.gains(targets, t, validation, weight=weight) for (t,) in SINGLES if t in targets}
        bars = found | {"mean": outcomes.mean_gains(targets, validation, weight=weight)}
        for number, (name, values) in enumerate(bars.items()):
            estimate = Estimate.of(values)
            if estimate is not None:
                at = place + BAR * (number - (len(bars) - 1) / 2)
                panel.bar(at, estimate.mean, BAR, color=COLOURS[name], yerr=estimate.error, capsize=2, ecolor="gray")
    for name, colour in COLOURS.items():
        panel.bar([0.0], [0.0], color=colour, label=name)
    panel.axhline(0.0, color="black", linewidth=0.8)
    names = [short(targets, weight).replace("+", "\n").replace(" x ", " x\n") for targets, weight in LEARNED]
    panel.set_xticks(range(len(LEARNED)), names, fontsize="small")
    panel.set(title=f"gain in MAE, {NAMES[validation]}", ylabel="lower MAE (%)")
    panel.legend(frameon=False, fontsize="small")
