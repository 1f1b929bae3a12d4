"""A disk that is full, for tests of what writes."""

import contextlib
import errno
import os
import resource
from collections.abc import Iterator

FULL = "the disk is full or a size limit was reached"


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """Let files of this process end at so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def full(*_: object) -> None:
    """Stand for a call that needs room."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
