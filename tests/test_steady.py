"""The same bits wherever a row stands, and the right values and derivatives."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from screening.models.layers import Linear
from screening.ops import core, steady

FUNCTIONS = {
    "softplus": (steady.softplus, lambda x: torch.nn.functional.softplus(x, threshold=100.0)),
    "sigmoid": (steady.sigmoid, torch.sigmoid),
    "silu": (steady.silu, torch.nn.functional.silu),
    "power_of_ten": (steady.power_of_ten, lambda x: torch.pow(10.0, x)),
}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


pytestmark = pytest.mark.native


@pytest.fixture(params=[1, 2, 3], ids=lambda count: f"{count} threads")
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    core.set_threads(request.param)
    yield
    core.set_threads(None)


@pytest.fixture(params=core.simd_levels(), autouse=True)
def level(request: pytest.FixtureRequest) -> Iterator[None]:
    with core.forced_simd_level(request.param):
        yield


def normal(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(7))


@DTYPES
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_the_same_bits_everywhere(name: str, dtype: torch.dtype) -> None:
    function = FUNCTIONS[name][0]
    values = 3 * normal(400, dtype=dtype)
    whole = function(values)
    assert torch.equal(torch.cat([function(values[n : n + 1]) for n in range(400)]), whole)
    assert torch.equal(function(torch.stack([values, values], dim=1)[:, 0]), whole)
    with torch.no_grad():
        assert torch.equal(function(values), whole)
    torch.testing.assert_close(whole, FUNCTIONS[name][1](values))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_and_derivatives_stay_finite(name: str) -> None:
    values = torch.tensor([-1e4, -100.0, -80.0, 0.0, 30.0], requires_grad=True)
    (slopes,) = torch.autograd.grad(FUNCTIONS[name][0](values).sum(), values, create_graph=True)
    (curvatures,) = torch.autograd.grad(slopes.sum(), values)
    assert torch.isfinite(torch.stack([slopes, curvatures])).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_torchs_with_their_derivatives(name: str) -> None:
    ours, theirs = FUNCTIONS[name]
    values = torch.linspace(-30, 30, 301, dtype=torch.float64).requires_grad_()
    torch.testing.assert_close(ours(values), theirs(values), rtol=1e-13, atol=0)
    (mine,), (other,) = (torch.autograd.grad(f(values).sum(), values) for f in (ours, theirs))
    torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradgradcheck(ours, (values[::37].detach().requires_grad_() / 10,))


@DTYPES
@pytest.mark.parametrize(("columns", "outputs"), [(64, 128), (92, 64), (32, 3), (16, 1)])
def test_products_have_the_same_bits_in_every_batch(
    columns: int, outputs: int, dtype: torch.dtype, threads: None
) -> None:
    rows, weight, bias = (
        normal(700, columns, dtype=dtype),
        normal(outputs, columns, dtype=dtype),
        normal(outputs, dtype=dtype),
    )
    assert_same_in_parts(lambda part: steady.linear(part, weight, bias), rows)
    torch.testing.assert_close(steady.linear(rows, weight, bias), rows @ weight.T + bias)


def assert_same_in_parts(function: Callable[[Tensor], Tensor], rows: Tensor) -> None:
    """Assert that any run of rows alone gives the bits that it gives among all."""
    whole = function(rows)
    for count in (0, 1, 2, 3, 5, 8, 15, 16, 17, 33, 100, 257, 683):
        for start in (0, 3, 16, 17):
            assert torch.equal(function(rows[start : start + count]), whole[start : start + count]), (start, count)


def test_the_layer_is_torchs() -> None:
    torch.manual_seed(0)
    layer = Linear(6, 4)
    rows = torch.randn(5, 6)
    torch.testing.assert_close(layer(rows), torch.nn.functional.linear(rows, layer.weight, layer.bias))


@DTYPES
def test_functions_called_at_once_are_the_registered_operators(dtype: torch.dtype) -> None:
    operators = torch.ops.screening
    values, rows = (normal(*shape, dtype=dtype).requires_grad_() for shape in ((37,), (7, 5)))
    weight, bias = normal(3, 5, dtype=dtype).requires_grad_(), normal(3, dtype=dtype).requires_grad_()
    for mine, registered, inputs in (
        (steady.softplus, operators.softplus, [values]),
        (steady.sigmoid, operators.sigmoid, [values]),
        (steady.linear, operators.linear, [rows, weight, bias]),
    ):
        found, expected = mine(*inputs), registered(*inputs)
        assert torch.equal(found, expected)
        slopes = [torch.autograd.grad(one.square().sum(), inputs, create_graph=True) for one in (found, expected)]
        curves = [torch.autograd.grad(sum(one.square().sum() for one in each), inputs) for each in slopes]
        for ours, theirs in (*zip(*slopes, strict=True), *zip(*curves, strict=True)):
            assert torch.equal(ours, theirs)


def test_linear_works_out_only_the_derivatives_that_are_wanted() -> None:
    rows, weight = normal(4, 5, dtype=torch.float64), normal(3, 5, dtype=torch.float64)
    for wanted in ([True, False], [False, True]):
        given = [one.clone().requires_grad_(want) for one, want in zip((rows, weight), wanted, strict=True)]
        steady.linear(*given).sum().backward()
        assert [one.grad is not None for one in given] == wanted


def test_the_core_is_lent_the_memory_of_tensors_on_the_cpu() -> None:
    rows = torch.zeros(2, 3)
    lent, number = steady.lent((rows, 4))
    lent[1, 2] = 5
    assert rows[1, 2] == 5
    assert number == 4
    assert steady.lent(None) is None
