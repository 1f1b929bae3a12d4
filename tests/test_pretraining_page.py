"""docs/pretraining.md says what the code does: its settings and metrics; the examples can be loaded."""

import re
from pathlib import Path

import pytest
from page_tables import defaults, rows_after

from screening import config
from screening.training.config import InitSettings, TrainingConfig
from screening.training.distillation_config import DistillationConfig, DistillationSettings, PredictionSettings
from screening.training.objectives import aspects
from screening.training.pretraining_config import ObjectivesSettings, PretrainingConfig

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs/pretraining.md").read_text(encoding="utf-8")


def test_the_tables_of_settings_are_the_code(page: str) -> None:
    def shown(mark: str) -> dict[str, str]:
        return {row[0]: row[1].strip() for row in rows_after(page, mark)}

    assert shown("pretraining") == defaults(ObjectivesSettings, "objectives.")
    assert shown("init") == defaults(InitSettings, "init.")
    own = set(DistillationConfig.model_fields) - set(TrainingConfig.model_fields)
    assert own == {"distillation", "predictions", "cache"}
    right = defaults(DistillationSettings, "distillation.") | defaults(PredictionSettings, "predictions.")
    assert shown("distillation") == right | {"`cache`": "none", "`init`": "none"}


def test_the_metrics_are_those_of_the_code(page: str) -> None:
    kinds = (aspects.NodeFeatures, aspects.Connectivity, aspects.SpaceGroup, aspects.Contrast)
    right = {f"{kind.name}.{metric}" for kind in kinds for metric in kind.metrics}
    assert {name for row in rows_after(page, "metrics") for name in re.findall(r"`([\w.]+)`", row[0])} == right


def test_the_examples_are_configurations() -> None:
    pretraining = config.load(PretrainingConfig, ROOT / "examples/crysgnn.toml")
    # As published, but for the mask.
    assert (pretraining.model.settings["width"], pretraining.model.settings["convolutions"]) == (64, 5)
    assert set(ObjectivesSettings().model_dump()) == set(pretraining.objectives.model_dump())
    assert config.load(DistillationConfig, ROOT / "examples/distil.toml").distillation is not None
