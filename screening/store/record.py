"""`run.json`, by which a run folder is recognised: which model predicts which targets of which packed input.

Whoever starts a run writes it first and whole, and adds what else identifies the run or explains it (the card of the
model, the resolved configuration); merging, querying and reporting read it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from screening.crystals.packed import PackedCrystals
from screening.errors import FileFormatError, InputError, permitted
from screening.files.whole import write_whole
from screening.store.schema import READ_VERSIONS, RELAXATION, VERSIONS, Stamp

RUN_FILE = "run.json"
# In it, files that no format claims.
PASSED_OVER = "passed_over"
RUN_FORMAT = "screening.run"
SHARDS = "shards"
RESULTS = "results.h5"
INPUT = "input.h5"
RELAXED = "relaxed.h5"
PROVENANCE = "provenance.jsonl"
SLURM_JOBS = "slurm.jsonl"
# What a stamp has as JSON in attributes, and the record as it is.
JSON_FIELDS = ("targets", RELAXATION)


@dataclass(frozen=True)
class RunRecord:
    """What a run folder says of itself; `content` is all of it, `input` the packed file as it is written there."""

    folder: Path
    stamp: Stamp
    input: str
    rows: int
    content: Mapping[str, Any]

    @property
    def packed(self) -> Path:
        """The packed input, which may lie in the folder or anywhere."""
        return self.folder / self.input

    def open_input(self, packed: Path | None = None) -> PackedCrystals:
        """Open the packed input, or the file it is said to be now; refuse one of another size."""
        path = packed or self.packed
        with permitted(path):
            is_there = path.exists()
        if not is_there:
            raise InputError(f"{path}: the packed input of {self.folder} is not there; say where it is with --input")
        crystals = PackedCrystals(path)
        if len(crystals) != self.rows:
            crystals.close()
            raise InputError(
                f"{path}: holds {len(crystals):,} crystals, but {self.folder} was started with {self.rows:,}; name the "
                "packed input of this run with --input"
            )
        return crystals

    @property
    def known_elements(self) -> list[int] | None:
        """The atomic numbers that the model, and the potential if any, were trained on; None if neither says."""
        said = (_within(self.content, of, "card", "elements") for of in ("model", "potential"))
        known = [set(elements) for elements in said if isinstance(elements, list)]
        return sorted(set.intersection(*known)) if known else None

    @property
    def passed_over(self) -> tuple[int, str]:
        """How many files of the inputs were of no known format when the run packed them, and the first of them."""
        files, first = (_within(self.content, PASSED_OVER, name) for name in ("files", "first"))
        return (files, first) if isinstance(files, int) and isinstance(first, str) else (0, "")

    @property
    def text(self) -> str:
        """All of it as JSON, as results keep it."""
        return json.dumps(self.content, sort_keys=True)


def _within(content: Any, *names: str) -> Any:
    """What lies under names within names; None where there is none."""
    for name in names:
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


def record_of(folder: Path, stamp: Stamp, packed: Path, rows: int, **more: object) -> RunRecord:
    """Describe a run: what its shards have in common, the packed input and its rows, and whatever else goes along."""
    inside = packed.absolute().is_relative_to(folder.absolute())
    # So that a folder that holds its input can be moved.
    input = str(packed.absolute().relative_to(folder.absolute()) if inside else packed.absolute())
    shared = stamp.attributes()
    told = {name: json.loads(shared[name]) for name in JSON_FIELDS if name in shared}
    content: dict[str, Any] = {"format": RUN_FORMAT, "schema_version": stamp.version, **more}
    content |= {"model_hash": stamp.model_hash, "input_fingerprint": stamp.input_fingerprint, **told}
    content |= {"input": input, "rows": rows}
    return RunRecord(folder, stamp, input, rows, content)


def write_record(record: RunRecord) -> Path:
    """Write `run.json`, whole or not at all; an older one is replaced."""
    text = json.dumps(record.content, indent=2, allow_nan=False) + "\n"
    return write_whole(record.folder / RUN_FILE, [text.encode()])


def read_record(folder: Path) -> RunRecord:
    """Read `run.json` of a run folder."""
    path = folder / RUN_FILE
    try:
        with permitted(path):
            content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "holds no run.json, so it is no folder of a run" if folder.is_dir() else "is no folder"
        raise InputError(f"{folder}: {what}; name the folder that `screening screen --out` was given") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); try again") from error
    except ValueError as error:
        raise FileFormatError(f"{path}: is not JSON ({error}); it was damaged or edited: restore it") from error
    return _checked(folder, path, content)


def _checked(folder: Path, path: Path, content: Any) -> RunRecord:
    try:
        if content["format"] != RUN_FORMAT:
            raise ValueError(f"format {content['format']!r}, expected {RUN_FORMAT!r}")
        if content["schema_version"] not in VERSIONS:
            raise FileFormatError(
                f"{path}: written with schema version {content['schema_version']}, this release reads {READ_VERSIONS}; "
                "use the release of crystal-screening that the run was started with"
            )
        told = {name: json.dumps(content[name]) for name in JSON_FIELDS if name in content}
        stamp = Stamp.of({**content, **told})
        return RunRecord(folder, stamp, str(content["input"]), int(content["rows"]), content)
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise FileFormatError(f"{path}: is not what a run writes ({error}); it was edited: restore it") from error
