"""The pool of reading processes: order, bounds, deaths, failures, and no process left behind."""

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from children import children
from tasks import act

from screening.crystals.pool import WINDOW, Lost, Pool
from screening.errors import ResourceError


def gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE for p in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def run(tasks: list[tuple[str, Any]], workers: int = 2) -> list[Any]:
    with Pool(act, workers) as pool:
        results = list(pool.in_order(tasks))
    assert children() == []
    return results


def test_results_come_in_order_whatever_they_take() -> None:
    tasks = [("sleep", 0.02 * (k % 3)) for k in range(20)]
    assert run(tasks) == tasks
    assert run(tasks[:1], workers=1) == tasks[:1]
    assert run([]) == []


def test_no_more_processes_than_tasks_or_workers() -> None:
    assert len(set(run([("pid", None)], workers=4))) == 1
    with Pool(act, 2) as pool:
        assert len(set(pool.in_order([("pid", None)] * 20))) <= 2


def test_takes_few_tasks_ahead() -> None:
    taken = 0

    def tasks() -> Iterator[tuple[str, Any]]:
        nonlocal taken
        for k in range(60):
            taken = k + 1
            yield ("answer", k)

    with Pool(act, 2) as pool:
        for k, result in enumerate(pool.in_order(tasks())):
            assert result == ("answer", k)
            assert taken <= k + 2 + WINDOW * 2


def test_messages_larger_than_a_pipe() -> None:
    assert [len(r) for r in run([("big", 3_000_000)] * 6)] == [3_000_000] * 6
    assert [len(r[1]) for r in run([("answer", bytes(3_000_000))] * 6)] == [3_000_000] * 6


@pytest.mark.parametrize(
    ("deadly", "cause"),
    [
        (("kill", signal.SIGKILL), "SIGKILL, which the kernel sends when memory is short"),
        (("kill", signal.SIGSEGV), "SIGSEGV"),
        (("exit", 3), "exit code 3"),
    ],
)
def test_a_death_loses_its_own_task_and_the_run_goes_on(deadly: tuple[str, int], cause: str) -> None:
    tasks = [("answer", k) for k in range(12)]
    tasks[5] = deadly
    results = run(tasks)
    lost = [k for k, r in enumerate(results) if isinstance(r, Lost)]
    # The process that died may have had one more task waiting.
    assert 5 in lost
    assert len(lost) <= 2
    assert results[5] == Lost(deadly, cause)
    assert [r for r in results if not isinstance(r, Lost)] == [t for k, t in enumerate(tasks) if k not in lost]


def test_every_process_may_die() -> None:
    assert all(isinstance(r, Lost) for r in run([("kill", signal.SIGKILL)] * 7))


def test_alone(tmp_path: Path) -> None:
    with Pool(act, 2) as pool:
        assert pool.alone(("answer", 1)) == ("answer", 1)
        assert isinstance(pool.alone(("kill", signal.SIGKILL)), Lost)
        assert isinstance(pool.alone(("kill once", str(tmp_path / "died"))), Lost)
        assert pool.alone(("kill once", str(tmp_path / "died"))) == ("kill once", str(tmp_path / "died"))
    assert children() == []


def test_an_error_of_ours_ends_the_run_and_a_strange_one_the_process(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ResourceError, match="no memory"):
        run([("answer", 1), ("refuse", "no memory"), ("answer", 2)])
    assert children() == []
    results = run([("raise", "strange")])
    assert results == [Lost(("raise", "strange"), "exit code 1")]
    assert "RuntimeError: strange" in capfd.readouterr().err


def test_leaving_in_the_middle_leaves_no_process() -> None:
    with Pool(act, 2) as pool:
        results = pool.in_order([("sleep", 0.0), *[("sleep", 100)] * 5])
        next(results)
        assert children()
    assert children() == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_processes_end_with_their_parent(tmp_path: Path, how: signal.Signals) -> None:
    script = textwrap.dedent(f"""
        import sys
        sys.path[:0] = {sys.path!r}
        from tasks import act
        from screening.crystals.pool import Pool
        with Pool(act, 2) as pool:
            for result in pool.in_order([("pid", None), *[("sleep", 100)] * 5]):
                print(result, flush=True)
    """)
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None
    assert int(parent.stdout.readline()) > 0
    pids = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
    assert pids
    parent.send_signal(how)
    parent.wait(20)
    assert gone(pids)
    parent.stdout.close()


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nsys.path[:0] = {sys.path!r}\nprint('once')\n"
        "from tasks import act\nfrom screening.crystals.pool import Pool\n"
        "with Pool(act, 2) as pool: print(list(pool.in_order([('answer', 1)])))\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("once\n[('answer', 1)]\n", "")


def test_processes_that_cannot_start_are_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("screening.crystals.pool.serve.__name__", "serve")
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ResourceError, match="could not start"):
        run([("answer", 1)])
    assert "Error" in capfd.readouterr().err
