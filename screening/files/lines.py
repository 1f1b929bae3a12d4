"""Files of JSON lines that grow for as long as a run lives: a line is on the disk when it was added.

A writer that is killed leaves half a line at most. The next one ends it, and who reads passes over it.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from screening.errors import InputError, ResourceError, is_passing, refusal
from screening.files.whole import put, synchronise, writing


def append_line(path: Path, facts: Mapping[str, Any]) -> int:
    """Add a line, and tell how long the file is now."""
    line = json.dumps(facts, allow_nan=False).encode() + b"\n"
    with writing(path), path.open("a+b", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        if before:
            file.seek(-1, os.SEEK_END)
        is_whole = not before or file.read(1) == b"\n"
        put(file, line if is_whole else b"\n" + line)
        os.fsync(file.fileno())
        if not before:
            synchronise(path.absolute().parent)
        return file.tell()


def lines_of(path: Path, *, ended: bool = False) -> list[dict[str, Any] | None]:
    """Read all lines, in order; None for one that is no object of JSON. A file that is not there has none.

    Of those that have `ended` alone, a last one that is being written is left out.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise InputError(refusal(path)) from error
    except OSError as error:
        why = f"{path}: cannot be read ({error.strerror or error})"
        if is_passing(error):
            raise ResourceError(f"{why}; the file itself may be well: try again") from error
        raise InputError(f"{why}; check its name") from error
    return [_facts(line) for line in (lines[:-1] if ended or not lines[-1] else lines)]


def _facts(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
