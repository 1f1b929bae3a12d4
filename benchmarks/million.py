"""A million crystals from a recipe to a shortlist: enumerated, screened, merged and asked, each by its command.

    make bench-million                        with the shipped model
    make bench-million ARGS="--count 100000"  fewer of them
    make bench-million ARGS="--model FILE"    with another model

The crystals are drawn from examples/million.toml, 2 to 14 atoms each. Memory is sampled: that of all processes of a
command together, and that of the largest. Half as many crystals are screened too, to see what memory does as runs grow.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import timing

from screening.crystals.packed import PackedCrystals

SPEC = Path(__file__).resolve().parent.parent / "examples/million.toml"
COMMAND = [sys.executable, "-m", "screening"]
MILLION = 1_000_000
ASKED = ["--where", "band_gap BETWEEN 1.0 AND 1.7", "--by", "formation_energy_per_atom", "--top", "100"]
PROMISED_SECONDS = 240.0
PROMISED_GROWTH_MIB = 64
PROMISED_QUERY_SECONDS = 5.0


def run(count: int = MILLION, model: str = "default") -> list[timing.Row]:
    """Measure the commands one after the other."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        crystals = folder / "crystals.h5"
        rows = [
            timing.Row("enumerate", "s", enumerated(crystals, count).seconds),
            timing.Row("packed file", "bytes/crystal", crystals.stat().st_size / count),
        ]
        with PackedCrystals(crystals) as packed:
            atoms = int(packed.atom_offsets(0, len(packed))[-1])
        half = folder / "half.h5"
        enumerated(half, count // 2)
        smaller, _ = _screened(half, folder / "half", model)
        screened, seconds = _screened(crystals, folder / "run", model)
        what = f"screen and merge {count:,} crystals, {atoms / count:.1f} atoms"
        in_time = PROMISED_SECONDS * count / MILLION
        rows += [
            timing.Row(what, "s", screened.seconds, at_most=in_time),
            timing.Row("the same", "crystals/s", count / screened.seconds),
            *(timing.Row(f"of that, {stage}, all threads", "s", value) for stage, value in sorted(seconds.items())),
            timing.Row("memory of all processes", "MiB", screened.peak_mib),
            timing.Row("memory of the largest process", "MiB", screened.largest_mib),
            timing.Row(
                "memory of the largest, over that with half as many",
                "MiB",
                screened.largest_mib - smaller.largest_mib,
                at_most=PROMISED_GROWTH_MIB,
            ),
            timing.Row("results.h5", "bytes/crystal", (folder / "run/results.h5").stat().st_size / count),
        ]
        merged = timing.footprint([*COMMAND, "merge", str(folder / "run"), "--quiet"])
        shortlist = folder / "shortlist.csv"
        asked = timing.footprint([*COMMAND, "query", str(folder / "run"), *ASKED, "-o", str(shortlist)])
        return [
            *rows,
            timing.Row("of that, merge alone", "s", merged.seconds),
            timing.Row("query: two conditions, the best 100", "s", asked.seconds, at_most=PROMISED_QUERY_SECONDS),
        ]


def enumerated(path: Path, count: int) -> timing.Footprint:
    """Enumerate so many crystals of the recipe into a packed file."""
    spec = path.with_suffix(".toml")
    spec.write_text(SPEC.read_text(encoding="utf-8").replace(f"max_crystals = {MILLION}", f"max_crystals = {count}", 1))
    return timing.footprint([*COMMAND, "enumerate", str(spec), "-o", str(path), "--quiet"])


def _screened(crystals: Path, run: Path, model: str) -> tuple[timing.Footprint, dict[str, float]]:
    """Screen, and add up the seconds that shards tell of their stages."""
    log = run.with_suffix(".jsonl")
    used = timing.footprint(
        [*COMMAND, "screen", str(crystals), "--out", str(run), "--model", model, "--log", str(log), "--quiet"]
    )
    seconds: dict[str, float] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "shard":
            for stage, value in event["seconds"].items():
                seconds[stage] = seconds.get(stage, 0.0) + value
    return used, seconds


def own_options(parser: argparse.ArgumentParser) -> None:
    """How many crystals, and whose predictions."""
    parser.add_argument("--count", type=int, default=MILLION, help="how many crystals")
    parser.add_argument("--model", default="default", help="a model file, the folder of a run, or a shipped model")


if __name__ == "__main__":
    timing.main(run, own_options)
