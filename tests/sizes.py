"""Settings that make an architecture small: not all call the same things by the same names."""

from typing import Any


def small(architecture: str, *, width: int = 8, hidden: int = 6, hidden_layers: int = 1) -> dict[str, Any]:
    """Settings of two convolutions and heads of this size; ALIGNN, as published, has heads without a hidden layer."""
    if architecture == "alignn":
        return {"width": width, "convolutions": 2, "graph_convolutions": 1, "embedding": hidden}
    return {"width": width, "convolutions": 2, "hidden": hidden, "hidden_layers": hidden_layers}
