"""docs/query.md says what the code does: options of both commands, conditions, its lines of Python."""

import re
from pathlib import Path

import pytest
import typer.main
from made import made_crystals
from page_tables import rows_after
from shards import write_run

from screening.cli import app
from screening.crystals.batch import Crystals
from screening.query.query import Query
from screening.store.merge import merge


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs/query.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a merged run of the name that the page uses."""
    made = tmp_path_factory.mktemp("page")
    merge(write_run(made / "RUN", Crystals.of(made_crystals(50, seed=6)), (20,)))
    return made


def options_of(command: str) -> list[tuple[str, ...]]:
    """What each option of a command is called, with what its help shows behind it, in order."""
    parameters = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    return [
        tuple([f"{p.opts[0]} {p.metavar}" if p.metavar else p.opts[0], *p.opts[1:]])
        for p in parameters
        if p.param_type_name == "option" and "--help" not in p.opts
    ]


@pytest.mark.parametrize("command", ["query", "report"])
def test_the_table_of_options_is_the_command(page: str, command: str) -> None:
    listed = [tuple(re.findall(r"`([^`]+)`", row[0])) for row in rows_after(page, command)]
    assert listed == options_of(command)


def test_the_lines_of_python_run(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    exec(page.split("```python\n")[1].split("```")[0], {})
    (call,) = re.findall(r"`(screening\.write_report[^`]*\))`", page)
    exec(f"import screening; {call}", {})
    assert Path("report.html").exists()


def test_the_conditions_of_the_page_can_be_asked(page: str, folder: Path) -> None:
    query = Query(folder / "RUN")
    for row in page.split("| in a condition | means |")[1].split("\n\n")[0].splitlines()[2:]:
        for example in row.split(" | ")[0].split("`")[1::2]:
            if example.startswith(("elements", "HAS ALL")):
                query.where(example if example.startswith("elements") else f"elements {example}")
            elif example.startswith(("IN", "BETWEEN", "IS")):
                query.where(f"band_gap {example}")
                query.where(f"NOT band_gap {example}")
            elif example.startswith("LIKE"):
                query.where(f"id NOT {example}")
