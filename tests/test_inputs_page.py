"""docs/inputs.md says what the code does: formats, file names, limits, names of columns; its Python runs."""

import contextlib
import io
import re
from pathlib import Path

import pytest
from page_tables import rows_after

from screening.crystals.archives import TAR, ZIP, is_archive
from screening.crystals.formats import FORMATS, format_of
from screening.crystals.formats.entry import carrier_column, names_id
from screening.crystals.formats.format import Document
from screening.crystals.formats.xyz_columns import FORCE_COLUMNS
from screening.crystals.formats.xyz_comment import STRESS_KEYS
from screening.crystals.labels import canonical
from screening.crystals.validate import CrystalLimits
from screening.runs.config import InputSettings


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs/inputs.md").read_text(encoding="utf-8")


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_the_table_names_every_format(page: str) -> None:
    assert sorted(row[0].strip("`") for row in rows_after(page, "formats")) == sorted(FORMATS)


def test_files_of_these_names_are_of_the_format(page: str) -> None:
    for name, files, *_ in rows_after(page, "formats"):
        for file in quoted(files):
            for spelled in (file, file.upper(), f"{file}.gz"):
                found = format_of(Document(spelled.replace("*", "x7")))
                assert found is not None, spelled
                assert found.name == name.strip("`"), spelled


def test_archives_are_those_of_the_page(page: str) -> None:
    (line,) = [line for line in page.splitlines() if line.startswith("- **Archives**")]
    suffixes = quoted(line)
    assert sorted(suffixes) == sorted([*ZIP, *TAR])
    assert all(is_archive(f"x{suffix}") for suffix in suffixes)


def test_columns_of_ids_and_crystals_are_known(page: str) -> None:
    ids, *_ = rows_between(page, "| column | is |")
    assert all(names_id(name) for name in quoted(ids[0]))
    carriers = quoted(page.split("### Tables\n")[1].split(" holds the crystal")[0])
    assert len(carriers) > 6
    assert all(carrier_column([name]) == name for name in carriers)


def test_names_of_energy_forces_and_stress_are_those_of_the_code(page: str) -> None:
    xyz, *_ = rows_between(page, "| in | energy of the cell")
    assert {canonical(name) for name in quoted(xyz[1])} == {"energy"}
    first, second, *prefixes = quoted(xyz[2])
    names = [f"{prefix}{name}" for prefix in ("", *prefixes) for name in (first, second)]
    assert tuple(names) == FORCE_COLUMNS
    assert tuple(quoted(xyz[3])[:-1]) == STRESS_KEYS


def test_limits_are_those_of_the_code(page: str) -> None:
    distance, volume, atoms = rows_between(page, "| limit | by default |")
    assert distance[1] == f"{CrystalLimits().min_distance} angstrom"
    assert volume[1] == f"{CrystalLimits().min_volume_per_atom} angstrom^3"
    assert (atoms[1], CrystalLimits().max_atoms) == ("any number", None)
    settings = {f"input.{name}" for name in InputSettings.model_fields} - {"input.workers"}
    assert {row[3].strip("`") for row in (distance, volume, atoms)} == settings


def test_the_python_of_the_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(block, {})
        assert said.getvalue().splitlines() == re.findall(r"^ *print\(.*\)  # (.*)$", block, re.MULTILINE)
    assert (tmp_path / "mine.jsonl").exists()


def rows_between(page: str, header: str) -> list[list[str]]:
    """The cells of the table that begins with this header."""
    lines = page[page.index(header) :].splitlines()[2:]
    table = lines[: next(k for k, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
