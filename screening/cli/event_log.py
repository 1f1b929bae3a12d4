"""The events of a run as a file of JSON lines, for batch jobs and for looking back."""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any, Self

from screening.errors import InputError


class EventLog:
    """A file that gets a line per event, appended; None for no file. A full disk ends the log, not the run."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._file = None
        if path is None:
            return
        try:
            # A line at a time, so that whoever follows the file sees each event at once.
            self._file = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror or error}); name another --log") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):
                file.close()

    def tell(self, kind: str, facts: dict[str, Any]) -> None:
        """Add an event."""
        if self._file is None:
            return
        from screening.runs.provenance import now

        try:
            self._file.write(json.dumps({"time": now(), "event": kind, **facts}) + "\n")
        except OSError as error:
            self._close()
            print(f"{self.path}: no more events are logged ({error.strerror or error})", file=sys.stderr)
