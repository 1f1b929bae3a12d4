"""`provenance.jsonl`: a line for each time that somebody worked on a run: when, where, with which versions."""

import contextlib
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from screening.errors import ResourceError
from screening.store.record import PROVENANCE as PROVENANCE_FILE
from screening.version import code_version, version_of

PACKAGES = ("torch", "numpy", "h5py", "dask", "distributed", "pymatgen", "gemmi", "ase")
GIT_LIMIT_S = 5.0


def note(folder: Path, kind: str, **facts: object) -> None:
    """Append a line, and bring it to the disk."""
    line = json.dumps({"event": kind, "time": now(), **facts}, allow_nan=False) + "\n"
    path = folder / PROVENANCE_FILE
    try:
        with path.open("ab") as file:
            # A line that a killed driver left half-written ends here.
            whole = file.tell() == 0 or _last_byte(path) == b"\n"
            file.write((b"" if whole else b"\n") + line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ResourceError(f"{path}: cannot be written ({error.strerror or error}); check the disk") from error


def last_note(folder: Path, kind: str) -> dict[str, Any]:
    """Read the last line of a kind; nothing if there is none."""
    try:
        lines = (folder / PROVENANCE_FILE).read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if found.get("event") == kind:
                return dict(found)
    return {}


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


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read()
