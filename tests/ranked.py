"""Ranks in processes of their own on this machine, and what they compute; spawned processes import this module."""

import multiprocessing
import os
import signal
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made import PERIODIC_KINDS, made_crystals
from patience import PATIENCE
from sizes import small
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from screening.crystals.batch import Crystals
from screening.models.model import CrystalModel
from screening.models.registry import build
from screening.predictions import Target
from screening.training.config import LossName
from screening.training.gradient import differentiate, whole_loss
from screening.training.labelled import LabelledGraphs
from screening.training.loop import Task
from screening.training.losses import TargetLoss, masked_sums
from screening.training.normalise import Normaliser
from screening.training.objectives.properties import Properties
from screening.training.ranks import ALONE, Ranks, flattened
from screening.training.splits import Split
from screening.training.together import Fence, Meeting, gathered

TARGETS = (Target("formation_energy_per_atom", "eV/atom"), Target("is_metal", "1", "classification"))
LOSSES = [TargetLoss(LossName.MSE), TargetLoss(LossName.BCE, weight=0.5)]

Body = Callable[..., Any]


class Crew:
    """Some ranks at work on `body(ranks, folder, *arguments)`; a context manager that ends what is left of them."""

    def __init__(self, size: int, folder: Path, body: Body, *arguments: Any, silent_s: float = 60.0) -> None:
        context = multiprocessing.get_context("spawn")
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        folder.mkdir(exist_ok=True)
        token = uuid.uuid4().hex
        Fence.raised(folder / "ranks", token)
        self._exits = ExitStack()
        self.processes, self._pipes = [], []
        with listening:
            for rank in range(size):
                ours, theirs = context.Pipe()
                # Only the first one's process may hold the listening socket, and it is sent as an object for that.
                meeting = Meeting("127.0.0.1", port, rank, size, token, silent_s)
                given = listening if rank == 0 else None
                process = context.Process(target=_rank, args=(meeting, given, theirs, folder, body, arguments))
                process.start()
                self.processes.append(process)
                self._pipes.append(ours)
                theirs.close()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    def result(self, rank: int, timeout: float = 200.0) -> Any:
        """What a rank returned, or the exception that ended it."""
        assert self._pipes[rank].poll(timeout * PATIENCE), "a rank hangs"
        return self._pipes[rank].recv()


def of_ranks(size: int, folder: Path, body: Body, *arguments: Any) -> list[Any]:
    """What each of some ranks returns; raises what any of them raised."""
    with Crew(size, folder, body, *arguments) as crew:
        found = [crew.result(rank) for rank in range(size)]
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


def _rank(
    meeting: Meeting, listening: socket.socket | None, pipe: Connection, folder: Path, body: Body, arguments: Any
) -> None:
    torch.set_num_threads(1)
    with pipe:
        try:
            fence = Fence(folder / "ranks", meeting.token)
            handle = None if listening is None else listening.detach()
            with gathered(replace(meeting, listening=handle), fence, device="cpu") as ranks:
                found = body(ranks, folder, *arguments)
        except BaseException as error:
            pipe.send(error)
        else:
            pipe.send(found)


def made_task(model: CrystalModel, *, count: int = 40) -> Task:
    """Crystals with labels, a third of the second target's missing."""
    crystals = Crystals.of(made_crystals(count, seed=1, kinds=PERIODIC_KINDS, max_atoms=6, missing=0.2))
    rng = np.random.default_rng(0)
    energy = np.array([c.numbers.mean() / 40 for c in crystals])
    energy[::7] = np.nan
    metals = rng.integers(0, 2, count).astype(float)
    metals[::3] = np.nan
    labels = {"formation_energy_per_atom": energy, "is_metal": metals}
    graphs = LabelledGraphs.of([replace(crystals, labels=labels)], TARGETS, model.neighbors)
    split = Split(np.arange(count - 10), np.arange(count - 10, count), np.arange(0))
    normaliser = Normaliser.fit(graphs.labels[split.train], TARGETS)
    return Task(graphs, split, Properties(graphs, normaliser, LOSSES))


def new_model(architecture: str, dtype: torch.dtype = torch.float32) -> CrystalModel:
    """A small model with random weights, the same in every process."""
    torch.manual_seed(0)
    return build(architecture, small(architecture, hidden=8) | {"cutoff": 5.0}, TARGETS).to(dtype).train()


def gradients(ranks: Ranks, model: CrystalModel, task: Task, batches: list[Any]) -> Iterator[dict[str, Tensor]]:
    """The gradient of each batch, its loss, and the model's buffers after it."""
    labels = torch.from_numpy(task.objective.normaliser.normalise(task.graphs.labels)).to(model.dtype)
    parameters = list(model.parameters())
    for rows in batches:
        places = ranks.places(task.graphs, rows)
        graph, _ = task.graphs.take(rows[places], dtype=model.dtype)
        with ranks.sharing(places, len(rows), "cpu"):
            outputs = model(graph)
        loss = whole_loss(masked_sums(outputs, labels[rows[places]], LOSSES), [1.0, 0.5], ranks)
        differentiate(loss, model.penalty(), parameters, GradScaler("cpu", enabled=False), ranks)
        yield {
            "loss": torch.tensor([loss.value, *loss.sums, *loss.counts], dtype=torch.float64),
            "gradient": flattened(parameters).clone(),
            **{name: buffer.clone() for name, buffer in model.named_buffers()},
        }


BATCHES = [np.arange(30), np.array([3, 17, 21]), np.array([5, 28]), np.array([9])]


def compared(ranks: Ranks, folder: Path, architectures: list[str]) -> dict[str, Any]:
    """Gradients of batches by all ranks together, and by this one alone: many crystals, few, fewer than ranks."""
    found: dict[str, Any] = {"talked": talked(ranks, folder)}
    for architecture in architectures:
        for dtype in (torch.float32, torch.float64):
            task = made_task(new_model(architecture))
            both = []
            for who in (ranks, ALONE):
                model = new_model(architecture, dtype)
                torch.manual_seed(1)
                both.append([{k: v.numpy() for k, v in one.items()} for one in gradients(who, model, task, BATCHES)])
            found[f"{architecture} {str(dtype).removeprefix('torch.')}"] = both
    return found


def talked(ranks: Ranks, folder: Path) -> list[Any]:
    """What ranks hear of each other."""
    del folder
    found: list[Any] = [[0]] if ranks.is_first else [[ranks.rank, "b"]]
    mine = f"of {ranks.rank}".encode()
    heard = ranks.total(torch.tensor(1e6 * ranks.rank, dtype=torch.float64))
    return [ranks.told(mine).hex(), ranks.told(b"").hex(), ranks.joined(found), float(heard)]


def frozen(ranks: Ranks, folder: Path) -> None:
    """The first rank stops, without dying, while the others wait for it."""
    del folder
    ranks.told(b"there")
    if ranks.is_first:
        os.kill(os.getpid(), signal.SIGSTOP)
    ranks.joined([])
