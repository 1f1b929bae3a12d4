"""One driver at a time: refused while the holder lives, replaced when it is dead, on this machine or another."""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import screens

from screening.errors import ResourceError, UnfinishedError
from screening.runs import claim as module
from screening.runs.claim import CLAIM_BYTES, CLAIM_FILE, Claim, holder_of, lives

# Nobody shows signs of life by itself, nor waits long for any.
FAST = {"beat_s": 1000.0, "patience_s": 0.6}


@pytest.fixture(autouse=True)
def _no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLE_S", 0.0)
    monkeypatch.setattr(module, "LOOK_S", 0.02)


def holder(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / CLAIM_FILE).read_text())
    return found


def test_a_claim_comes_and_goes(tmp_path: Path) -> None:
    with Claim(tmp_path, **FAST) as claim:
        assert holder(tmp_path)["pid"] == os.getpid()
        size = (tmp_path / CLAIM_FILE).stat().st_size
        for beat in (2, 3):
            assert claim._renewed()
            assert holder(tmp_path)["beat"] == beat
            assert (tmp_path / CLAIM_FILE).stat().st_size == size
        claim.check()
    assert list(tmp_path.iterdir()) == []


def test_a_driver_shows_by_itself_that_it_lives(tmp_path: Path) -> None:
    with Claim(tmp_path, beat_s=0.01):
        screens.wait_for(lambda: module._parsed((tmp_path / CLAIM_FILE).read_bytes()).get("beat", 0) > 3)


