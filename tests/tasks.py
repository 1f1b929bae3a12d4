"""What worker processes are given to do in tests: functions that they can import by name."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from screening.crystals.read import Group, ReadBatch, parsed
from screening.crystals.validate import CrystalLimits
from screening.errors import ResourceError

DEADLY = b"kill the reader"


def act(task: tuple[str, Any]) -> Any:
    """Do what the task says: answer, wait, fail or die."""
    verb, value = task
    match verb:
        case "sleep":
            time.sleep(value)
        case "kill":
            os.kill(os.getpid(), value)
            time.sleep(10)
        case "exit":
            os._exit(value)
        case "raise":
            raise RuntimeError(value)
        case "refuse":
            raise ResourceError(value)
        case "kill once":
            if not Path(value).exists():
                Path(value).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        case "pid":
            return os.getpid()
        case "big":
            return bytes(value)
    return task


def deadly_parsed(group: Group, limits: CrystalLimits, space_group_tolerance: float | None = None) -> ReadBatch:
    """Parse as usual, but die of a segmentation fault at a document that says so."""
    for part in group.parts:
        document = getattr(part, "document", None)
        if document is not None and DEADLY in document.read():
            os.kill(os.getpid(), signal.SIGSEGV)
    return parsed(group, limits, space_group_tolerance)
