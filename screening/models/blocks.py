"""Whole crystals a few at a time, for models that hold numbers for every edge: their memory, and their caches."""

from collections.abc import Callable

import torch
from torch import Tensor

from screening.models.graph_tensors import GraphTensors

# Values of the largest tensor of a block. Smaller ones on the CPU prepare weights oftener than caches repay; a GPU
# wants much work at once.
CPU_VALUES, GPU_VALUES = 1 << 21, 1 << 27


def in_blocks(
    graph: GraphTensors, values: Tensor, encode: Callable[[GraphTensors], Tensor], *, limit: int | None = None
) -> Tensor:
    """Encode a batch some crystals at a time: at most `limit` values in each block, or a crystal of its own.

    `values` (crystals,): how many a crystal has in the largest tensor. For models in evaluation, where crystals do not
    see each other, so that blocks change no bit; a gradient would keep all blocks alive and gain nothing.
    """
    ends = _ends(values.tolist(), limit or (GPU_VALUES if values.is_cuda else CPU_VALUES))
    if not ends:
        return encode(graph)
    return torch.cat([encode(part) for part in graph.cut(ends)])


def worth_cutting(training: bool) -> bool:
    """Tell whether blocks are of use: in evaluation, unless gradients are recorded or the code is compiled."""
    return not (training or torch.is_grad_enabled() or torch.compiler.is_compiling())


def _ends(values: list[int], limit: int) -> list[int]:
    ends, held = [], 0
    for crystal, count in enumerate(values):
        if held and held + count > limit:
            ends.append(crystal)
            held = 0
        held += count
    return ends
