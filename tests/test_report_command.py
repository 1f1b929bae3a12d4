"""`screening report` as a user meets it: what it prints, what it refuses, and what it loads."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made import made_crystals
from pages import page_of
from shards import write_run

from screening.crystals.batch import Crystals
from screening.errors import InputError, ResourceError
from screening.store.merge import merge
from screening.store.record import INPUT, RESULTS, SHARDS
from screening.store.shard import shard_name

MAIN = f"import sys; sys.path[:0] = {sys.path!r}; from screening.cli import main"
HEAVY = ("torch", "pymatgen", "ase", "dask", "distributed", "polars", "pandas", "plotly", "matplotlib", "scipy")


def command(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", f"{MAIN}; main()", "report", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_run(tmp_path_factory.mktemp("run") / "run", Crystals.of(made_crystals(60, seed=4)), (25,))
    merge(made)
    return made


def test_a_report_says_what_it_holds_and_where_it_is(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "r.html"
    ended = command(run, "-o", output, "--where", "band_gap > 0", "--where", "nelements > 1", "--title", "mine <b>")
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("60 predicted crystals, ")
    assert lines[0].endswith(" asked for: (band_gap > 0) AND (nelements > 1)")
    assert lines[1].startswith(f"{output}, 0.")
    assert page_of(output.read_text(encoding="utf-8")).one("h1").text == "mine <b>"
    assert command(run, "-o", output, "--quiet").stdout == ""


def test_without_a_name_the_page_lies_beside_the_results(run: Path) -> None:
    assert command(run, "-q").returncode == 0
    first = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    assert command(run / RESULTS, "-q").returncode == 0
    assert (run / "report.html").read_bytes() == first


def test_options_choose_and_order_the_cards(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "r.html"
    assert command(run, "-o", output, "--top", 3, "--by", "bulk_modulus", "--descending").returncode == 0
    document = page_of(output.read_text(encoding="utf-8"))
    values = [float(node.text.removesuffix(" GPa")) for node in document.one("ol", "cards").all("dd", "by")]
    assert values == sorted(values, reverse=True)
    assert len(values) == 3
    assert "--by bulk_modulus --descending --top 3" in document.by_id("repeat").text
    for by, first in (("bulk_modulus / 2", "bulk_modulus / 2"), ("BULK_MODULUS", "Bulk modulus"), ("nsites", "nsites")):
        assert command(run, "-o", output, "--top", 1, "--by", by).returncode == 0
        card = page_of(output.read_text(encoding="utf-8")).one("ol", "cards")
        assert next(card.all("dt")).text == first
        assert next(card.all("dd")).classes == ["by"]


def test_what_is_missing_is_told(run: Path, tmp_path: Path) -> None:
    half = shutil.copytree(run, tmp_path / "half")
    (half / RESULTS).unlink()
    (half / SHARDS / shard_name(0, 25)).unlink()
    ended = command(half)
    assert (ended.returncode, ended.stderr) == (0, "screening: this run is not done, 25 rows are missing\n")
    alone = tmp_path / "alone.h5"
    shutil.copy(run / RESULTS, alone)
    ended = command(alone)
    assert ended.returncode == 0
    assert (
        ended.stderr
        == "screening: the packed input is not there, so no crystals are drawn; say where it is with --input\n"
    )
    assert command(alone, "--input", run / INPUT).stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "r.txt"], "r.txt: a report is a page; give it a name that ends in .html"),
        (["-o", "results.h5"], "results.h5: a report is a page"),
        (["--descending"], "--descending: says how --by puts crystals in order; name a column with --by"),
        (["--where", "band_gab > 1"], "--where: there is no column 'band_gab' in these results; did you mean band_gap"),
        (["--by", "id"], "by: 'id' has text where a number is expected"),
        (["--input", "nowhere.h5"], "nowhere.h5: there is no such file; --input names the packed input of the run"),
        (["-o", "no/folder/r.html"], "no/folder/r.html: there is no folder no/folder; make it first"),
    ],
)
def test_wrong_arguments_are_told(run: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    ended = command(run, *arguments, cwd=tmp_path)
    assert ended.returncode == InputError.exit_code
    assert ended.stderr.startswith(f"screening: {message}")
    assert ended.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("top", ["0", "51"])
def test_cards_are_few(run: Path, top: str) -> None:
    assert command(run, "--top", top).returncode == 2


def test_no_run(tmp_path: Path) -> None:
    ended = command(tmp_path / "none")
    assert ended.returncode == InputError.exit_code
    assert "none: is no folder; name the folder that `screening screen --out` was given" in ended.stderr


def test_a_full_disk_leaves_the_older_page(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "r.html"
    output.write_text("older")
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    called = f"sys.argv = ['screening', 'report', {str(run)!r}, '-o', {str(output)!r}]; main()"
    words = [sys.executable, "-c", f"{limit}; {MAIN}; {called}"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert ended.returncode == ResourceError.exit_code
    assert "r.html: the disk is full or a size limit was reached" in ended.stderr
    assert output.read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_nothing_heavy_is_loaded(run: Path, tmp_path: Path) -> None:
    code = (
        f"{MAIN}, app; app(['report', {str(run)!r}, '-q', '-o', {str(tmp_path / 'r.html')!r}], standalone_mode=False); "
    )
    code += f"print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout.split()) == (0, []), ended.stderr
