"""Tables of the documentation that tests compare with the code, each after a comment that says which."""

from typing import Any

from pydantic import BaseModel

WORDS = {"": "empty", "None": "none", "True": "true", "False": "false"}


def rows_after(page: str, mark: str) -> list[list[str]]:
    """The cells of the table that follows a mark."""
    lines = page.split(f"<!-- {mark}:")[1].splitlines()[1:]
    table = lines[: next(k for k, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[2:]]


def defaults(kind: type[BaseModel], prefix: str) -> dict[str, str]:
    """Every key of a configuration with its default, as pages spell them."""
    found: dict[str, str] = {}
    for name, field in kind.model_fields.items():
        value: Any = field.get_default(call_default_factory=True)
        if isinstance(value, BaseModel):
            found |= defaults(type(value), f"{prefix}{name}.")
        else:
            shown = "required" if field.is_required() else str(list(value) if isinstance(value, tuple) else value)
            found[f"`{prefix}{name}`"] = WORDS.get(shown, shown)
    return found
