"""The process of one rank: reads its job from standard input, trains, and tells the worker that started it.

A process of its own, because what holds a rank (a collective whose peers are gone, a GPU) ends for certain only with
its process, and the worker must survive that. It dies with its worker: its standard input then ends.
"""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from screening.errors import ScreeningError
from screening.runs.rank_job import End, RankJob
from screening.signals import die_with_parent

if TYPE_CHECKING:
    from screening.training.loop import Progress

TELL_S = 0.2
ORPHANED = 3

Tell = Callable[[str, Any], None]


def main() -> None:
    """Be a rank."""
    facts = json.loads(sys.stdin.buffer.readline())
    listening = facts.pop("listening", None)
    job = RankJob(**facts)
    # What anything else prints goes to standard error.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    lock = threading.Lock()

    def tell(kind: str, content: Any) -> None:
        with lock:
            out.write(json.dumps([kind, content]).encode() + b"\n")

    _end_with_worker()
    tell("end", _ended(job, listening, tell))


def _ended(job: RankJob, listening: int | None, tell: Tell) -> dict[str, Any]:
    from screening.training.together import PeersLostError

    try:
        return {"end": End.FINISHED, "result": train(job, listening, tell)}
    except PeersLostError as error:
        return {"end": End.PEERS_LOST, "words": str(error)}
    except ScreeningError as error:
        return {"end": End.REFUSED, "error": type(error).__name__, "words": str(error)}
    except Exception:
        # Whatever it was, the driver must hear it: this process's own output may be on a machine that is gone.
        return {"end": End.CRASHED, "words": traceback.format_exc()}


def train(job: RankJob, listening: int | None, tell: Tell) -> dict[str, Any]:
    """Meet the other ranks, and train; the first rank's metrics."""
    from pathlib import Path

    import torch

    from screening.machine import keep_freed_memory
    from screening.ops import core
    from screening.training.lessons.registry import LESSONS
    from screening.training.material import Listener
    from screening.training.recipe import prepared
    from screening.training.recipe import train as trained
    from screening.training.together import Fence, Meeting, gathered

    if job.threads is not None:
        core.set_threads(job.threads)
        torch.set_num_threads(job.threads)
    keep_freed_memory()
    config = LESSONS[job.command].settings_type.model_validate(job.config)
    material = prepared(config, Path(job.graphs), tuple(job.sizes))
    meeting = Meeting(job.host, job.port, job.rank, job.size, job.token, job.silent_s, listening)
    fence = Fence(Path(job.fence), job.token)
    listener = Listener(lambda text: tell("say", text), _seldom(tell))
    with gathered(meeting, fence, device=config.training.device) as ranks:
        return trained(config, Path(job.folder), listener, material=material, files=job.files, ranks=ranks)


def _seldom(tell: Tell) -> "Callable[[Progress], None]":
    """Tell of the first step, of the last, and in between a few times a second."""
    told = -TELL_S

    def watch(progress: "Progress") -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= TELL_S or progress.step >= progress.steps:
            told = now
            tell("progress", asdict(progress))

    return watch


def _end_with_worker() -> None:
    """Die when the worker does, whatever this process is at."""
    die_with_parent()

    def wait() -> None:
        sys.stdin.buffer.read()
        os._exit(ORPHANED)

    threading.Thread(target=wait, name="orphaned", daemon=True).start()
