"""What happened in each epoch, one JSON object a line, for programs to read while a run goes on.

A line is written before the state that counts it. After a kill, lines beyond what the state knew are cut off, because
their epochs are computed again. Should lines be missing that the state counts, the run goes on without them.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from screening.errors import FileFormatError
from screening.files.lines import append_line, lines_of
from screening.files.whole import writing


class Journal:
    """The file `metrics.jsonl` of a run."""

    def __init__(self, path: Path, *, valid_bytes: int, say: Callable[[str], None]) -> None:
        self.path = path
        with writing(path):
            path.touch()
            content = path.read_bytes()
            if len(content) < valid_bytes:
                say(f"{path}: has lost lines of epochs that are done; going on without them")
                valid_bytes = content.rfind(b"\n") + 1
            os.truncate(path, valid_bytes)

    def write(self, entry: Mapping[str, Any]) -> int:
        """Append a line; tell how long the file is now."""
        return append_line(self.path, entry)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All lines of a journal, in order; a last line that is being written is left out."""
    lines = lines_of(path, ended=True)
    if None in lines:
        raise FileFormatError(
            f"{path}: line {lines.index(None) + 1} is damaged; remove that line, and the same command goes on without "
            "it"
        )
    return [line for line in lines if line is not None]


def validation_of(path: Path, epoch: int) -> Any:
    """What was measured on validation crystals after an epoch; None if nothing was, or its line is lost."""
    return next((entry.get("validation") for entry in read_journal(path) if entry["epoch"] == epoch), None)
