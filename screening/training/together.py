"""Several processes that make each step together, by torch.distributed: NCCL between GPUs, gloo between processors.

Gradients are added by hand, in one piece, not by DistributedDataParallel. That averages over ranks where a loss over
the labels that are there must add; moments of batches and second derivatives are beyond it; and it sorts gradients into
buckets anew after the first step, so that a run that was continued would add in another order. A step here is: what the
loss's terms sum to, one small sum; moments, one small sum a layer, forward and backward; all gradients, one sum.

What ranks tell each other is numbers and JSON: nothing that arrives is unpickled.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.distributed.distributed_c10d import PrefixStore

from screening.arrays import Int64
from screening.errors import ScreeningError
from screening.models import across
from screening.training.labelled import LabelledGraphs
from screening.training.ranks import Alone, Ranks, balanced, flattened, spread

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


class PeersLostError(ScreeningError):
    """Another rank ended, or does not answer; which, and why, is for whoever started the ranks to find out."""


@dataclass(frozen=True, slots=True)
class Fence:
    """What keeps a process that was given up for dead from writing: a file that names the ranks that may."""

    path: Path
    token: str

    @classmethod
    def raised(cls, path: Path, token: str) -> "Fence":
        """Let ranks with this token write, and no others; tokens are of one length."""
        # In place, because another host sees that sooner than another file of that name.
        with path.open("r+b" if path.exists() else "wb") as file:
            file.write(token.encode())
            file.flush()
            os.fsync(file.fileno())
        return cls(path, token)

    def require(self) -> None:
        """Raise when other ranks have taken over."""
        try:
            found = self.path.read_text(encoding="utf-8")
        except OSError as error:
            raise ScreeningError(
                f"{self.path}: cannot be read ({error.strerror or error}); has the run ended?"
            ) from error
        if found != self.token:
            raise ScreeningError(f"{self.path.parent}: other ranks go on with this run; these end")


class FencedAlone(Alone):
    """One rank, which computes as a process without ranks does."""

    def __init__(self, fence: Fence) -> None:
        self._fence = fence

    def writes(self) -> bool:
        self._fence.require()
        return True


class Together(Ranks):
    """One of several ranks; the process group exists."""

    def __init__(self, fence: Fence) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self._fence = fence

    def writes(self) -> bool:
        if self.is_first:
            self._fence.require()
        return self.is_first

    def places(self, graphs: LabelledGraphs, rows: Int64) -> Int64:
        return balanced(graphs.atom_counts[rows], graphs.edge_counts[rows], self.size)[self.rank]

    def sharing(self, places: Int64, crystals: int, device: str) -> AbstractContextManager[None]:
        own = torch.from_numpy(places).to(device)
        return across.sharing(across.Share(self.rank, self.size, own, crystals, self.total))

    def total(self, values: Tensor) -> Tensor:
        summed = values.detach().clone(memory_format=torch.contiguous_format)
        with _peers_needed():
            distributed.all_reduce(summed)
        return summed

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        spread(self.total(flattened(parameters)), parameters)

    def told(self, content: bytes) -> bytes:
        length = torch.tensor([len(content) if self.is_first else 0])
        with _peers_needed():
            distributed.broadcast(length, 0)
            sent = _bytes_tensor(content) if self.is_first else torch.empty(int(length), dtype=torch.uint8)
            distributed.broadcast(sent, 0)
        return content if self.is_first else sent.numpy().tobytes()

    def joined(self, found: list[Any]) -> list[Any]:
        own = json.dumps(found).encode()
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(own)
        sizes = self.total(lengths).tolist()
        sent = torch.zeros(self.size, max(sizes), dtype=torch.uint8)
        sent[self.rank, : len(own)] = _bytes_tensor(own)
        each = self.total(sent).numpy()
        texts = [row[:size].tobytes() for row, size in zip(each, sizes, strict=True)]
        return [one for text in texts for one in json.loads(text)]


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where ranks find each other: the first one listens there, on an open socket where one is given.

    A rank that is silent for `silent_s` seconds where others wait for it is given up.
    """

    host: str
    port: int
    rank: int
    size: int
    token: str
    silent_s: float
    listening: int | None = None


@contextmanager
def gathered(meeting: Meeting, fence: Fence, *, device: str) -> Iterator[Ranks]:
    """Meet the other ranks, and part from them at the end of the block."""
    if meeting.size == 1:
        yield FencedAlone(fence)
        return
    patience = timedelta(seconds=meeting.silent_s)
    with _peers_needed():
        store = distributed.TCPStore(  # type: ignore[attr-defined]
            meeting.host,
            meeting.port,
            is_master=meeting.rank == 0,
            timeout=patience,
            wait_for_workers=False,
            master_listen_fd=meeting.listening,
        )
        distributed.init_process_group(
            BACKENDS[device],
            store=PrefixStore(meeting.token, store),
            rank=meeting.rank,
            world_size=meeting.size,
            timeout=patience,
        )
    yield Together(fence)
    distributed.destroy_process_group()


@contextmanager
def _peers_needed() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PeersLostError(str(error).strip().splitlines()[0]) from error


def _bytes_tensor(content: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())
