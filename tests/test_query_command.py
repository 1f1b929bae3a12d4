"""`screening merge` and `screening query` as a user meets them: tables, files, messages, exit codes."""

import csv
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from made import PERIODIC_KINDS, made_batch, made_crystals
from shards import predicted, write_run
from typer.testing import CliRunner

from screening.cli import app
from screening.cli.query import _range
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Reason, Rejection
from screening.crystals.read import read
from screening.errors import FileFormatError, InputError, ResourceError
from screening.query.export import export, kind_of
from screening.query.query import Query
from screening.runs.claim import Claim
from screening.store.merge import merge
from screening.store.record import INPUT, RESULTS, RUN_FILE, SHARDS
from screening.store.shard import shard_ranges

COMMAND = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; from screening.cli import main; main()"]
CRYSTALS = Crystals.of(made_crystals(60, seed=4, max_atoms=4, kinds=PERIODIC_KINDS))
REJECTIONS = [Rejection("bad[red]\x1b", "b.cif", Reason.UNREADABLE, "bad: a,b\n'c' \x07")]
GAP = predicted(CRYSTALS, 0, 60).values["band_gap"]


def command(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    words = [*COMMAND, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_run(tmp_path_factory.mktemp("run") / "run", CRYSTALS, (25,), rejections=REJECTIONS, failed={7: "NaN"})
    merge(made)
    return made


# --- merge -----------------------------------------------------------------------------------------------------


def test_merge_counts_and_says_where_to_go(tmp_path: Path) -> None:
    made = write_run(tmp_path / "a run", CRYSTALS, (25,), rejections=REJECTIONS, failed={7: "NaN"})
    ended = command("merge", made)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("read      61 crystals, merged in")
    assert lines[1:5] == ["ok        59", "rejected   1", "duplicate  0", "failed     1"]
    assert lines[5].startswith(f"{made / RESULTS}, 0.")
    assert lines[5].endswith(f"; go on with `screening query '{made}'`")
    assert command("merge", made, "--quiet").stdout == ""
    shard_ranges(made / SHARDS)[0][2].unlink()
    (made / f"{RESULTS}.01234567.part").write_bytes(b"what a killed merge left")
    with Claim(made):
        ended = command("merge", made)
    assert ended.returncode == ResourceError.exit_code
    assert "another driver is at work there" in ended.stderr
    ended = command("merge", made)
    assert sorted(path.name for path in made.iterdir()) == [INPUT, RESULTS, RUN_FILE, SHARDS]
    assert ended.returncode == InputError.exit_code
    assert ended.stderr.startswith(f"screening: {made}: rows 0 to 24 are not done (25 of 60); give the same")


# --- on the terminal -------------------------------------------------------------------------------------------


def test_a_table_in_a_pipe_is_whole(run: Path) -> None:
    ended = command("query", run, "--where", "band_gap > 0", "--top", 3, "--by", "band_gap", "--descending")
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    head = "id formula nsites formation_energy_per_atom eV/atom band_gap eV is_metal bulk_modulus GPa row"
    assert lines[0].split() == head.split()
    best = sorted((row for row in range(60) if row != 7), key=lambda row: -GAP[row])[:3]
    assert [line.split()[0] for line in lines[1:]] == [CRYSTALS.ids[row] for row in best]


def test_without_top_some_rows_are_shown_and_the_rest_counted(run: Path) -> None:
    ended = command("query", run)
    assert len(ended.stdout.splitlines()) == 21
    assert ended.stderr == "20 of 59 crystals; --top N shows more, -o FILE writes all\n"
    ended = command("query", run, "--where", "band_gap > 99")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "no crystal is like that\n")


def test_texts_cannot_write_to_the_terminal(run: Path) -> None:
    ended = command("query", run, "--status", "rejected", "--columns", "id,reason,message")
    assert ended.stdout.splitlines()[1].split("  ") == ["bad[red]?", "unreadable", "bad: a,b 'c' ?"]


def test_a_table_on_a_terminal(run: Path) -> None:
    shown, own = pty.openpty()
    words = [*COMMAND, "query", str(run), "--status", "rejected", "--columns", "id,message"]
    environment = os.environ | {"COLUMNS": "100", "TERM": "xterm"}
    ended = subprocess.run(words, stdout=own, stderr=subprocess.PIPE, timeout=60, env=environment)
    os.close(own)
    said = os.read(shown, 10_000).decode()
    os.close(shown)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert "bad[red]?" in said
    assert "message" in said


def test_a_run_that_is_not_done_says_so(tmp_path: Path) -> None:
    made = write_run(tmp_path / "run", CRYSTALS, (25,))
    shard_ranges(made / SHARDS)[0][2].unlink()
    ended = command("query", made, "--top", 1, "--columns", "row")
    assert ended.stdout.split() == ["row", "25"]
    assert ended.stderr == "screening: this run is not done, 25 of 60 rows are missing\n"


# --- files -----------------------------------------------------------------------------------------------------


def test_tables_hold_what_was_asked(run: Path, tmp_path: Path) -> None:
    asked = ["--top", 5, "--by", "band_gap", "--columns", "id,elements,band_gap,row"]
    expected = Query(run).top(5, by="band_gap").columns("id", "elements", "band_gap", "row").frame()
    for name in ("s.csv", "s.parquet", "s.jsonl"):
        ended = command("query", run, *asked, "-o", tmp_path / name)
        assert (ended.stdout, ended.stderr) == (f"5 crystals in {tmp_path / name}\n", "")
    assert pl.read_parquet(tmp_path / "s.parquet").equals(expected)
    with (tmp_path / "s.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    for row, line, held in zip(rows, lines, expected.rows(named=True), strict=True):
        assert {**line, "band_gap": held["band_gap"]} == held
        assert {name: row[name] for name in ("id", "elements")} == {name: held[name] for name in ("id", "elements")}
        assert float(row["band_gap"]) == pytest.approx(held["band_gap"], rel=1e-7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.csv", "s.jsonl", "s.parquet"]


def test_missing_values_and_odd_texts_survive_a_csv(run: Path, tmp_path: Path) -> None:
    command("query", run, "--status", "all", "-o", tmp_path / "all.csv")
    with (tmp_path / "all.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 61
    assert rows[7]["band_gap"] == ""
    assert rows[60]["message"] == "bad: a,b\n'c' \x07"
    command("query", run, "--where", "band_gap > 99", "-o", tmp_path / "none.csv")
    assert (
        tmp_path / "none.csv"
    ).read_text() == "id,formula,nsites,formation_energy_per_atom,band_gap,is_metal,bulk_modulus,row\n"


def test_crystals_carry_their_predictions(run: Path, tmp_path: Path) -> None:
    frame = Query(run).top(4, by="band_gap").frame()
    for name in ("s.extxyz", "s.xyz.gz", "cifs/"):
        ended = command("query", run, "--top", 4, "--by", "band_gap", "-o", f"{tmp_path}/{name}")
        assert (ended.returncode, ended.stderr) == (0, "")
        found = {crystal.id: crystal for crystal in read([tmp_path / name]) if not isinstance(crystal, Rejection)}
        assert sorted(found) == sorted(frame["id"])
        for row in frame.rows(named=True):
            crystal = found[row["id"]]
            assert len(crystal) == row["nsites"]
            assert crystal.labels["band_gap"] == pytest.approx(row["band_gap"], rel=1e-6)
            assert sorted(crystal.labels) == ["band_gap", "bulk_modulus", "formation_energy_per_atom", "is_metal"]
    assert len(list((tmp_path / "cifs").glob("*.cif"))) == 4


def test_what_to_write_can_be_said(run: Path, tmp_path: Path) -> None:
    asked = ["query", run, "--top", 4, "--by", "band_gap"]
    ended = command(*asked, "--to", "poscar", "-o", tmp_path / "for_vasp")
    assert (ended.returncode, ended.stdout) == (0, f"4 crystals in {tmp_path}/for_vasp\n")
    names = sorted(path.parent.name for path in (tmp_path / "for_vasp").glob("*/POSCAR"))
    assert names == sorted(Query(run).top(4, by="band_gap").frame()["id"])
    assert command(*asked, "--to", "csv", "-o", tmp_path / "table.txt").returncode == 0
    assert len((tmp_path / "table.txt").read_text().splitlines()) == 5
    assert "--to: says what to write; name a file" in command(*asked, "--to", "cif").stderr
    with pytest.raises(InputError, match="cannot write 'xml'; choose one of csv, jsonl, parquet, extxyz, cif, poscar"):
        export(Query(run), str(tmp_path / "a"), to="xml")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.csv", "csv"),
        ("a.b.parquet", "parquet"),
        ("a.XYZ", "extxyz"),
        ("a.extxyz.gz", "extxyz"),
        ("a/", "cif"),
        ("a", "cif"),
        ("a.csv/", "cif"),
    ],
)
def test_names_tell_what_to_write(name: str, kind: str) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize("name", ["a.json", "a.csv.gz", "a.cif", "a.h5"])
def test_names_that_tell_nothing(name: str) -> None:
    with pytest.raises(InputError, match="its name does not tell what to write"):
        kind_of(name)


# --- errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--where", "bandgapp > 1"], "where: there is no column 'bandgapp' in these results; did you mean band_gap?"),
        (["--where", "band_gap > 1 AND"], "where: 'band_gap > 1 AND' has the end where a column"),
        (["--by", "gapp"], "by: there is no column 'gapp'"),
        (["--columns", "id,nope"], "columns: there is no column 'nope'"),
        (["--elements-all", "Li,Xx"], "all: 'Xx' is no element"),
        (["--nelements", "many"], "--nelements: 'many' is no range; expected a number, 2:4, 2: or :4"),
        (["--status", "good"], "status: 'good' is none"),
        (["--descending"], "--descending: says how --by puts rows in order"),
        (["-o", "a.doc"], "a.doc: its name does not tell what to write"),
        (["-o", "none/a.csv"], "none/a.csv: there is no folder none; make it first"),
        (["--status", "all", "-o", "a.extxyz"], "was refused by packing, so there are no atoms of it"),
    ],
)
def test_mistakes_are_told(run: Path, words: list[str], said: str) -> None:
    ended = CliRunner().invoke(app, ["query", str(run), *words])
    assert isinstance(ended.exception, InputError)
    assert said in str(ended.exception)
    assert ended.stdout == ""


