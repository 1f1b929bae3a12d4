"""`screening evaluate`: judge a model by labelled crystals."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from screening.cli.app import MODELS, app
from screening.cli.tables import metrics_table, potential_table
from screening.cli.telling import say
from screening.errors import InputError


@app.command(rich_help_panel=MODELS)
def evaluate(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A model file, the folder of a run, a shipped model's name, or default."),
    ],
    inputs: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Crystals with labels, in any format.")],
    as_json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the metrics here too.")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw predictions against labels.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of a potential: the source whose references energies are above."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
) -> None:
    """Compare a model's predictions with the labels of crystals.

    For each target: how many labels there are, MAE, RMSE, R2 and Spearman's rank correlation, or AUC and accuracy for a
    yes or no. Targets without labels have a count of 0; with labels of none, it is an error. A name that
    `screening models` lists is that shipped model; write `./name` for a file or a folder of that name.

    Of a potential that `screening train-forces` made: errors of energies, of components of forces and of stress, in
    all, by file and by element. Energies are above the references of the source that has the file's name, or of
    `--source`.

    - `screening evaluate runs/cgcnn val.extxyz --json metrics.json --plot parity.png`

    - `screening evaluate runs/potential mlearn-test.extxyz --source mlearn.extxyz`
    """
    from screening.pretrained.shipped import load_model, model_file

    # Before torch, which takes seconds to load.
    file = model_file(model)
    _require_places(as_json, plot, inputs)
    from screening.inference import usable_device
    from screening.models.potential_files import REFERENCED
    from screening.training.judge import evaluate as judged
    from screening.training.judge_potential import evaluate_potential

    loaded, card = load_model(file, device=str(usable_device(device)))
    if REFERENCED in {target.name for target in loaded.targets}:
        if plot is not None:
            raise InputError(f"{model}: is a potential, of which --plot draws nothing; leave it out")
        errors = evaluate_potential(
            loaded,
            card,
            inputs,
            source=source,
            workers=workers,
            device=device,
            say=say,
            check=context.obj.check,
        )
        print("\n".join(_compared(errors)))
        _write_json(as_json, errors)
        return
    if source is not None:
        raise InputError(f"{model}: is no potential of `screening train-forces`, so it has no --source of energies")
    found = judged(loaded, inputs, workers=workers, device=device, plot=plot, say=say, check=context.obj.check)
    print(metrics_table(found, {target.name: target.unit for target in loaded.targets}))
    _write_json(as_json, {"targets": found})


def _compared(errors: dict[str, dict[str, Any]]) -> list[str]:
    """Errors of a potential: of all files, then of each, then by element, as far as there are several."""
    from screening.training.mechanics import TERMS

    several = [found for found in (errors["file"], errors["element"]) if len(found) > 1]
    units = ", ".join(f"{term} {unit}" for term, unit in TERMS.items())
    return [*(potential_table(found) for found in (errors["all"], *several)), f"units: {units}"]


def _require_places(as_json: Path | None, plot: Path | None, inputs: Sequence[Path]) -> None:
    """Refuse, before hours of predicting, files that could not be written, or are inputs."""
    from screening.crystals.write import require_no_input
    from screening.files.whole import require_place

    if plot is not None and plot.suffix.lower() != ".png":
        raise InputError(f"{plot}: what is drawn is a PNG; end the name in .png")
    for path in (as_json, plot):
        if path is not None:
            require_place(path)
            require_no_input(path, inputs)


def _write_json(path: Path | None, found: dict[str, Any]) -> None:
    if path is not None:
        from screening.files.whole import write_whole

        write_whole(path, [(json.dumps(found, indent=2, allow_nan=False) + "\n").encode()])
