"""The processes that a test's process has made and not ended."""

import contextlib

import psutil


def children() -> list[psutil.Process]:
    """All of them but Python's resource tracker, which lives as long as the process that first needed it."""
    return [child for child in psutil.Process().children(recursive=True) if not _is_tracker(child)]


def _is_tracker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return any("resource_tracker" in word for word in process.cmdline())
    return False
