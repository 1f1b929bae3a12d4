"""Seconds by stage, for finding out which one a run waits for."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stages:
    """What each stage of one shard took, added up over the threads that worked on it."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._adding = threading.Lock()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time until the end of the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            passed = time.perf_counter() - start
            with self._adding:
                self._seconds[stage] += passed

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage so far."""
        with self._adding:
            return dict(self._seconds)
