"""Which of torch's functions give a row other bits in another batch, and how often: why ops/steady.py exists.

    .venv/bin/python experiments/steady_bits.py

Rows of random numbers go through each function whole and in parts; printed is the share of values that differ in a bit.
With 64 columns every part ends with a whole vector, with 61 it does not.
"""

import argparse
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from screening.ops import steady

ROWS = 1000
WIDTHS = (64, 61)
PARTS = (1, 2, 3, 5, 7, 12, 33, 100, 333, 999)

Function = Callable[[Tensor], Tensor]


def functions(width: int) -> dict[str, tuple[Function, Function | None]]:
    """Each function of torch, and ours of the same name."""
    weight = torch.randn(width, width)
    normal = torch.zeros(width), torch.ones(width)
    return {
        "linear": (lambda x: functional.linear(x, weight), lambda x: steady.linear(x, weight)),
        "softplus": (functional.softplus, steady.softplus),
        "sigmoid": (torch.sigmoid, steady.sigmoid),
        "silu": (functional.silu, steady.silu),
        "x ** 3": (lambda x: x**3, None),
        "x ** 6": (lambda x: x**6, None),
        "10 ** x": (lambda x: torch.pow(10.0, x), steady.power_of_ten),
        "exp": (torch.exp, None),
        "sqrt": (lambda x: torch.sqrt(x * x), None),
        "layer_norm": (lambda x: functional.layer_norm(x, (width,)), None),
        "batch_norm": (lambda x: functional.batch_norm(x, *normal), None),
    }


def changed(function: Function, rows: Tensor) -> float:
    """The share of values that a part of the batch gives other bits than the whole."""
    whole = function(rows)
    parts = [(function(part), whole[begin : begin + size]) for size in PARTS for begin, part in _parts(rows, size)]
    different = sum(int((one != other).sum()) for one, other in parts)
    return different / sum(one.numel() for one, _ in parts)


def _parts(rows: Tensor, size: int) -> list[tuple[int, Tensor]]:
    return [(begin, rows[begin : begin + size]) for begin in range(0, len(rows) - size + 1, size)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the shares."""
    argparse.ArgumentParser(description="Count the values that differ in a bit.").parse_args(arguments)
    torch.manual_seed(0)
    for width in WIDTHS:
        values = torch.randn(ROWS, width)
        print(f"{f'{width} columns':12} {'torch':>10} {'steady':>10}")
        for name, (theirs, ours) in functions(width).items():
            own = "" if ours is None else f"{changed(ours, values):10.2%}"
            print(f"{name:12} {changed(theirs, values):10.2%} {own}")


if __name__ == "__main__":
    main()
