"""Functions of the native core as torch operators on the CPU: registered, and for tensors that hold numbers at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_CONCRETE = (Tensor, torch.nn.Parameter)


def operator(
    name: str,
    run: Callable[..., Any],
    *,
    fake: Callable[..., Any],
    save: Callable[[Any, tuple[Any, ...], Any], None],
    differentiate: Callable[..., Any],
) -> Callable[..., Any]:
    """Make an operator that computes by `run` and whose derivative is `differentiate`.

    What is traced or compiled needs it in torch's registry, with a `fake` that gives shapes alone. Otherwise the
    registry costs more than a small product itself: 80 microseconds a call instead of 30, with its derivative 320
    instead of 150, so tensors that hold numbers do not go through it.
    """
    registered = torch.library.custom_op(f"screening::{name}", run, mutates_args=())
    registered.register_fake(fake)
    registered.register_autograd(differentiate, setup_context=save)
    at_once = _at_once(run, save, differentiate)

    def act(*inputs: Any) -> Any:
        if not _are_concrete(inputs):
            return registered(*inputs)
        return at_once(*inputs) if torch.is_grad_enabled() else run(*inputs)

    return act


def _at_once(run: Callable[..., Any], save: Callable[..., None], differentiate: Callable[..., Any]) -> Any:
    def forward(ctx: Any, *inputs: Any) -> Any:
        result = run(*inputs)
        save(ctx, inputs, result)
        return result

    # A `setup_context` of its own would make torch look at the signature in every call.
    parts = {"forward": staticmethod(forward), "backward": staticmethod(differentiate)}
    made: Any = type(run.__name__, (torch.autograd.Function,), parts)
    return made.apply


def _are_concrete(inputs: tuple[Any, ...]) -> bool:
    """Tell tensors that hold numbers from those that stand for them while torch traces or compiles."""
    return not torch.compiler.is_compiling() and all(
        type(one) in _CONCRETE for one in inputs if isinstance(one, Tensor)
    )
