"""docs/screen.md says what the code does: its settings, its events, its numbers."""

import re
from pathlib import Path
from typing import Any

import pytest
from page_tables import rows_after
from pydantic import BaseModel

from screening.runs import claim
from screening.runs.config import ScreenConfig

ROOT = Path(__file__).resolve().parent.parent


WORDS = {None: "none", False: "false", True: "true"}


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs/screen.md").read_text(encoding="utf-8")


def settings(model: BaseModel, prefix: str = "") -> dict[str, str]:
    """Every key of a configuration with its default, as the page spells them."""
    found: dict[str, str] = {}
    for name in type(model).model_fields:
        value: Any = getattr(model, name)
        if isinstance(value, BaseModel):
            found |= settings(value, f"{prefix}{name}.")
        else:
            found[f"`{prefix}{name}`"] = f"`{value}`" if isinstance(value, str) else WORDS.get(value, str(value))
    return found


def test_the_table_of_settings_is_the_code(page: str) -> None:
    assert {row[0]: row[1] for row in rows_after(page, "settings")} == settings(ScreenConfig())


def test_the_table_of_events_is_what_is_told(page: str) -> None:
    listed = {name for row in rows_after(page, "events") for name in re.findall(r"`(\w+)`", row[0])}
    sources = [*(ROOT / "screening/runs").rglob("*.py"), ROOT / "screening/cli/screen.py"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    told = set(re.findall(r"\.tell\(\s*\"(\w+)\"", text))
    told |= set(re.findall(r"\.tell\(\"(\w+)\" if \w+ else \"\w+\"", text))
    told |= set(re.findall(r"\.tell\(\"\w+\" if \w+ else \"(\w+)\"", text))
    assert listed == told


def test_numbers_on_the_page_are_those_of_the_code(page: str) -> None:
    assert f"after {claim.PATIENCE_S:g} seconds without a sign" in page
