"""What the finished runs of a study measured, in a file of the repository, so that nobody has to repeat them.

A line per run: the metrics that reports read, without the rest. They hold for one study.toml: with other settings the
record is left alone, and everything is done. `--afresh` does everything too. Models are not kept: one that is needed
again is learned again.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from screening.config import Settings
from screening.errors import InputError
from screening.files.whole import write_whole

FILE = "measured.json"
KEPT = ("mae", "mae_log10", "rmse", "mean", "std", "each", "accuracy", "error")
# Where and how fast runs go, which changes nothing they say.
NEUTRAL = {"threads", "device", "workers"}


def options(parser: argparse.ArgumentParser, instead: "argparse._MutuallyExclusiveGroup", study: Path) -> None:
    """Say whether the record counts, and that it is to be written."""
    place = study.parent / FILE
    parser.add_argument("--afresh", action="store_true", help=f"repeat the runs whose outcomes {place.name} holds too")
    parser.set_defaults(record=place)
    instead.add_argument("--keep", action="store_true", help=f"put what is finished into {place.name} and run nothing")


def unpack(record: Path, study: Settings, out: Path) -> int:
    """Put outcomes into the folders of their runs, where there are none; how many runs the record holds."""
    found = _runs_of(record, study)
    for name, files in found.items():
        for file, held in files.items():
            place = out / name / file
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                write_whole(place, [(held if isinstance(held, str) else json.dumps(held)).encode(), b"\n"])
    return len(found)


def forget(folder: Path, files: Sequence[str], *, without: str) -> None:
    """Let a run be done again of which there are only these outcomes, and not the model that is needed of it."""
    if not (folder / without).exists():
        for file in files:
            (folder / file).unlink(missing_ok=True)


def pack(record: Path, study: Settings, out: Path, names: Iterable[str], files: Sequence[str]) -> int:
    """Write what the folders of these runs hold in these files into the record, a line per run; how many there are.

    A run that is being done again, so that there is nothing of it at the moment, keeps its line.
    """
    before, lines = _runs_of(record, study), []
    for name in names:
        held = {file: _held(out / name / file) for file in files if (out / name / file).exists()} or before.get(name)
        if held:
            lines.append(f"{json.dumps(name)}: {json.dumps(held)}")
    if not lines:
        raise InputError(f"{out}: no run is finished that a record could hold")
    text = f'{{"study": "{digest(study)}", "runs": {{\n' + ",\n".join(lines) + "\n}}\n"
    write_whole(record, [text.encode()])
    return len(lines)


def _runs_of(record: Path, study: Settings) -> dict[str, dict[str, Any]]:
    """What the record holds, by run; nothing if it is of other settings."""
    found = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    held: dict[str, dict[str, Any]] = found["runs"] if found.get("study") == digest(study) else {}
    return held


def digest(study: Settings) -> str:
    """What the settings say that outcomes depend on."""
    return hashlib.sha256(json.dumps(_lasting(study.model_dump(mode="json"))).encode()).hexdigest()[:16]


def _lasting(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: _lasting(own) for name, own in sorted(value.items()) if name not in NEUTRAL}


def _held(file: Path) -> Any:
    text = file.read_text(encoding="utf-8")
    return trimmed(json.loads(text)) if file.suffix == ".json" else text.strip()


def trimmed(found: Any) -> Any:
    """Metrics without those that no report reads, and numbers to six digits."""
    if isinstance(found, dict):
        kept = {name: trimmed(own) for name, own in found.items() if isinstance(own, dict) or name in KEPT}
        return {name: own for name, own in kept.items() if own != {}}
    if isinstance(found, list):
        return [trimmed(one) for one in found]
    return float(f"{found:.6g}") if isinstance(found, float) else found
