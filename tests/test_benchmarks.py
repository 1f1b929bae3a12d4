"""The stopwatch and the table of the benchmarks: turns, ratios, promises, footprints; and that each case can be run."""

import argparse
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import bench
import gpu
import pytest
import threads
import timing
import torch
from timing import Row

from screening.ops import core


def test_every_round_calls_each_once_and_the_order_rotates() -> None:
    calls: list[str] = []
    seconds = timing.interleaved({name: lambda name=name: calls.append(name) for name in "abc"}, 3, warm_up=False)  # type: ignore[misc]
    assert "".join(calls) == "abcbcacab"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert all(t >= 0 for times in seconds.values() for t in times)


def test_warming_up_is_not_timed() -> None:
    calls: list[int] = []
    seconds = timing.interleaved({"only": lambda: calls.append(0)}, 2)
    assert len(calls) == 3
    assert len(seconds["only"]) == 2


def test_the_ratio_is_taken_within_rounds_so_that_a_slow_round_does_not_count() -> None:
    assert timing.paired_ratio(theirs=[2.0, 20.0, 2.0], ours=[1.0, 10.0, 1.0]) == 2.0
    with pytest.raises(ValueError, match="zip"):
        timing.paired_ratio([1.0], [1.0, 2.0])


def test_the_fastest_peer_is_the_one_compared_with() -> None:
    seconds = {"ours": [1.0, 1.0, 1.0], "slow": [9.0, 9.0, 9.0], "fast": [4.0, 4.0, 4.0]}
    row = timing.versus_fastest("case", seconds, ours="ours", count=100, at_least=5)
    assert (row.ours, row.peer, row.theirs, row.ratio) == (100, "fast", 25, 4)
    assert row.met is False


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row("c", "u", ours=10), None),
        (Row("c", "u", ours=10, at_least=10), True),
        (Row("c", "u", ours=10, at_most=9), False),
        (Row("c", "u", ours=10, at_least=5, at_most=20), True),
        (Row("c", "u", ours=10, peer="p", theirs=9, ratio=1.1, at_least=2), False),
    ],
)
def test_a_promise_bounds_the_ratio_or_else_our_figure(row: Row, met: bool | None) -> None:
    assert row.met is met


@pytest.mark.usefixtures("one_torch_thread")
def test_threads_go_to_native_calls_or_to_torch() -> None:
    def both(native: int) -> tuple[int, bool]:
        return torch.get_num_threads(), core.threads() == native

    before = core.threads()
    assert threads.as_we_do(3, both, 3) == (1, True)
    assert threads.as_torch_does(2, both, native=before) == (2, True)
    assert [threads.in_words(count) for count in (1, 2)] == ["1 thread", "2 threads"]


def test_the_table_lines_up() -> None:
    rows = [Row("a long case", "1/s", 123456.0, "peer", 1234.0, 100.04, at_least=30), Row("b", "MiB", 0.5, at_most=0.1)]
    lines = timing.render(rows).splitlines()
    assert lines[1].split() == ["a", "long", "case", "123,456", "peer", "1,234", "1/s", "100.04x", ">=", "30", "met"]
    assert lines[2].split() == ["b", "0.5", "-", "-", "MiB", "-", "<=", "0.1", "MISSED"]
    assert lines[0].index("ours") + 4 == lines[1].index("123,456") + 7


def test_the_report_keeps_machine_and_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timing.report([Row("case", "u", 1.0, at_least=2)], json_path=tmp_path / "figures.json")
    kept = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert kept["machine"]["python"]
    assert kept["rows"][0]["case"] == "case"
    assert kept["rows"][0]["met"] is False
    assert "MISSED" in capsys.readouterr().out


def test_a_footprint_sees_memory_of_children_too() -> None:
    hold = "import time; held = b'x' * (200 << 20); time.sleep(0.5)"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}], check=True)"
    assert 200 < timing.footprint([sys.executable, "-c", nested]).peak_mib < 400


def test_pages_of_a_mapped_file_are_no_memory_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(200 << 20))
    read = "import sys, time, numpy; m = numpy.memmap(sys.argv[1]); print(m[::4096].sum()); time.sleep(0.5)"
    used = timing.footprint([sys.executable, "-c", read, str(file)])
    assert used.largest_mib > 200 > used.own_mib


def test_a_command_that_fails_has_no_footprint() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        timing.footprint([sys.executable, "-c", "raise SystemExit(3)"])


@pytest.mark.parametrize("name", bench.case_names())
def test_every_case_can_be_run(name: str) -> None:
    inspect.signature(bench.case(name)).bind(quick=True)


