"""Memory of large results is handed out again, and never to two owners."""

from itertools import pairwise

import numpy as np
import pytest
from batches import random_cells

from screening import _core
from screening.ops import neighbors

pytestmark = pytest.mark.native

MIB = 1 << 20


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_a_freed_block_comes_back_to_the_next_of_its_size():
    block = _core.block(5 * MIB)
    first = address(block)
    block[:] = 7
    del block
    assert address(_core.block(5 * MIB - 100)) == first


def test_a_view_keeps_its_block():
    block = _core.block(3 * MIB)
    view = block[MIB:].view(np.float64)
    view[:] = 1.5
    first = address(block)
    del block
    others = [_core.block(3 * MIB) for _ in range(4)]
    for other in others:
        other[:] = 255
        assert address(other) != first
    assert np.all(view == 1.5)


@pytest.mark.parametrize("size", [0, 1, 48, 4095, 4097, MIB + 1, 9 * MIB])
def test_blocks_are_as_long_as_asked_and_aligned(size):
    block = _core.block(size)
    assert block.dtype == np.uint8
    assert block.shape == (size,)
    assert address(block) % 64 == 0
    block[:] = 1


def test_live_blocks_never_overlap():
    rng = np.random.default_rng(0)
    live: list[np.ndarray] = []
    for step in range(400):
        if live and rng.random() < 0.5:
            live.pop(int(rng.integers(len(live))))
        live.append(_core.block(int(rng.integers(1, 2 * MIB))))
        live[-1][:1] = step % 251
        spans = sorted((address(block), address(block) + len(block)) for block in live)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_lists_that_live_side_by_side_keep_their_edges():
    batches = [random_cells(30, seed=seed, atoms=(4, 20), skew=0.5).arrays() for seed in range(3)]
    kept = [neighbors.neighbor_list(*batch, cutoff=6.0) for batch in batches]
    copies = [[np.array(array) for array in found] for found in kept]
    for _ in range(3):
        for batch in batches:
            neighbors.neighbor_list(*batch, cutoff=6.0)
    for found, copy in zip(kept, copies, strict=True):
        for array, before in zip(found, copy, strict=True):
            assert np.array_equal(array, before)


def test_too_large_a_block_is_a_memory_error():
    with pytest.raises(MemoryError):
        _core.block(1 << 60)
