"""What composition alone says of a target: one term per element, averaged over the atoms of a crystal."""

import torch
from torch import Tensor

# Crystals of an element that it takes to believe in its term; labels are of deviation 1.
CAUTION = 1.0


def best_guess(fractions: Tensor, learned: Tensor) -> Tensor:
    """Fit a term for each element and target, (elements + 1, targets), by ridge regression.

    `fractions` (crystals, elements + 1): the part of a crystal's atoms that each atomic number has; `learned`
    (crystals, targets): NaN where a label is missing, which counts nowhere. An element that never occurs has 0.
    """
    rows = fractions.double()
    found = rows.new_zeros(rows.shape[1], learned.shape[1])
    caution = CAUTION * torch.eye(rows.shape[1], dtype=rows.dtype)
    for t, labels in enumerate(learned.double().unbind(1)):
        present = ~labels.isnan()
        some = rows[present]
        found[:, t] = torch.linalg.solve(some.T @ some + caution, some.T @ labels[present])
    return found
