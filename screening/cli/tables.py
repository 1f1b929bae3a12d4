"""Metrics as a table in plain text."""

from collections.abc import Mapping, Sequence

COLUMNS = ("count", "mae", "rmse", "r2", "spearman", "auc", "accuracy", "mae_log10")


def metrics_table(found: Mapping[str, Mapping[str, float | None]], units: Mapping[str, str]) -> str:
    """Lay out metrics by target, a column for each that some target has."""
    columns = [name for name in COLUMNS if any(name in metrics for metrics in found.values())]
    rows = [
        [name, units.get(name, ""), *(_cell(metrics, column) for column in columns)] for name, metrics in found.items()
    ]
    return aligned([["target", "unit", *columns], *rows])


def potential_table(found: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> str:
    """Lay out errors of a potential, a row for each of what they are of."""
    terms = list(next(iter(found.values())))
    columns = [(term, column) for term in terms for column in ("count", "mae", "rmse")]
    rows = [[name, *(_cell(own[term], column) for term, column in columns)] for name, own in found.items()]
    return aligned([["of", *(f"{term} {column}" for term, column in columns)], *rows])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows in columns, each as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _cell(metrics: Mapping[str, float | None], column: str) -> str:
    value = metrics.get(column)
    if value is None:
        return "-"
    return f"{value:,.0f}" if column == "count" else f"{value:.4f}"
