"""A model over a stream of crystals: batches of graphs in, predictions out, in the order of the crystals."""

from collections.abc import Iterable, Iterator

import torch

from screening.crystals.batch import Crystals
from screening.errors import InputError
from screening.graphs import Graphs, graph_batches
from screening.models.graph_tensors import GraphTensors
from screening.models.model import CrystalModel
from screening.predictions import Predictions

MAX_EDGES = 200_000
MAX_ATOMS = 20_000


def predict(
    model: CrystalModel,
    crystals: Iterable[Crystals],
    *,
    max_edges: int = MAX_EDGES,
    max_atoms: int = MAX_ATOMS,
    device: torch.device | str = "cpu",
    threads: int | None = None,
) -> Iterator[Predictions]:
    """Predict a stream of crystals, one result for each batch of at most so many edges and atoms.

    The model is moved to the device and set to evaluation mode, and stays so. Memory use depends on the budget,
    not on the length of the stream.

    >>> for part in predict(model, packed_batches("crystals.h5"), device="cuda"):
    ...     print(part.ids, part.values["band_gap"])
    """
    place = usable_device(device)
    model.to(place).eval()
    for graphs in graph_batches(crystals, model.neighbors, max_edges=max_edges, max_atoms=max_atoms, threads=threads):
        yield predict_graphs(model, graphs)


@torch.inference_mode()
def predict_graphs(model: CrystalModel, graphs: Graphs) -> Predictions:
    """Predict one batch of graphs on the device where the model is."""
    if graphs.neighbors != model.neighbors:
        raise InputError(f"the graphs have {graphs.neighbors}, but the model was trained on {model.neighbors}")
    values = model.predict(GraphTensors.of(graphs, device=model.device, dtype=model.dtype))
    columns = torch.stack([values[target.name] for target in model.targets], dim=1).cpu().numpy()
    return Predictions(
        ids=graphs.crystals.ids,
        targets=model.targets,
        values={target.name: columns[:, t].copy() for t, target in enumerate(model.targets)},
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
