"""How operators on messages call the native core: tensors without gradients, contiguous, on the stream of their device.

Its neighbours register the operators; this module knows none of them.
"""

from typing import Any

from torch import Tensor

from screening.ops import core
from screening.ops.steady import kernel_for, lent, plain


def call(kernel: str, like: Tensor, **arrays: Any) -> None:
    """Call a kernel of the native core for tensors of the type and on the device of `like`."""
    function = kernel_for(kernel, like)
    given = {name: lent(array) for name, array in arrays.items()}
    with core.device_of(like), core.input_errors():
        function(**given, threads=core.thread_count(None), stream=core.stream_of(like))


def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Each of them `plain`."""
    return tuple(plain(tensor) for tensor in tensors)
