"""`provenance.jsonl`: a line for each time that somebody worked on a run: when, where, with which versions."""

import os
import platform
import shlex
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from screening.errors import ScreeningError
from screening.files.lines import append_line, lines_of
from screening.store.record import PROVENANCE
from screening.version import code_version, version_of

PACKAGES = ("torch", "numpy", "h5py", "dask", "distributed", "pymatgen", "gemmi", "ase")
GIT_LIMIT_S = 5.0


def note(folder: Path, kind: str, **facts: object) -> None:
    """Append a line, and bring it to the disk."""
    append_line(folder / PROVENANCE, {"event": kind, "time": now(), **facts})


def last_note(folder: Path, kind: str) -> dict[str, Any]:
    """Read the last line of a kind; nothing if there is none, or none that can be read."""
    try:
        lines = lines_of(folder / PROVENANCE)
    except ScreeningError:
        return {}
    return next((line for line in reversed(lines) if line and line.get("event") == kind), {})


def circumstances() -> dict[str, Any]:
    """Who works here with what: versions, commit, machine, command."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": shlex.join(sys.argv),
        "code_version": code_version(),
        "commit": commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: version for name in PACKAGES if (version := version_of(name))},
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def commit() -> str | None:
    """The commit of this source tree, `-dirty` when it was changed; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=GIT_LIMIT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout.strip() or None


def now() -> str:
    """The time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
