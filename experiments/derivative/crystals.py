"""The crystals of the study, each set a file that is made once: few of a large file are then read in a moment.

Many crystals of mattersim are those of the Materials Project, relaxed, strained or heated: none is taken that has the
formula of a crystal that chooses or measures. mlearn comes with a test set, by its ids, for which errors are published:
no pre-training sees it, though of Cu and Ni there is nothing else. The crystals of mp36k/val are halved by turns: one
half chooses epochs and rates, the other measures.
"""

import fcntl
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from screening.crystals.crystal import Crystal
from screening.crystals.formulas import reduced_formulas
from screening.crystals.read import read
from screening.crystals.write import write
from screening.errors import InputError

SOURCES = ("mattersim", "mlearn", "monbtaw")
PUBLISHED = "mlearn-test"
FEW = 2_000
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


def _wanted(data: Path) -> dict[str, Callable[[], Iterator[Crystal]]]:
    train, val = data / "mp36k/train.extxyz.gz", data / "mp36k/val.extxyz.gz"
    forces = {name: data / f"forces/{name}.extxyz.gz" for name in SOURCES}
    return {
        "mattersim": lambda: _without(forces["mattersim"], {_formula(crystal) for crystal in _crystals(val)}),
        "mlearn": lambda: (c for c in _crystals(forces["mlearn"]) if not PUBLISHED_TEST.fullmatch(c.id)),
        PUBLISHED: lambda: (c for c in _crystals(forces["mlearn"]) if PUBLISHED_TEST.fullmatch(c.id)),
        "monbtaw": lambda: _crystals(forces["monbtaw"]),
        "phonons": lambda: _crystals(data / "matbench/phonons.extxyz.gz"),
        "moduli": lambda: _with_moduli(_crystals(train)),
        "mp2000": lambda: _drawn(train, FEW),
        "whole": lambda: _crystals(train),
        "choose": lambda: _half(val, 0),
        "measure": lambda: _half(val, 1),
        "moduli-choose": lambda: _with_moduli(_half(val, 0)),
        "moduli-measure": lambda: _with_moduli(_half(val, 1)),
    }


def _crystals(file: Path) -> Iterator[Crystal]:
    if not file.exists():
        raise InputError(f"{file}: there is no such file; name the folder of the data sets with --set data=FOLDER")
    return (crystal for crystal in read(file) if isinstance(crystal, Crystal))


def _half(file: Path, half: int) -> Iterator[Crystal]:
    return (crystal for number, crystal in enumerate(_crystals(file)) if number % 2 == half)


def _with_moduli(crystals: Iterator[Crystal]) -> Iterator[Crystal]:
    return (crystal for crystal in crystals if "bulk_modulus" in crystal.labels)


def _without(file: Path, formulas: set[str]) -> Iterator[Crystal]:
    return (crystal for crystal in _crystals(file) if _formula(crystal) not in formulas)


def _formula(crystal: Crystal) -> str:
    return reduced_formulas(crystal.numbers, np.array([0, len(crystal)]))[0]


def _drawn(file: Path, count: int) -> Iterator[Crystal]:
    rows = np.random.default_rng(0).permutation(sum(1 for _ in _crystals(file)))[:count]
    kept = set(rows.tolist())
    return (crystal for row, crystal in enumerate(_crystals(file)) if row in kept)
