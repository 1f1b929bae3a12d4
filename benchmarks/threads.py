"""Who gets the threads: native calls in training of ours, torch in codes of others, so that each is at its best."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from screening.ops import core

P = ParamSpec("P")
T = TypeVar("T")


def as_we_do(threads: int, act: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """Act as `screening train` does: all threads to native calls, one to torch."""
    torch.set_num_threads(1)
    with core.using_threads(threads):
        return act(*given, **named)


def as_torch_does(threads: int, act: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """Act with all threads for torch."""
    torch.set_num_threads(threads)
    return act(*given, **named)


def in_words(threads: int) -> str:
    """Such as 2 threads."""
    return f"{threads} thread{'s' * (threads > 1)}"
