"""The native core where memory or threads are scarce: it says so or does with less, and goes on afterwards."""

import subprocess
import sys
from pathlib import Path

import pytest

from screening.ops import core

SANITISED = "sanitized" in Path(str(core.native.__file__)).parts
pytestmark = [
    pytest.mark.native,
    # The sanitisers reserve terabytes of addresses, keep freed memory, and end the process when there is none.
    pytest.mark.skipif(SANITISED, reason="the sanitisers' memory is their own"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what a process holds is read from /proc"),
]

# `scarce` leaves a process so many KiB of addresses beyond those it has; `held` tells what it has, in KiB.
PREAMBLE = """
import os, re, resource
from contextlib import contextmanager
from pathlib import Path
import numpy as np
from screening.errors import ResourceError
from screening.ops.neighbors import count_edges, neighbor_list

def held(field):
    return int(re.search(rf"{field}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

@contextmanager
def scarce(kib):
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, ((held("VmSize") + kib) << 10, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)

def cube(length, atoms):
    positions = np.random.default_rng(0).random((atoms, 3)) * length
    return positions, (np.eye(3) * length)[None], np.ones((1, 3), bool), np.array([0, atoms], np.int32)
"""


def run(script: str) -> None:
    """Run a script in a process of its own; it must end well."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREAMBLE + script],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


AFTER_A_FAILURE = """
cells, cutoffs = cube(1.0, 1), np.arange(10.25, 34.0, 0.5)
along = np.arange(-34, 35)
squares = (along**2 + along[:, None] ** 2 + along[:, None, None] ** 2).ravel()
expected = [np.count_nonzero(squares < cutoff**2) - 1 for cutoff in cutoffs]
refused = 0
for kib in range(500, 16_000, 1_500):
    child = os.fork()
    if child == 0:
        count_edges(*cells, cutoff=5.0, threads=1)
        code = 0
        with scarce(kib):
            try:
                count_edges(*cells, cutoff=60.0, threads=1)
            except (ResourceError, MemoryError):
                code = 1
        found = [count_edges(*cells, cutoff=cutoff, threads=1).edge_count[0] for cutoff in cutoffs]
        os._exit(code if found == expected else 2)
    status = os.waitpid(child, 0)[1]
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) < 2, (kib, status)
    refused += os.WEXITSTATUS(status)
assert refused > 1, "memory was never scarce"
"""


def test_a_search_goes_on_after_one_that_memory_was_too_small_for() -> None:
    run(AFTER_A_FAILURE)


KEPT = """
cells = cube(3.0, 8)
count_edges(*cells, cutoff=5.0, threads=1)
before = held("VmRSS")
count_edges(*cells, cutoff=100.0, threads=1)
assert held("VmRSS") - before < 24 << 10, (before, held("VmRSS"))
"""


def test_memory_for_one_long_cutoff_is_given_back() -> None:
    run(KEPT)


FEWER_THREADS = """
positions = np.random.default_rng(0).random((320, 3)) * 3
lattice, pbc = np.repeat(np.eye(3)[None] * 3, 40, axis=0), np.ones((40, 3), bool)
cells = positions, lattice, pbc, np.arange(0, 321, 8, dtype=np.int32)
one = neighbor_list(*cells, cutoff=2.0, threads=1)
with scarce(1 << 10):  # the stack of a thread is larger
    many = neighbor_list(*cells, cutoff=2.0, threads=8)
assert all(map(np.array_equal, one, many))
later = neighbor_list(*cells, cutoff=2.0, threads=3)
assert all(map(np.array_equal, one, later))
"""


def test_threads_that_cannot_begin_are_done_without() -> None:
    run(FEWER_THREADS)
