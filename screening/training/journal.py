"""What happened in each epoch, one JSON object a line, for programs to read while a run goes on.

A line is written before the state that counts it. After a kill, lines beyond what the state knew are cut off, because
their epochs are computed again.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """The file `metrics.jsonl` of a run."""

    def __init__(self, path: Path, *, valid_bytes: int) -> None:
        self.path = path
        with path.open("ab") as file:
            file.truncate(valid_bytes)

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
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]
