"""Tables whose columns sort when their heads are pressed, by a few lines of script in the page."""

from collections.abc import Sequence

from screening.report.markup import Content, Markup, element

# What to sort by, None for the text itself, and what to show.
Cell = tuple[float | None, Content]


def sortable_table(head: Sequence[Content], rows: Sequence[Sequence[Cell]], *, caption: str | None = None) -> Markup:
    """A table that scrolls sideways where it is too wide; cells with a number stand on the right."""
    heads = [element("th", element("button", cell, type="button"), scope="col") for cell in head]
    body = [element("tr", [_cell(cell) for cell in row]) for row in rows]
    table = element(
        "table",
        element("caption", caption) if caption else None,
        element("thead", element("tr", heads)),
        element("tbody", body),
        class_="sortable",
    )
    return element("div", table, class_="scroll")


def plain_table(head: Sequence[Content], rows: Sequence[Sequence[Content]], *, numbers_from: int = 1) -> Markup:
    """A table of few rows whose first column names them; columns from `numbers_from` on stand on the right."""
    heads = [
        element("th", cell, scope="col", class_="number" if k >= numbers_from else None) for k, cell in enumerate(head)
    ]
    body = []
    for row in rows:
        first = element("th", row[0], scope="row")
        rest = [element("td", c, class_="number" if k >= numbers_from else None) for k, c in enumerate(row[1:], 1)]
        body.append(element("tr", first, rest))
    table = element("table", element("thead", element("tr", heads)) if any(head) else None, element("tbody", body))
    return element("div", table, class_="scroll")


def _cell(cell: Cell) -> Markup:
    key, content = cell
    if key is None:
        return element("td", content)
    return element("td", content, data_key=f"{key:.9g}", class_="number")
