"""`slurm.jsonl` of a run folder: the unique names of the jobs that were asked for, written before they are.

So a job that was accepted though its submission seemed to fail can be found, and none is submitted twice.
"""

import json
import os
from pathlib import Path
from typing import Any

from screening.errors import ResourceError
from screening.runs.provenance import now
from screening.store.record import SLURM_JOBS as JOURNAL_FILE


def note(folder: Path, kind: str, **facts: Any) -> None:
    """Append a line, and bring it to the disk."""
    path = folder / JOURNAL_FILE
    try:
        # A line that a killed process left half-written must not swallow this one.
        whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
        with path.open("a", encoding="utf-8") as file:
            file.write(("" if whole else "\n") + json.dumps({"event": kind, "time": now(), **facts}) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ResourceError(f"{path}: cannot be written ({error.strerror or error}); nothing is submitted") from error


def tags_of(folder: Path, *, way: str | None = None) -> list[str]:
    """The names of all jobs that were ever asked for, in this order; of one way in (batch, array, elastic) alone."""
    path = folder / JOURNAL_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read ({error.strerror or error})") from error
    found = []
    for line in lines:
        # A line that a killed process left half-written asked for nothing.
        if line.startswith("{") and line.endswith("}"):
            noted = json.loads(line)
            if way is None or noted.get("way") == way:
                found.append(str(noted.get("tag", "")))
    return list(dict.fromkeys(tag for tag in found if tag))
