"""One driver at a time in a run folder, without file locks, which network file systems break.

A driver holds `driver.json` and rewrites it every few seconds; the content changes each time. Another driver that finds
the file asks the machine whether that process lives, where it is the same machine; elsewhere it watches for a change,
by its own clock and not by the times of files. A holder that is dead or silent is replaced. One that was only suspended
finds out at its next beat and ends; what both have written meanwhile is the same.

A job of Slurm that is queued again keeps its id, and the earlier incarnation of it may live on, on a node that lost its
connection. The number of restarts is the fence: the later incarnation replaces the earlier one, alive or not, and never
the other way round. Job ids are used again after a crash of the controller, so the job's unique name must agree too.

Parts of a run have a claim each. They and a driver of the whole run are rivals: each makes its own claim first and then
looks for the other's, so that of two at the same moment at least one finds out.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from screening.errors import ResourceError, UnfinishedError

CLAIM_FILE = "driver.json"
PART_CLAIMS = "driver-*-of-*.json"
BEAT_S = 5.0
# Longer than network file systems keep what they read once.
PATIENCE_S = 40.0
LOOK_S = 0.2
SETTLE_S = 1.0
# Rewritten in place, always as long, because another host sees that sooner than a file of the same name.
CLAIM_BYTES = 1024


class Claim:
    """The right to drive a run, a context manager; refuses while another driver lives."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str = CLAIM_FILE,
        rivals: str = PART_CLAIMS,
        beat_s: float = BEAT_S,
        patience_s: float = PATIENCE_S,
        say: Callable[[str], object] = lambda text: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.path, self._rivals = folder / name, rivals
        # What whoever looks at the run may want to know; small, and JSON.
        self.facts: dict[str, Any] = {}
        self._beat_s, self._patience_s, self._say, self._stopping = beat_s, patience_s, say, stopping
        self._me = {"token": uuid.uuid4().hex, **_myself()}
        self._beats = 0
        self._written_at = 0.0
        self._lost = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="claim", daemon=True)

    def check(self) -> None:
        """Raise when the run is another driver's by now, even if this one was suspended until a moment ago."""
        if not self._lost and _now() - self._written_at > 2 * self._beat_s:
            with contextlib.suppress(OSError):
                self._notice()
        if self._lost:
            raise ResourceError(f"{self.path.parent}: {self._lost}; this one ends, and what it has done is kept")

    def __enter__(self) -> Self:
        try:
            while not (self._create() or self._take_over()):
                pass  # the holder left meanwhile
        except OSError as error:
            raise ResourceError(
                f"{self.path}: cannot be written ({error.strerror or error}); a run needs a folder that it can write to"
            ) from error
        self._thread.start()
        try:
            self._require_no_rival()
        except BaseException as error:
            self.__exit__()
            if isinstance(error, OSError):
                raise ResourceError(f"{self.path.parent}: cannot be read ({error.strerror or error})") from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if self._is_ours():
                self.path.unlink()

    def _create(self) -> bool:
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self._content())
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            # A claim that says nothing would keep the next driver waiting.
            with contextlib.suppress(OSError):
                self.path.unlink()
            raise
        self._written_at = _now()
        return True

    def _take_over(self) -> bool:
        """Replace a holder that is dead; False if it left of its own accord."""
        dead = self._dead_content(self.path, _read(self.path), time.monotonic())
        if dead is None:
            return False
        taken = _read(self.path) != dead
        if not taken:
            self._write()
            # Who else took over at the same moment wrote before or after; the last one stays.
            time.sleep(SETTLE_S)
        if (taken or not self._is_ours()) and _is_fenced(_parsed(_read(self.path)), by=self._me):
            return False  # the earlier incarnation has written once more
        if taken or not self._is_ours():
            raise ResourceError(f"{self.path.parent}: another driver took this run over just now; leave it to that one")
        return True

    def _require_no_rival(self) -> None:
        """Raise while one lives; the claim of one that is dead is removed."""
        # However many there are, they are waited for together.
        began = time.monotonic()
        found = {path: _read(path) for path in sorted(self.path.parent.glob(self._rivals))}
        for path, content in found.items():
            if self._dead_content(path, content, began) is not None:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _dead_content(self, path: Path, before: bytes | None, began: float) -> bytes | None:
        """What a dead holder wrote last, who wrote `before` when it `began`; None if the file is gone.

        Raises while the holder lives.
        """
        if _is_fenced(_parsed(before), by=self._me):
            return before
        alive = True if _is_fenced(self._me, by=_parsed(before)) else lives(_parsed(before))
        left = began + self._patience_s - time.monotonic()
        if alive is None and before is not None and left > 0:
            whose = "has a driver on another machine" if _parsed(before) else "may have a driver, which is not named"
            self._say(f"{path.parent} {whose}; waiting up to {left:.3g} s to see whether it lives")
        while alive is None and before is not None:
            found = _read(path)
            if found is None:
                return None
            if found != before:
                alive = True
            elif time.monotonic() - began > self._patience_s:
                break
            elif self._stopping():
                raise UnfinishedError(f"stopped while waiting for another driver of {path.parent}")
            else:
                time.sleep(LOOK_S)
        if alive:
            holder = _parsed(_read(path)) or _parsed(before)
            raise ResourceError(
                f"{path.parent}: another driver is at work there (process {holder.get('pid', '?')} on "
                f"{holder.get('host', '?')}, since {holder.get('since', '?')}); wait for it, or stop it first"
            )
        return before

    def _beat(self) -> None:
        missed = 0.0
        while not self._ended.wait(self._beat_s):
            try:
                if not self._renewed():
                    return
                missed = 0.0
            except OSError as error:
                missed += self._beat_s
                if missed >= self._patience_s / 2:
                    self._lost = f"{self.path.name} cannot be written any more ({error.strerror or error})"
                    return

    def _renewed(self) -> bool:
        """Show once more that this driver lives; False if the run is not its own any more."""
        if self._notice():
            return False
        self._write()
        return True

    def _notice(self) -> bool:
        """See whether the run was lost; what an earlier incarnation has written once more is written over."""
        if not self._is_ours() and not _is_fenced(_parsed(_read(self.path)), by=self._me):
            self._lost = "another driver has taken this run over, or the claim was removed"
        return bool(self._lost)

    def _write(self) -> None:
        with self.path.open("r+b", buffering=0) as file:
            file.write(self._content())
            os.fsync(file.fileno())
        self._written_at = _now()

    def _content(self) -> bytes:
        self._beats += 1
        holder = {**self._me, "beat": self._beats}
        content = json.dumps(holder | {"facts": self.facts}).encode()
        if len(content) >= CLAIM_BYTES:
            content = json.dumps(holder).encode()
        return content.ljust(CLAIM_BYTES - 1) + b"\n"

    def _is_ours(self) -> bool:
        return bool(_parsed(_read(self.path)).get("token") == self._me["token"])


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def lives(holder: dict[str, Any]) -> bool | None:
    """Tell whether the process that wrote a claim lives; None where that cannot be known from here."""
    if not holder or holder.get("machine") != _machine():
        return None
    return _started(int(holder["pid"])) == holder.get("started")


