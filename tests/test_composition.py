"""The guess from composition: against an additive law, with labels missing, and as what a training starts from."""

import torch

from screening.models.composition import best_guess
from screening.models.registry import build
from screening.predictions import Target


def law(crystals: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    fractions = torch.zeros(crystals, 119, dtype=torch.float64)
    fractions[:, 1:20] = torch.rand(crystals, 19, generator=draw, dtype=torch.float64) ** 4
    fractions /= fractions.sum(1, keepdim=True)
    terms = torch.randn(119, 2, generator=draw, dtype=torch.float64)
    return fractions, terms, fractions @ terms


def test_an_additive_law_is_found() -> None:
    fractions, terms, labels = law(20_000)
    found = best_guess(fractions, labels)
    torch.testing.assert_close(found[1:20], terms[1:20], rtol=0.02, atol=0.02)
    assert not found[20:].any()


def test_missing_labels_count_nowhere() -> None:
    fractions, _, labels = law(500)
    some = labels.clone()
    some[100:, 1] = float("nan")
    found = best_guess(fractions, some)
    torch.testing.assert_close(found[:, 0], best_guess(fractions, labels)[:, 0])
    torch.testing.assert_close(found[:, 1], best_guess(fractions[:100], labels[:100])[:, 1])


def test_a_model_starts_from_it_but_for_classes() -> None:
    targets = (Target("band_gap", "eV"), Target("is_metal", "1", "classification"))
    model = build("sieve", {"width": 4, "convolutions": 1}, targets)
    fractions, _, labels = law(50)
    model.start_from(fractions.float(), labels)
    torch.testing.assert_close(
        model.composition[:, 0].double(), best_guess(fractions, labels)[:, 0], atol=1e-5, rtol=1e-5
    )
    assert not model.composition[:, 1].any()
