"""The models that come with this package, each `NAME.safetensors` in this folder, and what MODEL means to a command.

Finding a file loads nothing; torch is loaded with the model.
"""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from screening.errors import InputError, permitted

if TYPE_CHECKING:
    from screening.models.header import Card
    from screening.models.model import CrystalModel

FOLDER = Path(__file__).parent
SUFFIX = ".safetensors"
RUN_MODEL = f"model{SUFFIX}"
"""The model in the folder of a training run."""

DEFAULT = "sieve"
"""The shipped model that the name `default` stands for."""

POTENTIAL = "sieve-forces"
"""The shipped model that relaxes crystals where none is named."""


def shipped_models() -> dict[str, Path]:
    """Find the shipped models: file by name, in the order of names."""
    return {file.stem: file for file in sorted(FOLDER.glob(f"*{SUFFIX}"))}


def model_file(model: str | Path) -> Path:
    """Find the file of a model: a shipped name, `default`, a file, or the folder of a training run.

    A string that is a shipped name or `default` means that model, whatever lies in the current folder; `./name` and a
    `Path` mean a file or a folder.
    """
    shipped = shipped_models()
    if model == "default":
        return _default(shipped)
    if isinstance(model, str) and model in shipped:
        return shipped[model]
    path = Path(model)
    with permitted(path):
        if path.is_dir():
            return _in_folder(path)
        is_there = path.exists()
    if not is_there:
        raise InputError(f"{model}: is no file, no folder and no shipped model; {_known(str(model), shipped)}")
    return path


def load_model(model: str | Path = "default", *, device: str = "cpu") -> "tuple[CrystalModel, Card]":
    """Load a model, ready to predict, with its card: `model` is what `model_file` takes.

    >>> model, card = load_model("runs/cgcnn")
    """
    file = model_file(model)
    from screening.models.checkpoint import load

    return load(file, device=device)


def _default(shipped: dict[str, Path]) -> Path:
    if DEFAULT in shipped:
        return shipped[DEFAULT]
    if not shipped:
        raise InputError(
            "default: no model is shipped with this version of screening; name a model file or the folder of a run, "
            "which `screening train` makes"
        )
    raise InputError(
        f"default: the shipped model {DEFAULT} is missing from {FOLDER}; install screening again, or name one of "
        f"{', '.join(shipped)}"
    )


def _in_folder(folder: Path) -> Path:
    file = folder / RUN_MODEL
    if file.exists():
        return file
    below = sorted(folder.glob(f"*/{RUN_MODEL}"))
    such = f", such as {below[0].parent}" if below else ""
    raise InputError(f"{folder}: holds no {RUN_MODEL}; name a model file, or the folder of a run that saved one{such}")


def _known(name: str, shipped: dict[str, Path]) -> str:
    if not shipped:
        return "none is shipped with this version of screening, and `screening train` makes files"
    names = [*shipped, "default"]
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    question = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{question}shipped are {', '.join(shipped)}, and default is {DEFAULT}"
