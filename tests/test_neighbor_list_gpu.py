"""The neighbour list on a GPU against the CPU twin, bit for bit; tests/test_cuda_twin.py has the same without a GPU."""

from typing import Any

import numpy as np
import pytest
from batches import Flat, assert_same_bits, killers, laid, random_cells

from screening.errors import InputError
from screening.ops import neighbors
from screening.ops.edges import EdgeArrays

pytestmark = pytest.mark.gpu

LIMITS: list[dict[str, Any]] = [
    {},
    {"max_neighbors": 1},
    {"max_neighbors": 12},
    {"max_neighbors": 12, "exact": True},
    {"max_neighbors": 40, "shell_tolerance": 0.0},
]


@pytest.fixture(scope="module")
def torch() -> Any:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch cannot use a CUDA device: torch.cuda.is_available() is False")
    return torch


def on_device(torch: Any, cells: Flat, device: str = "cuda") -> tuple[Any, ...]:
    return tuple(torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in cells.arrays())


def on_host(edges: EdgeArrays) -> EdgeArrays:
    return EdgeArrays(*(array.cpu().numpy() for array in edges))


def assert_same_as_cpu(torch: Any, cells: Flat, cutoff: float, limits: dict[str, Any]) -> None:
    ours = neighbors.neighbor_list(*on_device(torch, cells), cutoff=cutoff, **limits)
    assert_same_bits(on_host(ours), neighbors.neighbor_list(*cells.arrays(), cutoff=cutoff, **limits))


def supercell(spacing: float, side: int) -> Flat:
    points = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return laid([(spacing * points, spacing * side * np.eye(3), (True, True, True))])


@pytest.mark.parametrize("cutoff", [1.0, 3.0, 5.3])
@pytest.mark.parametrize("name", killers())
def test_killers_equal_the_cpu(torch: Any, name: str, cutoff: float) -> None:
    for limits in LIMITS:
        assert_same_as_cpu(torch, killers()[name], cutoff, limits)


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_many_crystals_equal_the_cpu(torch: Any, seed: int, limits: dict[str, Any]) -> None:
    assert_same_as_cpu(torch, random_cells(500, seed=seed, atoms=(1, 60), skew=0.3 * seed), 6.0, limits)


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("atoms", [3000, 30000])
def test_large_crystals_equal_the_cpu(torch: Any, atoms: int, limits: dict[str, Any]) -> None:
    assert_same_as_cpu(torch, random_cells(1, seed=1, atoms=(atoms, atoms), skew=0.3), 6.0, limits)


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_ties_equal_the_cpu(torch: Any, limits: dict[str, Any]) -> None:
    for side, cutoff in ((1, 9.0), (3, 6.0), (12, 4.0)):
        assert_same_as_cpu(torch, supercell(1.5, side), cutoff, limits)


def test_runs_repeat_to_the_last_bit(torch: Any) -> None:
    cells = on_device(torch, random_cells(200, seed=5))
    first = on_host(neighbors.neighbor_list(*cells, cutoff=6.0))
    for _ in range(5):
        assert_same_bits(on_host(neighbors.neighbor_list(*cells, cutoff=6.0)), first)


def test_another_stream_and_work_in_flight_change_nothing(torch: Any) -> None:
    cells = random_cells(100, seed=6)
    right = neighbors.neighbor_list(*cells.arrays(), cutoff=5.0)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        busy = torch.ones(4096, 4096, device="cuda")
        for _ in range(20):
            busy = (busy @ busy).clamp(max=1.0)
        # The positions exist only once the stream has come this far.
        positions, *rest = on_device(torch, cells)
        edges = neighbors.neighbor_list(positions + 0.0 * busy[0, 0], *rest, cutoff=5.0)
    stream.synchronize()
    assert_same_bits(on_host(edges), right)


def test_every_device_is_used_where_its_arrays_lie(torch: Any) -> None:
    cells = random_cells(10, seed=7)
    right = neighbors.neighbor_list(*cells.arrays(), cutoff=5.0)
    before = torch.cuda.current_device()
    for index in range(torch.cuda.device_count()):
        edges = neighbors.neighbor_list(*on_device(torch, cells, f"cuda:{index}"), cutoff=5.0)
        assert edges.edge_vector.device.index == index
        assert_same_bits(on_host(edges), right)
    assert torch.cuda.current_device() == before


def test_no_memory_is_kept_from_call_to_call(torch: Any) -> None:
    cells = on_device(torch, random_cells(300, seed=8))
    neighbors.neighbor_list(*cells, cutoff=6.0)
    torch.cuda.synchronize()
    free = torch.cuda.mem_get_info()[0]
    for _ in range(10):
        neighbors.neighbor_list(*cells, cutoff=6.0)
        torch.cuda.synchronize()
    assert free - torch.cuda.mem_get_info()[0] < 64 << 20


def test_an_unusable_crystal_is_named(torch: Any) -> None:
    cells = random_cells(4, seed=9)
    cells.lattice[2, 1] = cells.lattice[2, 0]
    with pytest.raises(
        InputError, match="no neighbour list: crystal 2: the periodic lattice vectors enclose no volume"
    ):
        neighbors.neighbor_list(*on_device(torch, cells), cutoff=5.0)


def test_rows_of_another_cutoff_are_refused(torch: Any) -> None:
    cells = on_device(torch, random_cells(4, seed=10))
    rows = neighbors.count_edges(*cells, cutoff=5.0)
    rows.row_cut.mul_(0.5)
    with pytest.raises(InputError, match="counted for other crystals or another cutoff"):
        neighbors.fill_edges(*cells, rows, cutoff=5.0)