def _myself() -> dict[str, Any]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    pid = os.getpid()
    me = {"host": socket.gethostname(), "pid": pid, "started": _started(pid), "machine": _machine(), "since": since}
    return me | _slurm_job()


def _slurm_job() -> dict[str, Any]:
    """The job of Slurm that this process is in: its id, its unique name, and how often it began before."""
    job, name = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_JOB_NAME")
    return (
        {} if job is None else {"job": job, "job_name": name, "restart": int(os.environ.get("SLURM_RESTART_COUNT", 0))}
    )


def _is_fenced(holder: dict[str, Any], *, by: dict[str, Any]) -> bool:
    """Tell whether a holder is in an earlier incarnation of the job that another is in."""
    same = all(key in holder and holder[key] == by.get(key) for key in ("job", "job_name"))
    return same and int(holder["restart"]) < int(by["restart"])


def holder_of(folder: Path, name: str = CLAIM_FILE) -> dict[str, Any]:
    """Read who drives a run, with what it says of it; nothing when nobody does."""
    with contextlib.suppress(OSError):
        return _parsed((folder / name).read_bytes())
    return {}


def _now() -> float:
    """Seconds since boot, those while the machine slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _machine() -> str:
    """What process ids are valid in: this boot of this kernel, and the name space of this container."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116 - a link that leads nowhere


def _started(pid: int) -> int | None:
    """When a process started, in ticks since boot, which no two of one id have in common; None when it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _parsed(content: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(content or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