@pytest.mark.parametrize("name", ["provenance.jsonl", "slurm.jsonl"])
def test_what_a_run_says_of_itself_is_not_overwritten(run: Path, name: str) -> None:
    (run / name).write_text("{}\n")
    ended = CliRunner().invoke(app, ["query", str(run), "-o", str(run / name)])
    assert isinstance(ended.exception, InputError)
    assert "belongs to the run itself; choose another name" in str(ended.exception)
    assert (run / name).read_text() == "{}\n"
    (run / name).unlink()


def test_a_mistake_is_one_line(run: Path) -> None:
    ended = command("query", run, "--where", "bandgapp > 1")
    assert (ended.returncode, ended.stdout) == (InputError.exit_code, "")
    assert ended.stderr.startswith("screening: where: there is no column 'bandgapp'")
    assert ended.stderr.count("\n") == 1


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    for arguments in (("query", tmp_path), ("merge", tmp_path), ("query", tmp_path / "none")):
        ended = command(*arguments)
        assert ended.returncode == InputError.exit_code
        assert "screening screen --out" in ended.stderr
    (tmp_path / RESULTS).write_text("no HDF5")
    assert command("query", tmp_path).returncode == FileFormatError.exit_code


def test_a_full_disk_leaves_the_older_table(tmp_path: Path) -> None:
    made = write_run(tmp_path / "run", made_batch(3000))
    older = tmp_path / "s.csv"
    older.write_text("older")
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
    words = [sys.executable, "-c", limited + COMMAND[2], "query", str(made), "-o", str(older)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert ended.returncode == ResourceError.exit_code
    assert "a size limit was reached" in ended.stderr
    assert older.read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "s.csv"]


@pytest.mark.parametrize(("text", "bounds"), [("3", (3, 3)), ("2:4", (2, 4)), ("2:", (2, 255)), (":4", (1, 4))])
def test_ranges(text: str, bounds: tuple[int, int]) -> None:
    assert _range(text) == bounds


# --- start -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["--top", "3", "--by", "band_gap", "-o", "s.csv"], ["--elements-none", "O"], ["-o", "s.extxyz"]]
)
def test_nothing_heavy_is_loaded(run: Path, tmp_path: Path, words: list[str]) -> None:
    heavy = ["torch", "pymatgen", "dask", "distributed", "ase", "scipy", "pandas", "plotly", "matplotlib"]
    tell = f"import atexit, sys; atexit.register(lambda: print(set(sys.modules) & set({heavy!r}), file=sys.stderr)); "
    words = [sys.executable, "-c", tell + COMMAND[2], "query", str(run), *words]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert ended.returncode == 0
    assert ended.stderr.splitlines()[-1] == "set()"
