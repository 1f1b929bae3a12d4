"""Whether kernels can run on a GPU here: what tests marked gpu and benchmarks of kernels there ask first."""


def absence() -> str:
    """Say what is missing; empty when nothing is."""
    from screening.ops import core

    if not core.cuda_compiled():
        return "the native module was built without CUDA (nvcc not found, or CUDA=OFF)"
    if core.cuda_device_count() == 0:
        return "the native module sees no CUDA device"
    import torch

    if not torch.cuda.is_available():
        return f"torch sees no CUDA device (it was built for CUDA {torch.version.cuda or 'no version'})"
    return ""
