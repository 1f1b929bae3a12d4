"""The doctor: what it finds in order, what it calls broken, and that every broken thing comes with a cure."""

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import pytest

from screening import doctor, locking
from screening.doctor import Check, Status
from screening.errors import NativeError, ResourceError

ROOT = Path(__file__).resolve().parent.parent


def only(found: list[Check], name: str) -> Check:
    (check,) = (c for c in found if c.name == name)
    return check


def test_this_installation_is_sound(tmp_path: Path) -> None:
    found = doctor.checks(tmp_path)
    assert [c for c in found if c.status is Status.BROKEN] == []
    assert doctor.exit_code(found) == 0
    names = {c.name for c in found}
    assert {"python", "native", "cuda", "hdf5", "file locks", "folder", "slurm", "memory", "cpus", "torch"} <= names
    assert list(tmp_path.iterdir()) == []


def test_nothing_loads_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from screening import doctor; "
        f"doctor.report(doctor.checks(Path({str(tmp_path)!r})), sys.stdout); assert 'torch' not in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr


def test_without_a_native_module_the_doctor_still_works(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['screening._core'] = None; "
        "from pathlib import Path; from screening import doctor; "
        f"found = doctor.checks(Path({str(tmp_path)!r})); doctor.report(found, sys.stdout); "
        "sys.exit(doctor.exit_code(found))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert ran.returncode == NativeError.exit_code, ran.stderr
    assert "broken  native" in ran.stdout
    assert "make build" in ran.stdout


@pytest.mark.parametrize(
    ("compiled", "devices", "driver", "status"),
    [
        (True, 2, True, Status.OK),
        (True, 0, False, Status.OK),
        (False, 0, False, Status.OK),
        (False, 0, True, Status.NOTE),
        (True, 0, True, Status.NOTE),
    ],
)
def test_cuda_is_judged_against_the_driver(compiled: bool, devices: int, driver: bool, status: Status) -> None:
    check = doctor._cuda(compiled, devices, driver=driver)
    assert check.status is status
    assert bool(check.cure) == (status is Status.NOTE)


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, **commands: str) -> None:
    """Make shell scripts the only commands on PATH."""
    for name, text in commands.items():
        script = folder / name
        script.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


ANSWER = "echo slurm 22.05.8"


@pytest.mark.parametrize(
    ("commands", "status", "said"),
    [
        ((), Status.OK, "no Slurm commands"),
        (("sbatch", "srun", "squeue", "scontrol", "scancel", "sacct"), Status.OK, "slurm 22.05.8"),
        (("sbatch", "srun", "squeue", "scontrol", "scancel"), Status.OK, "no sacct"),
        (("sbatch", "srun"), Status.BROKEN, "not squeue, scontrol, scancel"),
    ],
)
def test_slurm_commands_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: tuple[str, ...], status: Status, said: str
) -> None:
    put_on_path(tmp_path, monkeypatch, **dict.fromkeys(commands, ANSWER))
    check = doctor.slurm()
    assert check.status is status
    assert said in check.detail
    assert bool(check.cure) == (status is Status.BROKEN)


@pytest.mark.parametrize("answer", ["exit 1", "exec /bin/sleep 60"])
@pytest.mark.parametrize("told", ["by the environment", "by a file", "not at all"])
def test_a_slurm_that_does_not_answer_is_broken_if_it_is_set_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, told: str
) -> None:
    monkeypatch.delenv("SLURM_CONF", raising=False)
    monkeypatch.setattr(doctor, "SLURM_FOLDERS", (tmp_path / "etc",))
    (tmp_path / "etc").mkdir()
    if told == "by the environment":
        monkeypatch.setenv("SLURM_CONF", "/nowhere/slurm.conf")
    elif told == "by a file":
        (tmp_path / "etc/slurm.conf").touch()
    monkeypatch.setattr(doctor, "COMMAND_LIMIT_S", 0.2)
    put_on_path(tmp_path, monkeypatch, **dict.fromkeys(doctor.SLURM_COMMANDS, answer))
    check = doctor.slurm()
    if told == "not at all":
        assert (check.status, "no slurm.conf" in check.detail) == (Status.NOTE, True)
    else:
        assert (check.status, "sbatch --version" in check.cure) == (Status.BROKEN, True)


def test_the_cuda_compiler_is_asked_for_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    put_on_path(tmp_path, monkeypatch)
    assert "not found" in doctor.cuda_compiler().detail
    put_on_path(tmp_path, monkeypatch, nvcc="echo 'Cuda compilation tools, release 13.0, V13.0.88'")
    assert doctor.cuda_compiler().detail.startswith("CUDA 13.0 ")
    put_on_path(tmp_path, monkeypatch, nvcc="exit 3")
    assert doctor.cuda_compiler().status is Status.NOTE


