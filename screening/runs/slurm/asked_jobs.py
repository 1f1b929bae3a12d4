"""`slurm.jsonl` of a run folder: the unique names of the jobs that were asked for, written before they are.

So a job that was accepted though its submission seemed to fail can be found, and none is submitted twice.
"""

from pathlib import Path

from screening.files.lines import append_line, lines_of
from screening.runs.provenance import now
from screening.store.record import SLURM_JOBS


def note(folder: Path, kind: str, **facts: object) -> None:
    """Append a line, and bring it to the disk."""
    append_line(folder / SLURM_JOBS, {"event": kind, "time": now(), **facts})


def tags_of(folder: Path, *, way: str | None = None) -> list[str]:
    """The names of all jobs that were ever asked for, in this order; of one way in (batch, array, elastic) alone."""
    # A line that a killed process left half-written asked for nothing.
    noted = [line for line in lines_of(folder / SLURM_JOBS) if line]
    tags = [str(line.get("tag", "")) for line in noted if way is None or line.get("way") == way]
    return list(dict.fromkeys(tag for tag in tags if tag))
