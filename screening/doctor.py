"""What this installation can do, checked and not assumed, and the cure for what is broken.

Works with the native module or any dependency missing, and never imports torch. Locks are tried out in
locking.py; limits of memory and processors come from machine.py.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TextIO

from screening import locking, machine
from screening.errors import NativeError, ResourceError
from screening.version import DISTRIBUTION, version_of

PYTHON_NEEDED = (3, 11)
SLURM_COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sacct")
SLURM_NEEDED = SLURM_COMMANDS[:-1]
SLURM_FOLDERS = (Path("/etc/slurm"), Path("/etc/slurm-llnl"), Path("/run/slurm/conf"))
COMMAND_LIMIT_S = 5.0
GIB = 2**30
MEMORY_NEEDED = 1 * GIB
DISK_NEEDED = GIB // 10
DISK_WANTED = 10 * GIB


class Status(StrEnum):
    """How a check ended: fine, worth knowing, or in the way of work."""

    OK = "ok"
    NOTE = "note"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report; `cure` says what to do and is there whenever something is broken."""

    name: str
    status: Status
    detail: str
    cure: str = ""
    exit_code: int = ResourceError.exit_code


# Files here have one writer each, under a temporary name, so locks that are off or absent do no harm.
LOCKS = {
    locking.Locks.WORK: (Status.OK, ""),
    locking.Locks.OFF: (Status.NOTE, "harmless here; unset HDF5_USE_FILE_LOCKING for tools that rely on locks"),
    locking.Locks.ABSENT: (Status.NOTE, "harmless here; other tools may corrupt a file that two of them write"),
    locking.Locks.FAIL: (Status.BROKEN, "export HDF5_USE_FILE_LOCKING=FALSE, or use a folder on another file system"),
    locking.Locks.HANG: (
        Status.BROKEN,
        "export HDF5_USE_FILE_LOCKING=FALSE, and tell the file system's administrators",
    ),
}


def checks(folder: Path) -> list[Check]:
    """Look at the installation, at this machine, and at the folder that results would go to."""
    return [
        python(),
        package(),
        *native(),
        cuda_compiler(),
        *packages(),
        *storage(folder),
        slurm(),
        memory(),
        processors(),
        temporary_folder(),
    ]


def exit_code(found: Sequence[Check]) -> int:
    """Zero when nothing is broken, else the exit code of the first broken check."""
    return next((check.exit_code for check in found if check.status is Status.BROKEN), 0)


def report(found: Sequence[Check], stream: TextIO, *, as_json: bool = False) -> None:
    """Write the checks as a table, cures below their line, or as JSON."""
    if as_json:
        content = {"broken": exit_code(found) != 0, "checks": [asdict(check) for check in found]}
        stream.write(json.dumps(content, indent=2) + "\n")
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False, soft_wrap=True)
    colours = {Status.OK: "green", Status.NOTE: "yellow", Status.BROKEN: "bold red"}
    width = max(len(check.name) for check in found)
    for check in found:
        console.print(
            Text.assemble((f"{check.status:<6}", colours[check.status]), f"  {check.name:<{width}}  {check.detail}")
        )
        if check.cure:
            console.print(Text(f"{'':6}  {'':{width}}  -> {check.cure}"))


def python() -> Check:
    """Check the interpreter's version."""
    detail = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info >= PYTHON_NEEDED:
        return Check("python", Status.OK, detail)
    return Check("python", Status.BROKEN, detail, "install into an environment with Python 3.11 or newer")


def package() -> Check:
    """Name the version and the place of this package."""
    place = Path(__file__).resolve().parent
    version = version_of(DISTRIBUTION)
    if version is None:
        return Check("package", Status.NOTE, f"not installed, used from {place}", "install it: make build")
    return Check("package", Status.OK, f"{DISTRIBUTION} {version} ({place})")


def native() -> list[Check]:
    """Check that the native module loads, and say which processors and devices it can use."""
    try:
        from screening.ops import core

        levels, level = core.simd_levels(), core.simd_level()
        compiled, devices = core.cuda_compiled(), core.cuda_device_count()
    except Exception as error:
        cure = "build it: 'make build' in a checkout, or reinstall the package with a C++20 compiler at hand"
        detail = f"screening._core cannot be used: {' '.join(str(error).split())}"
        return [Check("native", Status.BROKEN, detail, cure, NativeError.exit_code)]
    return [
        Check("native", Status.OK, f"level {level} in use, of {', '.join(levels)}"),
        _cuda(compiled, devices, driver=Path("/proc/driver/nvidia/version").exists()),
    ]


def _cuda(compiled: bool, devices: int, *, driver: bool) -> Check:
    """Judge what the native module says about CUDA against whether this machine has an NVIDIA driver."""
    said = f"compiled {'in' if compiled else 'out'}, {devices} device{'' if devices == 1 else 's'}"
    if compiled and devices:
        return Check("cuda", Status.OK, said)
    if not driver:
        return Check("cuda", Status.OK, f"{said}; no NVIDIA driver on this machine, so work runs on the CPU")
    if not compiled:
        return Check("cuda", Status.NOTE, said, "a GPU is here: put nvcc on PATH and rebuild with 'make build CUDA=ON'")
    cure = (
        "is a GPU allotted to this job (CUDA_VISIBLE_DEVICES, --gpus-per-task)? is the driver new enough for CUDA 13?"
    )
    return Check("cuda", Status.NOTE, said, cure)


