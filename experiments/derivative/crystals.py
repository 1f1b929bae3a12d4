"""The crystals of the study, each set a file that is made once: few of a large file are then read in a moment.

Many crystals of mattersim are those of the Materials Project, relaxed, strained or heated: none is taken that has the
formula of a crystal of mp36k/val or of the phonons. mlearn comes with a test set, by its ids, for which errors are
published: no pre-training sees it, though of Cu and Ni there is nothing else; frames of monbtaw that are in mlearn too
are left out.

What a task learns from is the file of its name; `-choose` has the crystals that choose epochs and rates, `-measure`
those that only measure. All of mp36k/val measures few crystals and moduli, for which some of mp36k/train choose; for
all of mp36k/train its halves, by turns, do the one and the other.
"""

import fcntl
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from screening.crystals.crystal import Crystal
from screening.crystals.formulas import reduced_formulas
from screening.crystals.read import read
from screening.crystals.write import write
from screening.errors import InputError
from screening.files.whole import write_whole

SOURCES = ("mattersim", "mlearn", "monbtaw")
PUBLISHED = "mlearn-test"
FEW, FEW_CHOOSE = 2_000, 500
# This part of the crystals with moduli chooses.
MODULI_CHOOSE = 0.1
SIZES = "sizes.json"
PUBLISHED_TEST = re.compile(r"mlearn-[A-Za-z]+-test-\d+")


def make_crystals(data: Path, place: Path, say: Callable[[str], None]) -> None:
    """Write what is not there yet; a second share that comes meanwhile waits."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name, crystals in _wanted(data).items():
            file = place / f"{name}.extxyz"
            if not file.exists():
                say(f"{file}: {write(crystals(), file, format='extxyz'):,} crystals")
        if not (place / SIZES).exists():
            found = {source: _sizes(place / f"{source}.extxyz") for source in SOURCES}
            write_whole(place / SIZES, [json.dumps(found, indent=2).encode(), b"\n"])


def _wanted(data: Path) -> dict[str, Callable[[], Iterator[Crystal]]]:
    train, val = data / "mp36k/train.extxyz.gz", data / "mp36k/val.extxyz.gz"
    forces = {name: data / f"forces/{name}.extxyz.gz" for name in SOURCES}
    phonons = data / "matbench/phonons.extxyz.gz"
    return {
        "mattersim": lambda: _without(forces["mattersim"], (val, phonons)),
        "mlearn": lambda: (c for c in _crystals(forces["mlearn"]) if not PUBLISHED_TEST.fullmatch(c.id)),
        PUBLISHED: lambda: (c for c in _crystals(forces["mlearn"]) if PUBLISHED_TEST.fullmatch(c.id)),
        "monbtaw": lambda: _not_in(forces["monbtaw"], {_frame(crystal) for crystal in _crystals(forces["mlearn"])}),
        "phonons": lambda: _crystals(phonons),
        "moduli": lambda: _drawn(lambda: _with_moduli(train), MODULI_CHOOSE, None),
        "moduli-choose": lambda: _drawn(lambda: _with_moduli(train), 0, MODULI_CHOOSE),
        "moduli-measure": lambda: _with_moduli(val),
        "mp2000": lambda: _drawn(lambda: _crystals(train), 0, FEW),
        "mp2000-choose": lambda: _drawn(lambda: _crystals(train), FEW, FEW + FEW_CHOOSE),
        "mp2000-measure": lambda: _crystals(val),
        "whole": lambda: _crystals(train),
        "whole-choose": lambda: _half(val, 0),
        "whole-measure": lambda: _half(val, 1),
    }


def _crystals(file: Path) -> Iterator[Crystal]:
    if not file.exists():
        raise InputError(f"{file}: there is no such file; name the folder of the data sets with --set data=FOLDER")
    return (crystal for crystal in read(file) if isinstance(crystal, Crystal))


def _half(file: Path, half: int) -> Iterator[Crystal]:
    return (crystal for number, crystal in enumerate(_crystals(file)) if number % 2 == half)


def _with_moduli(file: Path) -> Iterator[Crystal]:
    return (crystal for crystal in _crystals(file) if "bulk_modulus" in crystal.labels)


def _without(file: Path, others: Sequence[Path]) -> Iterator[Crystal]:
    formulas = {_formula(crystal) for other in others for crystal in _crystals(other)}
    return (crystal for crystal in _crystals(file) if _formula(crystal) not in formulas)


def _formula(crystal: Crystal) -> str:
    return reduced_formulas(crystal.numbers, np.array([0, len(crystal)]))[0]


def _not_in(file: Path, frames: set[bytes]) -> Iterator[Crystal]:
    return (crystal for crystal in _crystals(file) if _frame(crystal) not in frames)


def _frame(crystal: Crystal) -> bytes:
    """What two files that hold the same frame say alike, in all digits that text keeps."""
    places = np.round(np.concatenate([crystal.lattice, crystal.positions]), 4) + 0.0
    return crystal.numbers.tobytes() + places.tobytes()


def _drawn(crystals: Callable[[], Iterator[Crystal]], start: float, stop: float | None) -> Iterator[Crystal]:
    """Some in a fixed random order, from `start` to `stop`; below 1 these are shares of all."""
    count = sum(1 for _ in crystals())
    first, last = (round(bound * count) if 0 < bound < 1 else int(bound) for bound in (start, stop or count))
    kept = set(np.random.default_rng(0).permutation(count)[first:last].tolist())
    return (crystal for row, crystal in enumerate(crystals()) if row in kept)


def _sizes(file: Path) -> dict[str, dict[str, float]]:
    """How large components of force and of stress are on average: the error of who predicts none."""
    forces = np.concatenate([c.forces for c in _crystals(file) if c.forces is not None], dtype=np.float64)
    upper = np.triu_indices(3)
    stresses = np.array([c.stress[upper] for c in _crystals(file) if c.stress is not None])
    found = {"force": forces, "stress": stresses}
    return {name: {"mean": float(np.abs(own).mean())} for name, own in found.items() if own.size}
