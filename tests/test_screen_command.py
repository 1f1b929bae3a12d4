"""`screening screen` on the command line: what it prints, logs and exits with."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import screens
from made import made_crystals
from typer.testing import CliRunner, Result

from screening.cli import app
from screening.cli.app import Stop
from screening.cli.event_log import EventLog
from screening.cli.screen_progress import Display, _described
from screening.crystals.pack import Tally
from screening.crystals.write import write
from screening.runs.listener import Progress

COMMAND = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; from screening.cli import main; main()"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("command")
    (folder / "in").mkdir()
    write(made_crystals(40), folder / "in" / "a.extxyz", format="extxyz")
    (folder / "in" / "b.cif").write_text("nothing")
    (folder / "in" / "NOTES").write_text("what this is")
    screens.saved_model(folder / "m.safetensors")
    return folder


def test_a_screen_from_files_to_results(tmp_path: Path, made: Path) -> None:
    out, log, config = tmp_path / "a run", tmp_path / "log.jsonl", tmp_path / "screen.toml"
    config.write_text("[shards]\nleast = 10\nmost = 20\n")
    arguments = ["screen", made / "in", "--out", out, "-m", made / "m.safetensors", "--config", config]
    arguments += ["--set", "batches.max_atoms=50", "--workers", 1, "--log", log]
    ran = run(*arguments)
    # On a slow machine, how far it is, every half minute.
    said = [line for line in ran.stderr.splitlines() if not re.match(r"\d+ (of \d+, |crystals)", line)]
    assert (ran.returncode, said) == (0, [])
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("predicted 40 crystals in ")
    assert [line.split() for line in lines[1:6]] == [
        ["ok", "40"],
        ["rejected", "1"],
        ["duplicate", "0"],
        ["failed", "0"],
        ["read", "41"],
    ]
    passed_over = f"files of no known format, passed over: 1, the first {made}/in/NOTES"
    assert lines[6:8] == [
        passed_over,
        f"the reasons: screening query '{out}' --status rejected --columns id,source,reason,message",
    ]
    assert re.match(r"ok, but not periodic in all three directions: \d+; without them: --where ", lines[8])
    assert lines[-3] == f"results in {out}/results.h5"
    assert lines[-2] == f"next: screening query '{out}' --top 10 --by formation_energy_per_atom"
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["event"] for event in events if event["event"] in ("packing", "packed", "started", "merged")] == [
        "packing",
        "packed",
        "started",
        "merged",
    ]
    packed = next(event for event in events if event["event"] == "packed")
    assert packed["passed_over"] == {"files": 1, "first": f"{made}/in/NOTES"}
    assert all(event["time"].endswith("+00:00") for event in events)
    content = json.loads((out / "run.json").read_text())
    assert (content["config"]["shards"]["most"], content["config"]["batches"]["max_atoms"]) == (20, 50)
    finished = run(*arguments)
    assert finished.stdout.splitlines()[0] == "nothing was left to predict"
    assert passed_over in finished.stdout.splitlines()
    again = run(*arguments, "--quiet")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def invoked(*arguments: object) -> Result:
    stop = Stop.__new__(Stop)
    stop.number, stop._polite = 0, False
    return CliRunner().invoke(app, ["screen", *map(str, arguments)], obj=stop)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--set", "shards.mst=3"], "shards.mst is unknown; did you mean most?"),
        (["--set", "shards.least=30000"], "least is 30000, more than most, 10000"),
        (["--device", "tpu"], "device: Input should be 'cpu' or 'cuda', got 'tpu'"),
        (["--config", "none.toml"], "none.toml: cannot be read"),
        (["-m", "none"], "none: is no file, no folder and no shipped model"),
        (["-m", "7"], "7: is no file, no folder and no shipped model"),
        (["-m", "\U0001f48e\x7f"], "\U0001f48e\x7f: is no file, no folder and no shipped model"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_a_line(made: Path, tmp_path: Path, options: list[str], said: str) -> None:
    found = invoked(made / "in" / "a.extxyz", "--out", tmp_path / "run", "-m", made / "m.safetensors", *options)
    assert said in str(found.exception)
    assert not (tmp_path / "run").exists()


def test_help_needs_no_torch() -> None:
    code = "import sys; from screening.cli import app; app(['screen', '--help'], standalone_mode=False); "
    code += "print(sorted({'torch', 'dask', 'distributed', 'numpy'} & set(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines()[-1] == "[]"
    assert "exits with code 75" in " ".join(ran.stdout.replace("│", " ").split())


def test_a_driver_loads_no_torch() -> None:
    code = "import sys, screening.runs.screen, screening.runs.local_cluster; print('torch' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "False\n"


# --- what is shown on the way ------------------------------------------------------------------------------------


def test_progress_in_words() -> None:
    progress = Progress(1000, before=100, refused=7)
    assert _described(progress) == "workers are starting, 100 done before, 7 refused by packing"
    progress.workers, progress.rows, progress.elapsed, progress.lost_workers = 2, 300, 3.0, 1
    progress.statuses.update(ok=290, failed=10)
    progress.dashboard = "http://127.0.0.1:8787/status"
    assert _described(progress) == (
        "100 crystals/s, 2 workers, 100 done before, 290 ok, 10 failed, 7 refused by packing, 1 worker lost, "
        "http://127.0.0.1:8787/status"
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_bars_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Display(quiet=False, total_bytes=100) as display:
        display.packed(Tally(accepted=3))
        progress = Progress(10, rows=5, elapsed=1.0, workers=1)
        display.show(progress)
        display.say("two shards are damaged")
        display.show(progress)
        display.merged(5, 10)
    shown = terminal.getvalue()
    assert "3 crystals" in shown
    assert "two shards are damaged\n" in shown
    assert "merged 5 of 10 rows" in shown


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(quiet=True, total_bytes=None) as display:
        display.packed(Tally())
        display.show(Progress(10))
        display.merged(1, 2)
        display.say("a word")
    assert capsys.readouterr() == ("", "")


def test_the_log_has_a_line_per_event(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for kind in ("first", "second"):
        with EventLog(path) as log:
            log.tell(kind, {"é": 1.5})
    found: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(event["event"], event["é"]) for event in found] == [("first", 1.5), ("second", 1.5)]
    with EventLog(None) as nothing:
        nothing.tell("kind", {})
