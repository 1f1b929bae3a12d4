"""Whether files can be locked in a folder, tried out there, and the kind of file system it lies on.

Every attempt runs in a process of its own under a time limit: on a network file system whose lock service is
down, a lock call never returns and cannot be interrupted.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

TIME_LIMIT_S = 10.0

NETWORK = frozenset(
    {
        *("9p", "afs", "beegfs", "ceph", "cifs", "daos", "fhgfs", "fuse.ceph", "fuse.dfuse", "fuse.glusterfs"),
        *("fuse.sshfs", "glusterfs", "gpfs", "lustre", "orangefs", "panfs", "pvfs2", "smb3", "weka", "wekafs"),
    }
)

# Both print one word. The second is started by the first while that one holds the file open for writing.
HDF5_WRITER = """
import subprocess, sys
import h5py
with h5py.File(sys.argv[1], "w") as file:
    file["probe"] = 1
    file.flush()
    subprocess.run([sys.executable, "-c", sys.argv[2], sys.argv[1]], check=True)
"""
HDF5_SECOND_WRITER = """
import sys
import h5py
try:
    h5py.File(sys.argv[1], "r+").close()
except OSError:
    print("refused")
else:
    print("opened")
"""
FLOCK = """
import errno, fcntl, sys
with open(sys.argv[1], "wb") as first, open(sys.argv[1], "rb+") as second:
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("refused")
        else:
            print("granted")
    except OSError as error:
        print(errno.errorcode.get(error.errno, "failed"))
"""


class Locks(Enum):
    """What became of an attempt to lock."""

    WORK = "work"
    OFF = "off"
    ABSENT = "absent"
    FAIL = "fail"
    HANG = "hang"


@dataclass(frozen=True, slots=True)
class Tried:
    """The outcome of trying, and a sentence about it."""

    locks: Locks
    sentence: str


def tried(folder: Path, *, time_limit: float = TIME_LIMIT_S) -> Tried:
    """Lock a file, and open an HDF5 file for writing twice, in this folder; leave nothing behind."""
    try:
        with tempfile.TemporaryDirectory(prefix=".screening-locks-", dir=folder, ignore_cleanup_errors=True) as made:
            plain = _answer([FLOCK, f"{made}/plain"], time_limit)
            hdf5 = _answer([HDF5_WRITER, f"{made}/file.h5", HDF5_SECOND_WRITER], time_limit)
    except OSError as error:
        return Tried(Locks.FAIL, f"no file can be made in {folder}: {error.strerror or error}")
    return judged(plain, hdf5)


def judged(plain: str, hdf5: str) -> Tried:
    """Tell what the answers of the two probes mean: one word each, or `hangs`, or an error's last line."""
    if "hangs" in (plain, hdf5):
        return Tried(Locks.HANG, "a lock request does not return")
    if hdf5 not in ("refused", "opened"):
        return Tried(Locks.FAIL, f"HDF5 cannot write a file here: {hdf5}")
    if plain == "refused" and hdf5 == "refused":
        return Tried(Locks.WORK, "flock works, and HDF5 refuses a second writer")
    if plain == "refused":
        return Tried(Locks.OFF, "flock works, but HDF5 lets two processes write one file")
    if plain == "granted":
        return Tried(Locks.ABSENT, "flock grants one lock twice: this file system does not keep locks")
    return Tried(
        Locks.ABSENT, f"flock fails with {plain}; HDF5 {'refuses' if hdf5 == 'refused' else 'allows'} a second writer"
    )


def _answer(arguments: list[str], time_limit: float) -> str:
    """The last line a probe prints; `hangs` when it does not end in time, without waiting for its death."""
    command = [sys.executable, "-c", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, errors = process.communicate(timeout=time_limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        # A process that waits inside the kernel for a lock does not die; it is left to itself.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=1)
        return "hangs"
    lines = (errors if process.returncode else output).strip().splitlines()
    return lines[-1] if lines else f"ended with code {process.returncode} and without a word"


def mounted() -> str:
    """What is mounted where, as the system tells it."""
    return Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")


def is_shared(folder: Path) -> bool:
    """Whether other machines may have the files of a folder too: there, a lock may hold on each of them alone."""
    return _is_network(_kind(folder.resolve(), mounted()))


def file_system(folder: Path, mounts: str) -> str:
    """The type of the file system that holds a folder, by the text of /proc/mounts; network ones are called so."""
    kind = _kind(folder, mounts)
    return f"{kind}, a network file system" if _is_network(kind) else kind


def _kind(folder: Path, mounts: str) -> str:
    best, kind = "", "unknown"
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = _unescaped(fields[1]).rstrip("/")
        # The last mount on a point hides those before it.
        if len(point) >= len(best) and f"{folder}/".startswith(f"{point}/"):
            best, kind = point, fields[2]
    return kind


def _is_network(kind: str) -> bool:
    return kind.startswith("nfs") or kind in NETWORK


def _unescaped(field: str) -> str:
    """Undo the octal escapes of /proc/mounts: a space is written as backslash 040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