def cuda_compiler() -> Check:
    """Say whether a rebuild would find a CUDA compiler."""
    beside = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    path = shutil.which("nvcc") or shutil.which("nvcc", path=f"{beside}/bin")
    if path is None:
        return Check("nvcc", Status.OK, "not found; needed only to build the CUDA twins")
    lines = (_output([path, "--version"]) or "").splitlines()
    release = next((line.split("release ")[1].split(",")[0] for line in lines if "release " in line), None)
    if release is None:
        return Check("nvcc", Status.NOTE, f"{path} does not say its version", "check the CUDA toolkit's installation")
    return Check("nvcc", Status.OK, f"CUDA {release} ({path})")


def packages() -> Iterator[Check]:
    """Check that what this package requires is installed, and name the versions that matter most."""
    missing = [name for name in _required() if version_of(name) is None]
    if missing:
        cure = f"{sys.executable} -m pip install {' '.join(missing)}"
        yield Check("packages", Status.BROKEN, f"missing: {', '.join(missing)}", cure)
    else:
        yield Check("packages", Status.OK, "all that are required are installed")
    torch = version_of("torch")
    yield Check(
        "torch", Status.OK if torch else Status.BROKEN, torch or "missing", "" if torch else "pip install torch"
    )
    yield _hdf5()


def _required() -> list[str]:
    """Names of the distributions this one needs without extras; none when it is not installed."""
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    plain = [line.split(";")[0] for line in lines if "extra ==" not in line]
    return ["".join(c if c.isalnum() or c in "-_." else " " for c in line).split()[0] for line in plain]


def _hdf5() -> Check:
    try:
        import h5py
    except Exception as error:
        cure = f"{sys.executable} -m pip install --force-reinstall h5py"
        return Check("hdf5", Status.BROKEN, f"h5py cannot be imported: {error}", cure)
    return Check("hdf5", Status.OK, f"{h5py.version.hdf5_version}, h5py {h5py.version.version}")


def storage(folder: Path) -> list[Check]:
    """Check the folder that files would be written to: its file system, room, and locks, which are tried out."""
    folder = folder.resolve()
    if not folder.is_dir():
        return [Check("folder", Status.BROKEN, f"{folder} is not a folder", "make it, or name another: --folder PATH")]
    if not os.access(folder, os.W_OK | os.X_OK):
        return [Check("folder", Status.BROKEN, f"{folder} is not writable", "name another: --folder PATH")]
    return [_folder(folder), _locks(folder)]


def _folder(folder: Path) -> Check:
    kind = locking.file_system(folder, locking.mounted())
    free = shutil.disk_usage(folder).free
    detail = f"{folder}: {kind}, {_size(free)} free"
    if free < DISK_NEEDED:
        return Check(
            "folder", Status.BROKEN, detail, f"free at least {_size(DISK_NEEDED)}, or name another: --folder PATH"
        )
    if free < DISK_WANTED:
        return Check("folder", Status.NOTE, detail, f"large runs want {_size(DISK_WANTED)} or more")
    return Check("folder", Status.OK, detail)


def _locks(folder: Path) -> Check:
    said = os.environ.get("HDF5_USE_FILE_LOCKING")
    setting = "HDF5_USE_FILE_LOCKING unset" if said is None else f"HDF5_USE_FILE_LOCKING={said}"
    found = locking.tried(folder)
    status, cure = LOCKS[found.locks]
    return Check("file locks", status, f"{found.sentence} ({setting})", cure)


def slurm() -> Check:
    """Say which Slurm commands are here, and of which version."""
    found = [name for name in SLURM_COMMANDS if shutil.which(name)]
    if not found:
        return Check("slurm", Status.OK, "no Slurm commands on PATH; runs stay on this machine")
    missing = [name for name in SLURM_NEEDED if name not in found]
    if missing:
        detail = f"found {', '.join(found)}, but not {', '.join(missing)}"
        return Check("slurm", Status.BROKEN, detail, "load the site's Slurm module, or install the missing commands")
    version = _output(["sbatch", "--version"])
    if version is None and not _slurm_is_configured():
        detail = "Slurm's commands are here, but no slurm.conf is; runs stay on this machine"
        return Check("slurm", Status.NOTE, detail, "set SLURM_CONF, or go to a node of the cluster, to use Slurm")
    if version is None:
        cure = "is slurm.conf readable here, or the controller reachable? try 'sbatch --version' by hand"
        return Check("slurm", Status.BROKEN, "sbatch is here but does not answer", cure)
    accounting = "" if "sacct" in found else "; no sacct, which is needed for nothing but accounts"
    return Check("slurm", Status.OK, f"{version.strip()}: {', '.join(found)}{accounting}")


def _slurm_is_configured() -> bool:
    return "SLURM_CONF" in os.environ or any(folder.joinpath("slurm.conf").exists() for folder in SLURM_FOLDERS)


def memory() -> Check:
    """Say how much memory this process may use."""
    found = machine.memory()
    detail = f"{_size(found.free)} free of {_size(found.limit)}, limited by {found.limited_by}"
    if found.free < MEMORY_NEEDED:
        return Check("memory", Status.NOTE, detail, f"end other work or ask for more; {_size(MEMORY_NEEDED)} is little")
    return Check("memory", Status.OK, detail)


def processors() -> Check:
    """Say how many processors this process may use."""
    found = machine.processors()
    return Check("cpus", Status.OK, f"{found.allowed} usable of {found.present}, limited by {found.limited_by}")


def temporary_folder() -> Check:
    """Check that a temporary file can be written."""
    try:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        cure = "point TMPDIR at a folder with room that you may write to"
        return Check("temporary", Status.BROKEN, f"no temporary file can be written: {error}", cure)
    return Check("temporary", Status.OK, f"{tempfile.gettempdir()} is writable")


def _output(command: Sequence[str]) -> str | None:
    """What a command prints; None when it fails or does not end in time."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_LIMIT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.0f} MiB"
