"""docs/training.md says what the code does: the settings of a run and of every architecture."""

import re
from pathlib import Path
from typing import Any

import pytest
from page_tables import defaults, rows_after

from screening.models.registry import ARCHITECTURES
from screening.training.config import InitSettings, TargetSettings, TrainingConfig


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs/training.md").read_text(encoding="utf-8")


def test_the_table_of_settings_is_the_code(page: str) -> None:
    shown = {row[0]: row[1].strip() for row in rows_after(page, "training")}
    fields = TrainingConfig.model_fields
    right: dict[str, str] = {}
    for section in ("data", "model", "training", "card"):
        kind: Any = fields[section].annotation
        right |= defaults(kind, f"{section}.")
    right |= defaults(TargetSettings, "targets.NAME.")
    assert shown == right
    # What is left is in docs/pretraining.md.
    assert set(fields) == {"data", "model", "training", "card", "targets", "init"}
    assert fields["init"].annotation == InitSettings | None


def test_the_table_of_architectures_is_the_registry(page: str) -> None:
    shown = {row[0].strip("`"): re.findall(r"`(\w+) = ([^`]+)`", row[2]) for row in rows_after(page, "architectures")}
    right = {
        name: [
            (key, f'"{field.default}"' if isinstance(field.default, str) else str(field.default))
            for key, field in kind.settings_type.model_fields.items()
        ]
        for name, kind in ARCHITECTURES.items()
    }
    assert shown == right
