"""A model over a stream of crystals: batches of graphs in, predictions out, in the order of the crystals."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal
from screening.crystals.together import together
from screening.errors import InputError
from screening.graphs import Graphs, graph_batches
from screening.models.graph_tensors import GraphTensors
from screening.models.model import CrystalModel
from screening.ops import core
from screening.predictions import Predictions

Item = TypeVar("Item")
Result = TypeVar("Result")

# Larger batches leave the cache, smaller ones pay more for what a batch costs.
MAX_EDGES = 120_000
MAX_ATOMS = 10_000


def predict(
    model: CrystalModel,
    crystals: Crystals | Iterable[Crystals | Crystal],
    *,
    max_edges: int = MAX_EDGES,
    max_atoms: int = MAX_ATOMS,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    embeddings: bool = False,
) -> Iterator[Predictions]:
    """Predict a stream of crystals, one result for each batch of at most so many edges and atoms.

    The stream is of single crystals, or of many at a time, as readers of files give them, which is faster.
    The model is moved to the device and set to evaluation mode, and stays so. Memory use depends on the budget,
    not on the length of the stream. On the CPU each of `threads` threads takes whole batches, which changes no bit
    of a result; a crystal larger than the budget is a batch of its own. With `embeddings` it gives these too.

    >>> for part in predict(model, packed.batches(), device="cuda"):
    ...     print(part.ids, part.values["band_gap"])
    """
    if not isinstance(model, CrystalModel):
        raise InputError(f"predict takes a model, got {model!r}: screening.load_model gives one by its name or file")
    place = usable_device(device)
    model.to(place).eval()
    count = core.thread_count(threads)
    pieces = (piece for batch in together(crystals, taker="predict") for piece in batch.cut(max_atoms))
    work = partial(_predicted, model, max_edges=max_edges, max_atoms=max_atoms, embeddings=embeddings)
    if place.type != "cpu" or count == 1:
        for piece in pieces:
            yield from work(piece)
        return
    pool = ThreadPoolExecutor(count, thread_name_prefix="predict", initializer=work_alone)
    try:
        for found in in_order(pool, work, pieces, ahead=2 * count):
            yield from found
    finally:
        # They end by themselves, see `prefetched`.
        pool.shutdown(wait=False, cancel_futures=True)


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], *, ahead: int
) -> Iterator[Result]:
    """Do work on items in a pool, at most so many ahead of what is asked for; give results in the order of items."""
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def work_alone() -> None:
    """Let this thread, which has whole batches to itself, share none of them."""
    core.set_threads_here(1)
    torch.set_num_threads(1)


def _predicted(
    model: CrystalModel, crystals: Crystals, *, max_edges: int, max_atoms: int, embeddings: bool
) -> list[Predictions]:
    batches = graph_batches([crystals], model.neighbors, max_edges=max_edges, max_atoms=max_atoms)
    return [predict_graphs(model, graphs, embeddings=embeddings) for graphs in batches]


@torch.inference_mode()
def predict_graphs(model: CrystalModel, graphs: Graphs, *, embeddings: bool = False) -> Predictions:
    """Predict one batch of graphs on the device where the model is, with embeddings if they are asked for."""
    if graphs.neighbors != model.neighbors:
        raise InputError(
            f"the graphs have {graphs.neighbors.words}, but the model was trained on {model.neighbors.words}"
        )
    tensors = GraphTensors.of(graphs, device=model.device, dtype=model.dtype)
    atoms = model.encode(tensors)
    values = model.in_units(model.readout(atoms, tensors))
    columns = torch.stack([values[target.name] for target in model.targets], dim=1).cpu().numpy()
    return Predictions(
        ids=graphs.crystals.ids,
        targets=model.targets,
        values={target.name: columns[:, t].copy() for t, target in enumerate(model.targets)},
        embedding=model.embed(atoms, tensors).float().cpu().numpy() if embeddings else None,
    )


def usable_device(name: torch.device | str) -> torch.device:
    """Turn a name such as `cpu` or `cuda:1` into a device that is there."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"there is no device {str(name)!r}; expected cpu, cuda, or cuda with a number") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {str(name)!r} was asked for, and there are {torch.cuda.device_count()} CUDA devices that torch "
            "can use; see `screening doctor`, or use cpu"
        )
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {str(name)!r} is not supported; use cpu or cuda")
    return device
