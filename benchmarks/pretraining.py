"""Pre-training on a million crystals: enumerated, given space groups, and seen once by an encoder, each by its command.

    python benchmarks/pretraining.py                   some 20 minutes on two cores
    python benchmarks/pretraining.py --count 100000    fewer of them

The crystals are those of `make bench-million`, the run is examples/crysgnn.toml for one epoch. Memory is a process's
own: pages of mapped files, which the system takes back when it wants them, are not counted. Half as many crystals come
first, to see what memory does as files grow.
"""

import argparse
import json
import tempfile
from pathlib import Path

import million
import timing

SETTINGS = Path(__file__).resolve().parent.parent / "examples/crysgnn.toml"
# What offsets and labels may take, and what an allocator keeps.
PROMISED_BYTES_A_CRYSTAL = 200


def run(count: int = million.MILLION) -> list[timing.Row]:
    """Measure half as many, then all."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, _, half = _learned(folder / "half", count // 2)
        packing, journal, learning = _learned(folder / "all", count)
        grown = (learning.own_mib - half.own_mib) * 2**20 / (count - count // 2)
        return [
            timing.Row(f"space groups of {count:,} crystals", "crystals/s", count / packing.seconds),
            timing.Row("one epoch of pre-training", "crystals/s", journal["crystals_per_s"]),
            timing.Row("all of `screening pretrain`", "s", learning.seconds),
            timing.Row("of that, all but the epoch", "s", learning.seconds - journal["seconds"]),
            timing.Row("own memory of the largest process", "MiB", learning.own_mib),
            timing.Row(
                "own memory for each crystal more than half", "bytes/crystal", grown, at_most=PROMISED_BYTES_A_CRYSTAL
            ),
        ]


def _learned(folder: Path, count: int) -> tuple[timing.Footprint, dict[str, float], timing.Footprint]:
    """Pack with space groups and pre-train for an epoch: what the first took, the line of the epoch, what all took."""
    folder.mkdir()
    crystals, packed = folder / "enumerated.h5", folder / "crystals.h5"
    million.enumerated(crystals, count)
    packing = timing.footprint(
        [*million.COMMAND, "pack", str(crystals), "-o", str(packed), "--space-groups", "--quiet"]
    )
    crystals.unlink()
    out = folder / "run"
    changes = [f"data.train={json.dumps([str(packed)])}", "training.epochs=1"]
    options = [word for change in changes for word in ("--set", change)]
    learning = timing.footprint([*million.COMMAND, "pretrain", str(SETTINGS), *options, "--out", str(out), "--quiet"])
    packed.unlink()
    (line,) = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    journal: dict[str, float] = json.loads(line)
    return packing, journal, learning


def own_options(parser: argparse.ArgumentParser) -> None:
    """How many crystals."""
    parser.add_argument("--count", type=int, default=million.MILLION, help="how many crystals")


if __name__ == "__main__":
    timing.main(run, own_options)