def test_a_disk_too_full_for_a_claim_is_left_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty file would keep the next driver waiting for signs of life."""

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ResourceError, match=r"driver\.json: cannot be written \(No space left on device\)"):
            Claim(tmp_path, **FAST).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_a_driver_that_waits_for_another_can_be_stopped(tmp_path: Path) -> None:
    elsewhere(tmp_path).join()
    with pytest.raises(UnfinishedError, match="stopped while waiting for another driver"):
        Claim(tmp_path, patience_s=1000, stopping=lambda: True).__enter__()
    assert holder(tmp_path)["token"] == "theirs"


def test_a_second_driver_on_this_machine_is_refused_at_once(tmp_path: Path) -> None:
    with Claim(tmp_path, **FAST):
        with pytest.raises(ResourceError, match=rf"another driver is at work there \(process {os.getpid()} on "):
            Claim(tmp_path, beat_s=5, patience_s=1000).__enter__()
        assert holder(tmp_path)["pid"] == os.getpid()


@pytest.fixture
def dead(tmp_path: Path) -> Iterator[Path]:
    """A folder whose driver was killed."""
    code = (
        f"import sys, os; sys.path[:] = {sys.path!r}; from pathlib import Path; from screening.runs.claim import Claim"
    )
    code += f"; Claim(Path({str(tmp_path)!r})).__enter__(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert (tmp_path / CLAIM_FILE).exists()
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def test_a_dead_driver_on_this_machine_is_replaced_without_waiting(dead: Path) -> None:
    start = time.monotonic()
    with Claim(dead, patience_s=1000):
        assert holder(dead)["pid"] == os.getpid()
    assert time.monotonic() - start < 10


def test_a_dead_driver_that_nobody_has_buried_is_dead(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=os._exit, args=(0,))
    process.start()
    while module._started(process.pid or 0) is not None:
        time.sleep(0.01)
    process.join()


def elsewhere(folder: Path, *, beats: threading.Event | None = None) -> threading.Thread:
    """A driver on another machine, that beats until told to stop, or is silent."""
    path = folder / CLAIM_FILE
    content = {"token": "theirs", "host": "node7", "pid": 1, "started": 1, "machine": "another boot", "since": "noon"}

    def write(beat: int) -> None:
        path.write_bytes(json.dumps(content | {"beat": beat}).encode().ljust(511) + b"\n")

    def beat() -> None:
        k = 1
        while beats is not None and not beats.wait(0.05):
            k += 1
            write(k)

    write(0)
    thread = threading.Thread(target=beat)
    thread.start()
    return thread


def test_a_living_driver_on_another_machine_is_seen_by_its_beats(tmp_path: Path) -> None:
    stop = threading.Event()
    thread = elsewhere(tmp_path, beats=stop)
    said: list[str] = []
    try:
        with pytest.raises(ResourceError, match=r"process 1 on node7, since noon\); wait for it, or stop it"):
            Claim(tmp_path, beat_s=5, patience_s=1000, say=said.append).__enter__()
        assert "another machine" in said[0]
    finally:
        stop.set()
        thread.join()
    assert holder(tmp_path)["token"] == "theirs"


def test_a_driver_that_leaves_while_it_is_watched_makes_room(tmp_path: Path) -> None:
    elsewhere(tmp_path).join()
    leaving = threading.Timer(0.2, (tmp_path / CLAIM_FILE).unlink)
    leaving.start()
    with Claim(tmp_path, beat_s=5, patience_s=1000):
        assert holder(tmp_path)["pid"] == os.getpid()


def test_a_silent_driver_on_another_machine_is_replaced_after_a_while(tmp_path: Path) -> None:
    elsewhere(tmp_path).join()
    start = time.monotonic()
    with Claim(tmp_path, **FAST):
        assert time.monotonic() - start >= 0.6
        assert holder(tmp_path)["pid"] == os.getpid()


def test_the_clock_of_files_plays_no_part(tmp_path: Path) -> None:
    """A file from the future, or from long ago, is as alive as its content."""
    for when in (1.0, 4e9):
        elsewhere(tmp_path).join()
        os.utime(tmp_path / CLAIM_FILE, (when, when))
        with Claim(tmp_path, **FAST):
            assert holder(tmp_path)["pid"] == os.getpid()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"token": 3}'])
def test_a_damaged_claim_is_watched_like_a_stranger_s(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CLAIM_FILE).write_bytes(content)
    said: list[str] = []
    with Claim(tmp_path, **FAST, say=said.append):
        assert holder(tmp_path)["pid"] == os.getpid()
    assert len(said) == 1, "nobody waits without a word"


def test_who_lost_the_run_finds_out(tmp_path: Path) -> None:
    """A driver that was suspended for so long that another took over."""
    with Claim(tmp_path, **FAST) as claim:
        elsewhere(tmp_path).join()
        claim.check()
        assert not claim._renewed()
        with pytest.raises(ResourceError, match="another driver has taken this run over"):
            claim.check()
    assert holder(tmp_path)["token"] == "theirs", "and it leaves the other's claim alone"


def test_who_was_suspended_asks_before_it_does_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Claim(tmp_path, **FAST) as claim:
        now = module._now() + 1e6
        monkeypatch.setattr(module, "_now", lambda: now)
        claim.check()
        elsewhere(tmp_path).join()
        with pytest.raises(ResourceError, match="another driver has taken this run over"):
            claim.check()


def test_a_claim_that_was_removed_is_lost(tmp_path: Path) -> None:
    with Claim(tmp_path, **FAST) as claim:
        (tmp_path / CLAIM_FILE).unlink()
        assert not claim._renewed()
        with pytest.raises(ResourceError, match="or the claim was removed"):
            claim.check()


def at_once(count: int, folder: Path, **options: float) -> tuple[list[Claim], list[ResourceError]]:
    """So many drivers in one folder: who got it, and what the others were told."""
    won: list[Claim] = []
    refused: list[ResourceError] = []

    def attempt() -> None:
        try:
            won.append(Claim(folder, **options).__enter__())
        except ResourceError as error:
            refused.append(error)

    threads = [threading.Thread(target=attempt) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won, refused


def test_of_many_at_once_one_gets_a_dead_run(dead: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All find the holder dead before any takes over, which is the worst that can happen."""
    together, write = threading.Barrier(8), Claim._write

    def write_together(claim: Claim) -> None:
        together.wait(timeout=60)
        write(claim)
        together.wait(timeout=60)

    with monkeypatch.context() as patched:
        patched.setattr(Claim, "_write", write_together)
        won, refused = at_once(8, dead, **FAST)
    assert (len(won), len(refused)) == (1, 7)
    won[0].check()
    won[0].__exit__()


