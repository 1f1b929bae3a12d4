"""What a rank of a distributed training is told, and what it tells: lines of JSON through the pipes of its process.

No torch here: Dask's workers read this, and only the processes that they start for ranks load it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class End(StrEnum):
    """How a rank ended."""

    FINISHED = "finished"
    # An error of ours, to be raised as what it is.
    REFUSED = "refused"
    # Another rank is gone or silent: a consequence, not a cause.
    PEERS_LOST = "peers lost"
    # Any other exception.
    CRASHED = "crashed"
    # The process ended without a word.
    DIED = "died"
    # The run does not want it any more.
    CALLED_OFF = "called off"


@dataclass(frozen=True, slots=True)
class RankJob:
    """One rank of one attempt: `config` as JSON, `sizes` of the parts in the folder `graphs`, where ranks meet.

    `files` are what the driver found or made of what `config` names: relative names are of the driver's folder.
    `command` is the kind of run; `gpu` is what CUDA_VISIBLE_DEVICES should be; empty leaves it.
    """

    command: str
    config: Mapping[str, Any]
    folder: str
    graphs: str
    sizes: tuple[int, ...]
    fence: str
    token: str
    rank: int
    size: int
    host: str
    port: int
    silent_s: float
    files: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    gpu: str = ""

    def line(self, **more: Any) -> bytes:
        """As the process of the rank reads it from its standard input."""
        return json.dumps(asdict(self) | more).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a rank: the error's kind and words, or the metrics."""

    rank: int
    end: End
    words: str = ""
    error: str = ""
    result: Mapping[str, Any] | None = None
