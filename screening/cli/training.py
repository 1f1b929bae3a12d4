"""`screening train`, `pretrain`, `distil` and `evaluate`: make a model, and judge one by labelled crystals."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from screening.cli.app import app
from screening.cli.progress import Watch, training_progress
from screening.cli.tables import metrics_table, potential_table
from screening.errors import InputError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from screening.runs.clusters import ClusterChoice
    from screening.training.config import RunSettings
    from screening.training.material import Listener


S = TypeVar("S", bound="BaseModel")

Config = Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="What to train on what, and how.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting, such as training.epochs=3; may be repeated."),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="The folder of the run; by default runs/ and the name of the configuration."),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="local:N|slurm|ADDRESS|FILE.json",
        help="Train by a rank on each worker: of this machine, of Slurm, or of a scheduler.",
    ),
]
Profile = Annotated[Path | None, typer.Option(metavar="FILE.toml", help="What to ask Slurm for, with --cluster slurm.")]
RankCount = Annotated[
    int | None, typer.Option(min=1, help="With --cluster: wait for so many workers, and use no more.")
]
Init = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Start from this model: a file, the folder of a run, a shipped name. Other ways: init in CONFIG.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing unless it fails.")]


@app.command()
def train(
    context: typer.Context,
    file: Config,
    overrides: Overrides = None,
    init: Init = None,
    out: Out = None,
    cluster: Cluster = None,
    profile: Profile = None,
    ranks: RankCount = None,
    quiet: Quiet = False,
) -> None:
    """Train a model, one head per target, on crystals with labels; labels may be missing.

    The folder gets the resolved configuration, a line of metrics per epoch, the best model so far, and at the end
    metrics and pictures. The same command continues a run that was stopped, bit for bit. Several processes or GPUs
    share each batch with `--cluster`, and learn what one would.

    - `screening train examples/cgcnn.toml --set training.epochs=5 --out runs/first`

    - `screening train examples/cgcnn.toml --cluster local:8 --set training.device=cuda`

    - `screening train examples/cgcnn.toml --init runs/crysgnn --set model.settings.convolutions=5 --set init.frozen=2`
    """
    from screening.training.config import TrainingConfig

    settings = _settings(TrainingConfig, file, overrides, init)
    folder = out or Path("runs") / file.stem
    found = run_lesson(context, settings, folder, _chosen(cluster, profile, ranks), ranks=ranks, quiet=quiet)
    if not quiet:
        units = {target.name: target.unit for target in settings.heads}
        print("\n".join([*_results(found, units), f"{folder}"]))


@app.command()
def pretrain(
    context: typer.Context,
    file: Config,
    overrides: Overrides = None,
    out: Out = None,
    cluster: Cluster = None,
    profile: Profile = None,
    ranks: RankCount = None,
    quiet: Quiet = False,
) -> None:
    """Train an encoder on crystals without labels, from their structure alone.

    It learns to name masked atoms, to tell how atoms are connected, which space group a crystal has, and which
    crystals share a crystal system. What comes out predicts nothing: start a model from it with `train --init`, or
    make it the teacher of one with `distil`. Crystals come from files that were packed with `--space-groups`.

    - `screening pretrain examples/crysgnn.toml --set data.train='["crystals.h5"]' --out runs/crysgnn`
    """
    from screening.training.pretraining_config import PretrainingConfig

    settings = _settings(PretrainingConfig, file, overrides)
    folder = out or Path("runs") / file.stem
    found = run_lesson(context, settings, folder, _chosen(cluster, profile, ranks), ranks=ranks, quiet=quiet)
    if not quiet:
        print("\n".join([*_pretrained(found), f"{folder}"]))


@app.command()
def distil(
    context: typer.Context,
    file: Config,
    overrides: Overrides = None,
    init: Init = None,
    out: Out = None,
    cluster: Cluster = None,
    profile: Profile = None,
    ranks: RankCount = None,
    quiet: Quiet = False,
) -> None:
    """Train a model on labels and on what teachers say.

    A teacher's description of atoms draws the model's own to it; teachers' predictions stand for labels that are
    missing, on any number of crystals without labels. What teachers say is worked out once and kept on disk.

    - `screening distil examples/distil.toml --set distillation.teacher=runs/crysgnn --out runs/distilled`
    """
    from screening.training.distillation_config import DistillationConfig

    settings = _settings(DistillationConfig, file, overrides, init)
    folder = out or Path("runs") / file.stem
    found = run_lesson(context, settings, folder, _chosen(cluster, profile, ranks), ranks=ranks, quiet=quiet)
    if not quiet:
        units = {target.name: target.unit for target in settings.heads}
        print("\n".join([*_results(found, units), f"{folder}"]))


app.command("distill", hidden=True)(distil)


@app.command("train-forces")
def train_forces(
    context: typer.Context,
    file: Config,
    overrides: Overrides = None,
    init: Init = None,
    out: Out = None,
    cluster: Cluster = None,
    profile: Profile = None,
    ranks: RankCount = None,
    quiet: Quiet = False,
) -> None:
    """Train a model whose derivatives are forces and stress, on labels of these or by calling back moved atoms.

    Each entry of data.train is a source of labels with a zero of energy of its own. What comes out relaxes crystals
    (`screening relax`), is a calculator of ASE, and is what a model of any property can start from: `train --init`.

    - `screening train-forces examples/forces.toml --set data.train='["mlearn.extxyz"]' --out runs/potential`

    - `screening train-forces examples/forces.toml --set forces.learn=denoising --out runs/denoised`
    """
    from screening.training.forces_config import ForcesConfig

    settings = _settings(ForcesConfig, file, overrides, init)
    folder = out or Path("runs") / file.stem
    found = run_lesson(context, settings, folder, _chosen(cluster, profile, ranks), ranks=ranks, quiet=quiet)
    if not quiet:
        print("\n".join([*_pretrained(found), f"{folder}"]))


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
    source: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of a potential: the source whose references energies are above."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
) -> None:
    """Compare a model's predictions with the labels of crystals.

    For each target: how many labels there are, MAE, RMSE, R2 and Spearman's rank correlation, or AUC and accuracy for a
    yes or no. Targets without labels have a count of 0. A name that `screening models` lists is that shipped model;
    write `./name` for a file or a folder of that name.

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
            say=_say,
            watch=context.obj.check,
        )
        print("\n".join(_compared(errors)))
        _write_json(as_json, errors)
        return
    if source is not None:
        raise InputError(f"{model}: is no potential of `screening train-forces`, so it has no --source of energies")
    found = judged(loaded, inputs, workers=workers, device=device, plot=plot, say=_say, watch=context.obj.check)
    print(metrics_table(found, {target.name: target.unit for target in loaded.targets}))
    _write_json(as_json, {"targets": found})


