"""What happened in each epoch, one JSON object a line, for programs to read while a run goes on.

A line is written before the state that counts it. After a kill, lines beyond what the state knew are cut off, because
their epochs are computed again. Should lines be missing that the state counts, the run goes on without them.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from screening.errors import FileFormatError


class Journal:
    """The file `metrics.jsonl` of a run."""

    def __init__(self, path: Path, *, valid_bytes: int, say: Callable[[str], None]) -> None:
        self.path = path
        path.touch()
        content = path.read_bytes()
        if len(content) < valid_bytes:
            say(f"{path}: has lost lines of epochs that are done; going on without them")
            valid_bytes = content.rfind(b"\n") + 1
        os.truncate(path, valid_bytes)

    def write(self, entry: Mapping[str, Any]) -> int:
        """Append a line; tell how long the file is now."""
        with self.path.open("ab") as file:
            file.write(json.dumps(entry, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            return file.tell()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All lines of a journal, in order; a last line that is being written is left out."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_read(line, path, number) for number, line in enumerate(lines, 1)]


def validation_of(path: Path, epoch: int) -> Any:
    """What was measured on validation crystals after an epoch; None if nothing was, or its line is lost."""
    return next((entry.get("validation") for entry in read_journal(path) if entry["epoch"] == epoch), None)


def _read(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError as error:
        raise FileFormatError(
            f"{path}: line {number} is damaged; remove that line, and the same command goes on without it"
        ) from error
    return found
