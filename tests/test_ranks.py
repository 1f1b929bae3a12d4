"""Ranks together are one learner: the same gradients, moments, random numbers and losses, whatever the division."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranked
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from screening.errors import InputError, ScreeningError
from screening.models import across, registry
from screening.training.ranks import balanced, flattened, require_shareable, spread
from screening.training.together import Fence, PeersLostError

ARCHITECTURES = sorted(registry.ARCHITECTURES)
TOLERANCES = {"float32": 1e-6, "float64": 1e-12}
# Batch normalisation over few atoms, or over scores that hardly differ, magnifies what rounding differs by; float64
# tells that from a mistake.
MAGNIFIED = {"float32": 5e-5, "float64": 1e-12}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of three ranks says of gradients by all together and by itself."""
    return ranked.of_ranks(3, tmp_path_factory.mktemp("ranks"), ranked.compared, ARCHITECTURES)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ranks_give_the_gradient_of_one_process(found: list[dict[str, Any]], architecture: str, dtype: str) -> None:
    together, alone = found[0][f"{architecture} {dtype}"]
    for rows, ours, right in zip(ranked.BATCHES, together, alone, strict=True):
        for key in ("loss", "gradient"):
            off = np.linalg.norm(ours[key] - right[key]) / np.linalg.norm(right[key])
            magnified = architecture == "gatgnn" or (architecture in ("alignn", "cgcnn") and len(rows) == 1)
            assert off < (MAGNIFIED if magnified and key == "gradient" else TOLERANCES)[dtype], key


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_running_moments_are_those_of_the_whole_batch(
    found: list[dict[str, Any]], architecture: str, dtype: str
) -> None:
    together, alone = found[0][f"{architecture} {dtype}"]
    names = [name for name in alone[0] if "running" in name]
    assert names or architecture == "equivariant_transformer", "which normalises each atom by itself"
    for ours, right in zip(together, alone, strict=True):
        for name in names:
            assert ours[name] == pytest.approx(right[name], rel=5 * TOLERANCES[dtype], abs=TOLERANCES[dtype])


def test_all_ranks_have_the_same_bits(found: list[dict[str, Any]]) -> None:
    for architecture in ARCHITECTURES:
        for dtype in TOLERANCES:
            first, *others = (one[f"{architecture} {dtype}"][0] for one in found)
            for other in others:
                for ours, theirs in zip(first, other, strict=True):
                    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)


@given(
    atoms=st.lists(st.integers(1, 60), min_size=1, max_size=80),
    parts=st.integers(1, 9),
    edges=st.integers(1, 20),
)
def test_parts_are_balanced_and_hold_every_crystal_once(atoms: list[int], parts: int, edges: int) -> None:
    counts = np.array(atoms)
    found = balanced(counts, counts * edges, parts)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(atoms)))
    assert all((np.diff(part) > 0).all() for part in found)
    loads = [int(counts[part].sum()) for part in found]
    assert max(loads) - min(loads) <= counts.max()


def test_parts_weigh_edges_as_well_as_atoms() -> None:
    # Two crystals of many atoms without edges, two of few atoms with many: one of each kind on either side.
    first, second = balanced(np.array([50, 50, 1, 1]), np.array([0, 0, 900, 900]), 2)
    assert {tuple(sorted(part.tolist())) for part in (first, second)} in ({(0, 2), (1, 3)}, {(0, 3), (1, 2)})
    assert [len(part) for part in balanced(np.array([3]), np.array([9]), 3)] == [1, 0, 0]


def test_gradients_survive_being_laid_end_to_end() -> None:
    parameters = [nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(()))]
    parameters[0].grad, parameters[2].grad = torch.arange(6.0).view(2, 3), torch.tensor(7.0)
    flat = flattened(parameters)
    spread(2 * flat, parameters)
    assert parameters[0].grad.tolist() == [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]
    assert parameters[1].grad is None
    assert parameters[2].grad.item() == 14.0


def test_a_model_that_sees_only_its_part_of_a_batch_is_refused() -> None:
    model = ranked.new_model("cgcnn")
    require_shareable(model, "cgcnn")
    model.extra = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(InputError, match=r"cgcnn: extra\.1 is a BatchNorm1d, which would see one rank's part"):
        require_shareable(model, "cgcnn")


def test_sums_over_ranks_can_be_differentiated_twice() -> None:
    # Three ranks that hold the same x: the sum is 3 x^3, and what all three make of it 9 x^6 each.
    share = across.Share(0, 3, torch.arange(2), 6, lambda values: 3 * values)
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    with across.sharing(share):
        assert across.is_shared()
        y = across.total(x**3).square().sum()
    assert not across.is_shared()
    (slope,) = torch.autograd.grad(y, x, create_graph=True)
    assert slope.tolist() == [54.0, 54.0 * 2**5]
    (curve,) = torch.autograd.grad(slope.sum(), x)
    assert curve.tolist() == [270.0, 270.0 * 2**4]


def test_a_fence_lets_the_last_ranks_write_only(tmp_path: Path) -> None:
    first = Fence.raised(tmp_path / "ranks", "a" * 32)
    first.require()
    second = Fence.raised(tmp_path / "ranks", "b" * 32)
    second.require()
    with pytest.raises(ScreeningError, match="other ranks go on with this run; these end"):
        first.require()
    (tmp_path / "ranks").unlink()
    with pytest.raises(ScreeningError, match="cannot be read"):
        second.require()


def test_ranks_tell_each_other_bytes_and_lists(found: list[dict[str, Any]]) -> None:
    heard = [b"of 0".hex(), "", [[0], [1, "b"], [2, "b"]], 3e6]
    assert [one["talked"] for one in found] == [heard, heard, heard]


def test_a_frozen_rank_is_given_up(tmp_path: Path) -> None:
    with ranked.Crew(2, tmp_path, ranked.frozen, silent_s=2.0) as crew:
        assert isinstance(crew.result(1), PeersLostError)
