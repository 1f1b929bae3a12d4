"""Tables of the documentation that tests compare with the code, each after a comment that says which."""


def rows_after(page: str, mark: str) -> list[list[str]]:
    """The cells of the table that follows a mark."""
    lines = page.split(f"<!-- {mark}:")[1].splitlines()[1:]
    table = lines[: next(k for k, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[2:]]
