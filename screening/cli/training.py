"""`screening train` and `screening evaluate`: make a model from labelled crystals, and judge one by them."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from screening.cli.app import app
from screening.cli.progress import Watch, training_progress
from screening.cli.tables import metrics_table
from screening.errors import InputError

if TYPE_CHECKING:
    from screening.runs.clusters import ClusterChoice
    from screening.training.config import TrainingConfig
    from screening.training.recipe import Listener


@app.command()
def train(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="What to train on what, and how.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Replace a setting, such as training.epochs=3; may be repeated."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The folder of the run; by default runs/ and the name of the configuration."),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="local:N|slurm|ADDRESS|FILE.json",
            help="Train by a rank on each worker: of this machine, of Slurm, or of a scheduler.",
        ),
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="What to ask Slurm for, with --cluster slurm.")
    ] = None,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="With --cluster: wait for so many workers, and use no more.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing unless it fails.")] = False,
) -> None:
    """Train a model, one head per target, on crystals with labels; labels may be missing.

    The folder gets the resolved configuration, a line of metrics per epoch, the best model so far, and at the end
    metrics and pictures. The same command continues a run that was stopped, bit for bit. Several processes or GPUs
    share each batch with `--cluster`, and learn what one would.

    - `screening train examples/cgcnn.toml --set training.epochs=5 --out runs/first`

    - `screening train large.toml --cluster local:8 --set training.device=cuda`
    """
    from screening import config
    from screening.training.config import TrainingConfig

    settings = config.load(TrainingConfig, file, overrides=overrides or ())
    choice = _chosen(cluster, profile, ranks)
    folder = out or Path("runs") / file.stem
    with training_progress(quiet=quiet) as show:
        # After the configuration is known to be right: torch takes seconds to load.
        from screening.training.recipe import Listener

        listener = Listener(_silent if quiet else _say, _checking(context, show), context.obj.check)
        found = _trained(settings, folder, listener, choice, ranks)
    if not quiet:
        units = {target.name: target.unit for target in settings.heads}
        print("\n".join([*_results(found, units), f"{folder}"]))


@app.command()
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
    workers: Annotated[int, typer.Option(min=1, help="Processes that read.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
) -> None:
    """Compare a model's predictions with the labels of crystals.

    For each target: how many labels there are, MAE, RMSE, R2 and Spearman's rank correlation, or AUC and accuracy for a
    yes or no. Targets without labels have a count of 0. A name that `screening models` lists is that shipped model;
    write `./name` for a file or a folder of that name.

    - `screening evaluate runs/cgcnn val.extxyz --json metrics.json --plot parity.png`
    """
    from screening.pretrained.shipped import load_model, model_file

    # Before torch, which takes seconds to load.
    file = model_file(model)
    from screening.inference import usable_device
    from screening.training.judge import evaluate as judged

    loaded, _ = load_model(file, device=str(usable_device(device)))
    found = judged(loaded, inputs, workers=workers, device=device, plot=plot, say=_say, watch=context.obj.check)
    if as_json is not None:
        as_json.write_text(json.dumps({"targets": found}, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    print(metrics_table(found, {target.name: target.unit for target in loaded.targets}))


def _chosen(cluster: str | None, profile: Path | None, ranks: int | None) -> "ClusterChoice | None":
    if cluster is None:
        if ranks is not None:
            raise InputError("--ranks says how many workers of a cluster to use; name one with --cluster")
        if profile is not None:
            raise InputError("--profile says what to ask Slurm for; it goes with --cluster slurm")
        return None
    from screening.runs.clusters import chosen
    from screening.runs.slurm.profile import load_profile

    return chosen(cluster, None if profile is None else load_profile(profile))


def _trained(
    settings: "TrainingConfig", folder: Path, listener: "Listener", choice: "ClusterChoice | None", ranks: int | None
) -> dict[str, Any]:
    if choice is None:
        from screening.training.recipe import train as train_here

        return train_here(settings, folder, listener)
    from screening.runs.ranks import train as train_on

    return train_on(settings, folder, listener, choice, ranks=ranks)


def _checking(context: typer.Context, show: Watch) -> Watch:
    def watch(progress: Any) -> None:
        context.obj.check()
        show(progress)

    return watch


def _results(found: dict[str, Any], units: dict[str, str]) -> list[str]:
    if "folds" in found:
        targets = found["targets"].items()
        means = {name: {key: spread["mean"] for key, spread in metrics.items()} for name, metrics in targets}
        return [f"mean over {found['folds']} folds", metrics_table(means, units)]
    lines = [f"{found['epochs']} epochs, the best is {found['best_epoch']}"]
    for part in ("validation", "test"):
        if part in found:
            lines += [part, metrics_table(found[part]["targets"], units)]
    return lines


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _silent(text: str) -> None:
    pass