def test_of_many_at_once_one_gets_a_new_run(tmp_path: Path) -> None:
    won, refused = at_once(8, tmp_path, beat_s=1000.0, patience_s=1000.0)
    assert (len(won), len(refused)) == (1, 7)
    won[0].__exit__()


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="a run needs a folder that it can write to"):
        Claim(tmp_path / "none").__enter__()


def test_what_cannot_be_known_is_not_guessed() -> None:
    assert lives({}) is None
    assert lives({"machine": "another boot", "pid": os.getpid()}) is None
    mine = module._myself()
    assert lives(mine) is True
    assert lives(mine | {"started": 1}) is False, "another process has the number now"
    assert lives(mine | {"pid": 2**22 + 1}) is False


def incarnation(monkeypatch: pytest.MonkeyPatch, restart: int, name: str = "screening-a") -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NAME", name)
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
    if restart == 0:  # as Slurm has it
        monkeypatch.delenv("SLURM_RESTART_COUNT")


def test_a_later_incarnation_of_a_job_replaces_a_live_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    incarnation(monkeypatch, 0)
    with Claim(tmp_path, **FAST) as first:
        incarnation(monkeypatch, 1)
        with Claim(tmp_path) as second:
            second.check()
            holder = holder_of(tmp_path)
            assert (holder["job"], holder["restart"]) == ("7", 1)
            assert not first._renewed()
            with pytest.raises(ResourceError, match="another driver has taken this run over"):
                first.check()
            incarnation(monkeypatch, 0)
            with pytest.raises(ResourceError, match="another driver is at work there"), Claim(tmp_path):
                pass


def test_what_an_earlier_incarnation_writes_once_more_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    incarnation(monkeypatch, 0)
    with Claim(tmp_path, **FAST) as first:
        incarnation(monkeypatch, 1)
        with Claim(tmp_path, **FAST) as second:
            # It had looked before the second came, and writes after.
            first._write()
            assert holder_of(tmp_path)["restart"] == 0
            assert second._renewed()
            second.check()
            assert holder_of(tmp_path)["restart"] == 1


def test_another_job_of_the_same_id_is_no_incarnation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash of the controller, ids are used again."""
    incarnation(monkeypatch, 0)
    with Claim(tmp_path):
        incarnation(monkeypatch, 1, "screening-b")
        with pytest.raises(ResourceError, match="another driver is at work there"), Claim(tmp_path):
            pass


def test_a_claim_tells_how_the_run_is(tmp_path: Path) -> None:
    with Claim(tmp_path, beat_s=0.05) as claim:
        claim.facts = {"done": 5}
        until = time.monotonic() + 20
        while holder_of(tmp_path).get("facts") != {"done": 5}:
            assert time.monotonic() < until
        claim.facts = {"long": "x" * CLAIM_BYTES}
        while holder_of(tmp_path).get("facts"):
            assert time.monotonic() < until
    assert holder_of(tmp_path) == {}


def part_of(folder: Path, number: int = 1) -> Claim:
    return Claim(folder, name=f"driver-{number}-of-9.json", rivals=CLAIM_FILE, **FAST)


def test_parts_work_side_by_side_and_a_driver_of_the_whole_run_is_refused(tmp_path: Path) -> None:
    with part_of(tmp_path, 1), part_of(tmp_path, 2):
        with pytest.raises(ResourceError, match="another driver is at work there"), Claim(tmp_path, **FAST):
            pass
        assert not (tmp_path / CLAIM_FILE).exists()
    with Claim(tmp_path, **FAST):
        with pytest.raises(ResourceError, match="another driver is at work there"), part_of(tmp_path):
            pass
        assert [path.name for path in tmp_path.iterdir()] == [CLAIM_FILE]


def test_many_parts_that_died_elsewhere_are_waited_for_once_and_cleared(tmp_path: Path) -> None:
    for number in range(1, 7):
        with part_of(tmp_path, number) as part:
            content = part.path.read_text().replace('"machine": "', '"machine": "another ')
            (tmp_path / f"left-{number}").write_text(content)
        (tmp_path / f"left-{number}").rename(part.path)
    said: list[str] = []
    with Claim(tmp_path, **FAST, say=said.append):
        assert [path.name for path in tmp_path.iterdir()] == [CLAIM_FILE]
    assert len(said) == 1
