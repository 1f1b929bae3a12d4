"""The model in a worker process: crystals in, a column per target out. Loads torch; workers alone import it."""

import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch

from screening.arrays import Float64
from screening.crystals.batch import Crystals
from screening.errors import ResourceError
from screening.graphs import Graphs, graph_batches, pack_graphs
from screening.inference import predict_graphs, usable_device, work_alone
from screening.machine import keep_freed_memory
from screening.models.checkpoint import load
from screening.models.model import CrystalModel
from screening.ops import core
from screening.predictions import Target
from screening.runs.isolate import BrokenWorkerError, is_out_of_memory
from screening.runs.stages import Stages

# One batch is at the model, the graphs of the next are made meanwhile.
GPU_THREADS = 2


class ModelPredictor:
    """A model on a device, called with crystals from any thread of its `pool`; they may be more than fit one batch.

    On the CPU each of `threads` threads takes whole batches, which changes no bit. A GPU is driven by two, each on a
    stream of its own: one makes graphs there while the model is at the other's. The model is at one batch at a time.
    """

    def __init__(
        self,
        model: CrystalModel,
        *,
        device: torch.device | str = "cpu",
        threads: int | None = None,
        max_atoms: int,
        max_edges: int,
        embeddings: bool = False,
    ) -> None:
        self.device = usable_device(device)
        self.model = model.to(self.device).eval()
        self.targets: tuple[Target, ...] = model.targets
        self.embedding = model.width if embeddings else 0
        self.max_atoms, self.max_edges = max_atoms, max_edges
        on_cpu = self.device.type == "cpu"
        self._turn: AbstractContextManager[object] = nullcontext() if on_cpu else threading.Lock()
        self._here = threading.local()
        if not on_cpu:
            # Other streams do not wait for the one that brings the weights.
            torch.cuda.synchronize(self.device)
        keep_freed_memory()
        count = core.thread_count(threads) if on_cpu else GPU_THREADS
        self.pool = ThreadPoolExecutor(count, thread_name_prefix="predict", initializer=work_alone)

    @classmethod
    def load(
        cls, path: Path, *, device: str, threads: int | None, max_atoms: int, max_edges: int, embeddings: bool = False
    ) -> "ModelPredictor":
        """Load a model file onto a device."""
        model, _ = load(path, device=usable_device(device))
        return cls(
            model, device=device, threads=threads, max_atoms=max_atoms, max_edges=max_edges, embeddings=embeddings
        )

    def __call__(self, crystals: Crystals, stages: Stages) -> Float64:
        """Predict, (crystals, targets and embedding)."""
        try:
            with self._streamed():
                parts = [self._columns(graphs, stages) for graphs in self._graphs(crystals, stages)]
        except (RuntimeError, ResourceError) as error:
            recover(self.device, error)
            raise
        return np.concatenate(parts)

    def shrink(self, atoms: int) -> None:
        """Be given at most so many atoms at once from now on: what did not fit is not tried with every batch."""
        self.max_atoms = max(1, min(self.max_atoms, atoms))

    def close(self) -> None:
        """Let the threads go, without waiting for any of them, and the memory of a GPU."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        if self.device.type != "cpu":
            self.model.to("cpu")
            torch.cuda.empty_cache()

    @contextmanager
    def _streamed(self) -> Iterator[None]:
        """On a GPU, give this thread a stream of its own."""
        if self.device.type == "cpu":
            yield
            return
        if not hasattr(self._here, "stream"):
            self._here.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._here.stream):
            yield

    def _graphs(self, crystals: Crystals, stages: Stages) -> Iterator[Graphs]:
        if self.device.type != "cpu":
            with self._timed(stages, "graphs"):
                graphs = pack_graphs(crystals, self.model.neighbors, device=str(self.device))
            yield graphs
            return
        batches = graph_batches(
            [crystals], self.model.neighbors, max_edges=self.max_edges, max_atoms=self.max_atoms, threads=1
        )
        while True:
            with self._timed(stages, "graphs"):
                found = next(batches, None)
            if found is None:
                return
            yield found

    def _columns(self, graphs: Graphs, stages: Stages) -> Float64:
        with self._turn, self._timed(stages, "model"):
            found = predict_graphs(self.model, graphs, embeddings=self.embedding > 0)
        columns = np.stack([found.values[target.name] for target in self.targets], axis=1)
        return columns if found.embedding is None else np.concatenate([columns, found.embedding], axis=1)

    @contextmanager
    def _timed(self, stages: Stages, stage: str) -> Iterator[None]:
        with stages.timed(stage):
            yield
            if self.device.type != "cpu":
                self._here.stream.synchronize()


def recover(device: torch.device, error: Exception) -> None:
    """Make room on a GPU that was full; tell a device that works no more from a crystal that fails there."""
    if device.type == "cpu":
        return
    try:
        torch.cuda.synchronize(device)
        if is_out_of_memory(error):
            traceback.clear_frames(error.__traceback__)
            torch.cuda.empty_cache()
    except RuntimeError as broken:
        raise BrokenWorkerError(f"the device {device} works no more: {broken}") from error