def _compared(errors: dict[str, dict[str, Any]]) -> list[str]:
    """Errors of a potential: of all files, then of each, then by element, as far as there are several."""
    from screening.training.judge_potential import TERMS

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


def _settings(kind: type[S], file: Path, overrides: Sequence[str] | None, init: str | None = None) -> S:
    from screening import config

    started = [] if init is None else [config.setting("init.checkpoint", init)]
    return config.load(kind, file, overrides=[*(overrides or ()), *started])


def run_lesson(
    context: typer.Context,
    settings: "RunSettings",
    folder: Path,
    choice: "ClusterChoice | None",
    *,
    ranks: int | None,
    quiet: bool,
) -> dict[str, Any]:
    """Run a configuration of any kind, here or on a cluster, and show how it goes; its final metrics."""
    with training_progress(quiet=quiet) as show:
        # After the configuration is known to be right: torch takes seconds to load.
        from screening.training.material import Listener

        listener = Listener(_silent if quiet else _say, _checking(context, show), context.obj.check)
        if choice is None:
            return _train_alone(settings, folder, listener)
        from screening.runs.ranks import train as train_on

        return train_on(settings, folder, listener, choice, ranks=ranks)


def _train_alone(settings: "RunSettings", folder: Path, listener: "Listener") -> dict[str, Any]:
    """Train in this process, the only one in the folder meanwhile."""
    from screening.runs.claim import Claim
    from screening.training.recipe import claim, train

    claim(folder, settings)
    with Claim(folder, say=listener.say) as held:

        def check() -> None:
            listener.check()
            held.check()

        def watch(progress: Any) -> None:
            held.check()
            listener.watch(progress)

        return train(settings, folder, replace(listener, check=check, watch=watch))


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


def _pretrained(found: dict[str, Any]) -> list[str]:
    lines = [f"{found['epochs']} epochs, the best is {found['best_epoch']}"]
    for part in ("validation", "test"):
        if part not in found:
            continue
        lines.append(f"{part} loss {found[part]['loss']:.4f}")
        (section,) = found[part].keys() - {"loss"}
        for name, metrics in found[part][section].items():
            shown = {key: value for key, value in metrics.items() if value is not None and key != "count"}
            lines.append(f"  {name:13} " + ", ".join(f"{key} {value:.4f}" for key, value in shown.items()))
    return lines


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _silent(text: str) -> None:
    pass
