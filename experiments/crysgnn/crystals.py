"""The crystals of the study: the subset, whose ids are in subset.txt, and the pools that encoders learn from.

Files are made once, in the folder of the study. The validation file is read to validate, never to pre-train.
"""

import fcntl
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from crysgnn.plan import FORMATION, GAP
from crysgnn.settings import StudySettings
from screening.crystals.crystal import Crystal
from screening.crystals.read import read
from screening.crystals.write import write
from screening.errors import InputError

SUBSET = Path(__file__).resolve().parent / "subset.txt"
SUBSET_SIZE, SUBSET_ATOMS, SUBSET_SEED = 5000, 20, 0
FILLED = 110
UNLABELLED = "unlabelled.extxyz"
"""The training crystals without their labels, for runs that predictions teach."""


def draw_subset(study: StudySettings, *, size: int = SUBSET_SIZE) -> list[str]:
    """Draw training crystals of at most 20 atoms that have both labels, evenly; their ids in the order of the file."""
    able = [
        crystal.id
        for crystal in _crystals([study.crystals.train])
        if len(crystal.numbers) <= SUBSET_ATOMS and {FORMATION, GAP} <= set(crystal.labels)
    ]
    drawn = np.random.default_rng(SUBSET_SEED).permutation(len(able))[:size]
    return [able[k] for k in sorted(drawn.tolist())]


def write_subset(ids: Iterable[str], path: Path) -> None:
    """Write ids of the Materials Project: their numbers, ascending, each as the difference from the one before."""
    numbers = sorted(int(name.removeprefix("mp-")) for name in ids)
    steps = [str(step) for step in np.diff(numbers, prepend=0).tolist()]
    lines, line = [], ""
    for step in steps:
        if len(line) + len(step) >= FILLED:
            lines.append(line.strip())
            line = ""
        line += f"{step} "
    path.write_text("\n".join([*lines, line.strip()]) + "\n", encoding="utf-8")


def read_subset(path: Path = SUBSET) -> set[str]:
    """The ids that were written."""
    steps = [int(step) for step in path.read_text(encoding="utf-8").split()]
    return {f"mp-{number}" for number in np.cumsum(steps).tolist()}


def make_files(study: StudySettings, folder: Path, say: Callable[[str], None], *, subset: set[str]) -> None:
    """Make what is not there yet: the subset, its validation crystals, packed pools with space groups.

    A second share that comes while the first makes them waits for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _make_files(study, folder, say, subset=subset)


def _make_files(study: StudySettings, folder: Path, say: Callable[[str], None], *, subset: set[str]) -> None:
    given = study.crystals
    _extract(given.train, folder / "subset.extxyz", lambda c: c.id in subset, say)
    found = {crystal.id for crystal in _crystals([folder / "subset.extxyz"])}
    if found != subset:
        raise InputError(
            f"{folder / 'subset.extxyz'}: it has {len(found - subset):,} crystals that the subset has not, and lacks "
            f"{len(subset - found):,}, such as {min(found ^ subset)}; remove it, or name the right training file"
        )
    _extract(given.validation, folder / "subset-val.extxyz", lambda c: len(c.numbers) <= SUBSET_ATOMS, say)
    moduli = ("bulk_modulus", "shear_modulus")
    _extract(given.train, folder / "moduli.extxyz", lambda c: any(name in c.labels for name in moduli), say)
    _extract(given.validation, folder / "moduli-val.extxyz", lambda c: any(name in c.labels for name in moduli), say)
    _extract(given.train, folder / UNLABELLED, lambda c: True, say, labels=False)
    known = [given.train, *given.unlabelled]
    workers = ["--workers", str(given.workers)]
    if not (folder / "known.h5").exists():
        say("packing known crystals with their space groups")
        _screening("pack", *map(str, known), "-o", str(folder / "known.h5"), "--space-groups", *workers)
    if max(given.pools.values()) > count(folder / "known.h5"):
        _enumerate(study, folder, say, workers)


def pool_files(study: StudySettings, pool: str, folder: Path) -> tuple[list[Path], float]:
    """The files of a pool, and what fraction of their crystals it takes."""
    wanted, known = study.crystals.pools[pool], count(folder / "known.h5")
    if wanted <= known:
        return [folder / "known.h5"], wanted / known
    return [folder / "known.h5", folder / f"enumerated-{wanted - known}.h5"], 1.0


def count(path: Path) -> int:
    """How many crystals a packed file has."""
    from screening.crystals.packed import PackedCrystals

    with PackedCrystals(path) as packed:
        return len(packed)


def _enumerate(study: StudySettings, folder: Path, say: Callable[[str], None], workers: Sequence[str]) -> None:
    """Fill each pool that is larger than what is known by crystals of its own draw."""
    known = count(folder / "known.h5")
    for wanted in study.crystals.pools.values():
        missing = wanted - known
        path = folder / f"enumerated-{missing}.h5"
        if missing <= 0 or path.exists():
            continue
        say(f"enumerating {missing:,} crystals")
        drawn = folder / "drawn.h5"
        settings = [f"max_crystals={missing}", *study.crystals.enumeration_settings]
        chosen = [word for setting in settings for word in ("--set", setting)]
        _screening("enumerate", str(study.crystals.enumeration), "-o", str(drawn), *chosen)
        _screening("pack", str(drawn), "-o", str(path), "--space-groups", *workers)
        drawn.unlink()


def _screening(*words: str) -> None:
    code = f"import sys; sys.path[:] = {sys.path!r}; from screening.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", code, *words, "--quiet"], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise InputError(f"screening {' '.join(words)} failed: {ended.stderr.strip()}")


def _extract(
    source: Path, path: Path, wanted: Callable[[Crystal], bool], say: Callable[[str], None], *, labels: bool = True
) -> None:
    if path.exists():
        return
    part = path.with_name(f"part-{path.name}")
    found = (crystal for crystal in _crystals([source]) if wanted(crystal))
    write((crystal if labels else replace(crystal, labels={}) for crystal in found), part, format="extxyz")
    part.replace(path)
    say(f"{path.name}: made from {source.name}")


def _crystals(paths: Sequence[Path]) -> Iterable[Crystal]:
    return (entry for entry in read(paths) if isinstance(entry, Crystal))