def test_a_missing_dependency_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=2.1", "no.such_thing (>=1)", 'far-away; extra == "more"']
    monkeypatch.setattr(metadata, "requires", lambda _: wanted)
    check = only(list(doctor.packages()), "packages")
    assert check.status is Status.BROKEN
    assert check.detail == "missing: no.such_thing"
    assert check.cure.endswith("pip install no.such_thing")


def test_a_folder_that_is_not_there_is_broken(tmp_path: Path) -> None:
    (check,) = doctor.storage(tmp_path / "nowhere")
    assert check.status is Status.BROKEN
    assert check.cure


def test_a_folder_that_cannot_be_written_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere, whatever the mode says
    (check,) = doctor.storage(tmp_path)
    assert check.status is Status.BROKEN
    assert check.cure


@pytest.mark.parametrize(("free", "status"), [(2**20, Status.BROKEN), (2**30, Status.NOTE), (2**40, Status.OK)])
def test_room_on_disk_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, status: Status) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert doctor._folder(tmp_path).status is status


def test_no_temporary_folder_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    check = doctor.temporary_folder()
    assert check.status is Status.BROKEN
    assert "TMPDIR" in check.cure


FINDINGS = [
    Check("python", Status.OK, "3.12"),
    Check("native", Status.BROKEN, "gone", "build it", NativeError.exit_code),
    Check("folder", Status.BROKEN, "full", "free some"),
]


def test_the_exit_code_is_that_of_the_first_broken_check() -> None:
    assert doctor.exit_code(FINDINGS) == NativeError.exit_code
    assert doctor.exit_code(FINDINGS[::-1]) == ResourceError.exit_code
    assert doctor.exit_code(FINDINGS[:1]) == 0


def written(as_json: bool) -> str:
    stream = io.StringIO()
    doctor.report(FINDINGS, stream, as_json=as_json)
    return stream.getvalue()


def test_the_report_puts_each_cure_below_its_line() -> None:
    assert written(as_json=False).splitlines() == [
        "ok      python  3.12",
        "broken  native  gone",
        "                -> build it",
        "broken  folder  full",
        "                -> free some",
    ]


def test_the_report_is_json_on_demand() -> None:
    content = json.loads(written(as_json=True))
    assert content["broken"] is True
    assert content["checks"][1] == {
        "name": "native",
        "status": "broken",
        "detail": "gone",
        "cure": "build it",
        "exit_code": NativeError.exit_code,
    }


@pytest.mark.parametrize(
    ("setting", "locks", "status"),
    [("TRUE", locking.Locks.WORK, Status.OK), ("FALSE", locking.Locks.OFF, Status.NOTE)],
)
def test_locks_are_tried_and_not_assumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, locks: locking.Locks, status: Status
) -> None:
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", setting)
    assert locking.tried(tmp_path).locks is locks
    assert list(tmp_path.iterdir()) == []
    check = doctor._locks(tmp_path)
    assert check.status is status
    assert setting in check.detail


def test_a_lock_that_never_returns_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "FLOCK", "import time; time.sleep(60)")
    assert locking.tried(tmp_path, time_limit=3.0).locks is locking.Locks.HANG


def test_the_children_of_a_probe_that_hangs_are_ended() -> None:
    probe = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    assert locking._answer([probe], 0.5) == "hangs"


@pytest.mark.parametrize(
    ("plain", "hdf5", "locks"),
    [
        ("refused", "refused", locking.Locks.WORK),
        ("refused", "opened", locking.Locks.OFF),
        ("granted", "opened", locking.Locks.ABSENT),
        ("ENOSYS", "refused", locking.Locks.ABSENT),
        ("ENOLCK", "BlockingIOError: no locks available", locking.Locks.FAIL),
        ("hangs", "refused", locking.Locks.HANG),
        ("refused", "hangs", locking.Locks.HANG),
    ],
)
def test_answers_of_the_probes_are_judged(plain: str, hdf5: str, locks: locking.Locks) -> None:
    assert locking.judged(plain, hdf5).locks is locks


def test_every_outcome_that_is_not_fine_has_a_cure() -> None:
    assert set(doctor.LOCKS) == set(locking.Locks)
    assert all((status is Status.OK) != bool(cure) for status, cure in doctor.LOCKS.values())


def test_a_folder_that_vanished_is_a_failure_to_lock(tmp_path: Path) -> None:
    assert locking.tried(tmp_path / "nowhere").locks is locking.Locks.FAIL


MOUNTS = r"""
/dev/sda1 / ext4 rw 0 0
/dev/sdb1 /home xfs rw 0 0
server:/home /home nfs4 rw 0 0
oss@tcp:/scratch /scratch lustre rw 0 0
tmpfs /scratch/with\040space tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/tmp", "ext4"),
        ("/home/someone", "nfs4, a network file system"),
        ("/homeless", "ext4"),
        ("/scratch", "lustre, a network file system"),
        ("/scratch/with space/x", "tmpfs"),
    ],
)
def test_the_file_system_is_that_of_the_deepest_and_last_mount(folder: str, kind: str) -> None:
    assert locking.file_system(Path(folder), MOUNTS) == kind
