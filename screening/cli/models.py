"""`screening models`: which models there are, and what they say of themselves."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from screening.cli.app import MODELS, app
from screening.cli.tables import aligned, metrics_table
from screening.errors import ScreeningError
from screening.pretrained.shipped import DEFAULT, RUN_MODEL, model_file, shipped_models

if TYPE_CHECKING:
    from screening.models.header import Card
    from screening.predictions import Target

RUNS = Path("runs")


@dataclass(frozen=True, slots=True)
class Listed:
    """A model file, under its name if it is shipped, and what its header says."""

    name: str | None
    path: Path
    architecture: str
    targets: "tuple[Target, ...]"
    card: "Card"

    @property
    def is_default(self) -> bool:
        """Whether `default` means this one."""
        return self.name == DEFAULT


@app.command(rich_help_panel=MODELS)
def models(
    given: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL...]",
            help="Shipped names, default, model files, or folders to search, such as that of a run; otherwise what is "
            "shipped, and runs/.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the cards as JSON.")] = False,
) -> None:
    """List models with their cards: targets and units, elements, size, metrics.

    By default those that are shipped and those in runs/. What is damaged or not there is named and passed over, and the
    exit code is not 0. A shipped name wins over a file of that name; write `./name` for the file.

    - `screening models default`

    - `screening models runs/cgcnn`
    """
    found: list[Listed] = []
    code = 0
    for word in _words(given):
        try:
            found.append(_read(word))
        except ScreeningError as error:
            print(f"screening: {error}", file=sys.stderr)
            code = error.exit_code
    if as_json:
        print(json.dumps([_as_json(one) for one in found], indent=2))
    else:
        print("\n\n".join("\n".join(_described(one)) for one in found) or _nothing(given))
    raise typer.Exit(code)


def _words(given: list[str] | None) -> Iterator[str]:
    """Yield what to list, a word for each model: those given, or the shipped names and the files of runs."""
    shipped = [*shipped_models(), "default"]
    if given is None:
        yield from shipped_models()
    for word in [str(RUNS)] if given is None else given:
        if word not in shipped and Path(word).is_dir():
            yield from map(str, sorted(Path(word).rglob(RUN_MODEL)))
        elif given is not None:
            yield word


def _read(word: str) -> Listed:
    from screening.models.header import read_card

    path = model_file(word)
    name = next((name for name, file in shipped_models().items() if file == path), None)
    return Listed(name, path, *read_card(path))


def _nothing(given: list[str] | None) -> str:
    where = "shipped with this version, nor in runs/" if given is None else f"in {', '.join(given)}"
    return f"no models {where}: `screening train` makes them"


def _described(one: Listed) -> list[str]:
    from screening.training.mechanics import unit_of_term

    card = one.card
    title = str(one.path) if one.name is None else f"{one.name} (default)" if one.is_default else one.name
    rows = [
        ["title", card.title],
        ["description", card.description],
        ["architecture", one.architecture],
        ["targets", ", ".join(_target(target) for target in one.targets)],
        ["elements", "unknown" if card.elements is None else str(len(card.elements))],
        ["size", f"{one.path.stat().st_size / 1e6:.2f} MB"],
        ["file", str(one.path) if one.name is not None else ""],
        ["created", card.created],
        ["code", card.code_version],
        ["licence", card.licence],
        ["limits", card.limits],
    ]
    lines = [title, aligned([row for row in rows if row[1]])]
    units = {target.name: target.unit for target in one.targets}
    for dataset, metrics in card.metrics.items():
        lines += [dataset, metrics_table(metrics, {name: unit_of_term(name) for name in metrics} | units)]
    return lines


def _target(target: "Target") -> str:
    what = "probability" if target.kind == "classification" else target.unit or "unknown unit"
    return f"{target.name} ({what})"


def _as_json(one: Listed) -> dict[str, Any]:
    targets = [{"name": t.name, "unit": t.unit, "kind": t.kind, "scale": t.scale} for t in one.targets]
    return {
        "name": one.name,
        "default": one.is_default,
        "path": str(one.path),
        "bytes": one.path.stat().st_size,
        "architecture": one.architecture,
        "targets": targets,
        "card": one.card.model_dump(mode="json"),
    }
