"""docs/forces.md says what the code does: settings and their defaults, outcomes, which models are smooth."""

from pathlib import Path

import pytest

from screening.models.potential_files import REFERENCED
from screening.models.registry import ARCHITECTURES
from screening.predictions import Target
from screening.relaxation.relax import Outcome
from screening.training.forces_config import ForcesSettings


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs/forces.md").read_text(encoding="utf-8")


def rows_after(page: str, header: str) -> list[list[str]]:
    """The cells of the table that begins with this header."""
    lines = page[page.index(header) :].splitlines()[2:]
    table = lines[: next(k for k, line in enumerate([*lines, ""]) if not line.startswith("|"))]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table]


def test_settings_and_defaults_are_those_of_the_code(page: str) -> None:
    drawn = {name: default for name, default, _ in rows_after(page, "| setting | default | meaning |")}
    assert drawn == {name: str(value) for name, value in ForcesSettings().model_dump().items()}


def test_outcomes_are_those_of_the_code(page: str) -> None:
    assert {row[0] for row in rows_after(page, "| outcome | when |")} == set(Outcome)


def test_the_energy_is_named(page: str) -> None:
    assert f"`{REFERENCED}`" in page


def test_smooth_models_are_those_of_the_table(page: str) -> None:
    target = (Target("referenced_energy_per_atom", "eV/atom"),)
    smooth = {row[0] for row in rows_after(page, "| architecture | smooth with |")} - {"others"}
    for name, kind in ARCHITECTURES.items():
        settings = {"max_neighbors": "all"} if name in smooth else {}
        made = kind(kind.settings_type.model_validate(settings), target)
        assert made.is_smooth == (name in smooth)