def test_a_module_beside_the_cases_stands_alone_or_measures_nothing(root: Path) -> None:
    modules = {path.stem for path in (root / "benchmarks").glob("*.py")}
    assert modules > bench.SHARED | bench.ALONE
    assert [name for name in bench.SHARED if hasattr(importlib.import_module(name), "run")] == []
    for name in bench.ALONE:
        inspect.signature(bench.case(name)).bind()
    page = (root / "docs/architecture.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith("| `benchmarks/`")]
    assert {name for name in modules if f"`{name}.py`" in row} == {*bench.ALONE, "timing"}


def test_cases_that_take_real_crystals_are_told_and_named() -> None:
    takes = {name for name in bench.case_names() if "data" in inspect.signature(bench.case(name)).parameters}
    assert takes == set(bench.TAKE_DATA)
    (line,) = [line for line in (bench.__doc__ or "").splitlines() if "--data" in line]
    assert takes <= set(re.findall(r"\w+", line))


def test_a_script_gives_its_case_what_its_options_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given: list[object] = []
    crystals = tmp_path / "few.xyz"
    crystals.touch()

    def run(*, quick: bool = False, data: Path | None = None, count: int = 3) -> list[Row]:
        given.append((quick, data, count))
        return [Row("case", "u", 1.0)]

    def own_options(options: argparse.ArgumentParser) -> None:
        options.add_argument("--count", type=int, default=3)

    timing.main(run, own_options, [])
    timing.main(run, own_options, ["--quick", f"--data={crystals}", "--count", "5", f"--json={tmp_path / 'kept.json'}"])
    assert given == [(False, None, 3), (True, crystals, 5)]
    assert json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))["rows"][0]["case"] == "case"
    for wrong, why in (
        (["--data", "absent.xyz"], "there is no file absent.xyz"),
        (["--rounds", "3"], "unrecognized arguments: --rounds 3"),
    ):
        with pytest.raises(SystemExit):
            timing.main(run, own_options, wrong)
        assert why in capsys.readouterr().err


def test_a_case_without_real_crystals_takes_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        timing.main(lambda *, quick: pytest.fail("nothing may run"), None, ["--data=few.xyz"])
    assert "unrecognized arguments: --data=few.xyz" in capsys.readouterr().err


def test_real_crystals_reach_the_cases_that_take_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[object] = []

    def takes(*, quick: bool, data: Path | None) -> list[Row]:
        given.append(data)
        return []

    def fine(*, quick: bool) -> list[Row]:
        given.append("nothing")
        return []

    crystals = tmp_path / "few.xyz"
    crystals.touch()
    monkeypatch.setattr(bench, "case", {"models": takes, "read_cif": fine}.__getitem__)
    assert bench.main(["--only", "models", "read_cif", f"--data={crystals}"]) == 0
    assert bench.main(["--only", "models"]) == 0
    assert given == [crystals, "nothing", None]
    with pytest.raises(SystemExit):
        bench.main(["--only", "read_cif", f"--data={crystals}"])
    assert "these do: models, neighbor_lists, read_extxyz" in capsys.readouterr().err


def test_the_results_page_names_cases_that_exist(root: Path) -> None:
    page = (root / "docs/results.md").read_text(encoding="utf-8")
    named = {name for names in re.findall(r"--only ([\w ]+)", page) for name in names.split()}
    assert named
    assert named <= set(bench.case_names())


def test_a_case_that_fails_is_named_and_the_rest_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*, quick: bool) -> list[Row]:
        raise RuntimeError(f"no data, quick={quick}")

    def fine(*, quick: bool) -> list[Row]:
        return [Row("fine", "u", 1.0, at_least=1)]

    cases = {"broken": broken, "fine": fine}
    monkeypatch.setattr(bench, "case_names", lambda: list(cases))
    monkeypatch.setattr(bench, "case", cases.__getitem__)
    assert bench.main(["--quick"]) == 1
    printed = capsys.readouterr()
    assert "1 of 1 promises met" in printed.out
    assert "no data, quick=True" in printed.err
    assert "failed to run: broken" in printed.err


@pytest.mark.parametrize(
    ("compiled", "devices", "seen", "says"),
    [
        (False, 0, False, "without CUDA"),
        (True, 0, True, "the native module sees no"),
        (True, 1, False, "torch sees no"),
        (True, 1, True, ""),
    ],
)
def test_what_a_gpu_lacks_is_said(
    compiled: bool, devices: int, seen: bool, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "cuda_compiled", lambda: compiled)
    monkeypatch.setattr(core, "cuda_device_count", lambda: devices)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen)
    found = gpu.absence()
    assert says in found
    assert bool(found) == bool(says)


@pytest.mark.parametrize("name", ["message_gpu", "neighbor_lists_gpu"])
def test_nothing_is_measured_without_a_gpu(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(core, "cuda_compiled", lambda: False)
    assert bench.case(name)(quick=True) == []
    assert f"{name}: nothing measured, the native module was built without CUDA" in capsys.readouterr().err
