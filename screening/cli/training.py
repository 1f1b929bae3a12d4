"""`screening train`, `pretrain`, `distil` and `train-forces`: make a model from a configuration, here or on many."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from screening.cli.app import MODELS, app
from screening.cli.tables import metrics_table
from screening.cli.telling import say, silent
from screening.cli.training_progress import Watch, training_progress
from screening.errors import InputError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from screening.runs.clusters import ClusterChoice
    from screening.training.config import RunSettings, TrainingConfig
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


@app.command(rich_help_panel=MODELS)
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
    run = _Run(out or Path("runs") / file.stem, _chosen(cluster, profile, ranks), ranks, quiet)
    run.tell(_results(run.lesson(context, settings), settings))


@app.command(rich_help_panel=MODELS)
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
    run = _Run(out or Path("runs") / file.stem, _chosen(cluster, profile, ranks), ranks, quiet)
    run.tell(_pretrained(run.lesson(context, settings)))


@app.command(rich_help_panel=MODELS)
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
    run = _Run(out or Path("runs") / file.stem, _chosen(cluster, profile, ranks), ranks, quiet)
    run.tell(_results(run.lesson(context, settings), settings))


app.command("distill", hidden=True, rich_help_panel=MODELS)(distil)


@app.command("train-forces", rich_help_panel=MODELS)
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
    run = _Run(out or Path("runs") / file.stem, _chosen(cluster, profile, ranks), ranks, quiet)
    run.tell(_pretrained(run.lesson(context, settings)))


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


@dataclass(frozen=True)
class _Run:
    """Where a model is made: in which folder, by a rank on each worker of which cluster, or in this process."""

    folder: Path
    cluster: "ClusterChoice | None"
    ranks: int | None
    quiet: bool

    def lesson(self, context: typer.Context, settings: "RunSettings") -> dict[str, Any]:
        """Follow a configuration of any kind, and show how it goes; its final metrics."""
        with training_progress(quiet=self.quiet) as show:
            # After the configuration is known to be right: torch takes seconds to load.
            from screening.training.material import Listener

            listener = Listener(silent if self.quiet else say, _checking(context, show), context.obj.check)
            if self.cluster is None:
                return _train_alone(settings, self.folder, listener)
            from screening.runs.ranks import train as train_on

            return train_on(settings, self.folder, listener, self.cluster, ranks=self.ranks)

    def tell(self, results: Sequence[str]) -> None:
        """Print what came of it, and where it is."""
        if not self.quiet:
            print("\n".join([*results, f"{self.folder}"]))


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


def _results(found: dict[str, Any], settings: "TrainingConfig") -> list[str]:
    units = {target.name: target.unit for target in settings.heads}
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
    from screening.training.mechanics import unit_of_term

    lines = [f"{found['epochs']} epochs, the best is {found['best_epoch']}"]
    for part in ("validation", "test"):
        if part not in found:
            continue
        lines.append(f"{part} loss {found[part]['loss']:.4f}")
        (section,) = found[part].keys() - {"loss"}
        for name, metrics in found[part][section].items():
            shown = {key: value for key, value in metrics.items() if value is not None and key != "count"}
            values = ", ".join(f"{key} {value:.4f}" for key, value in shown.items())
            lines.append(f"  {name:13} {values} {unit_of_term(name)}".rstrip())
    return lines
