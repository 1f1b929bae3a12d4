"""Packs crystals of any format into one file, counting what was read, accepted and rejected on the way.

Reading is read.py's work, writing that of packed.py and write.py; this joins the two, in constant memory.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.formats import format_of
from screening.crystals.formats.format import Document
from screening.crystals.packed_writer import PackedWriter
from screening.crystals.read import ReadBatch, read_batches
from screening.crystals.validate import CrystalLimits
from screening.crystals.write import format_of_name, require_no_input, write
from screening.errors import InputError, permitted
from screening.files.listing import Take, listing
from screening.files.whole import require_place
from screening.machine import processors

PACKED = "h5"
OUTPUTS = (PACKED, "extxyz", "cif", "poscar", "jsonl")
LISTED = ("id", "source", "reason", "message")
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# More processes wait for the one that writes.
MOST_READERS = 8
# Less than this is parsed before the first process besides this one has started.
SMALL_BYTES = 8_000_000
# Formats whose pieces weigh what they take on disk.
WEIGHED = ("cif", "extxyz", "poscar", "json")


@dataclass(slots=True)
class Tally:
    """What was read so far: `read` = `accepted` + the sum of `rejected`; the first rejection of each reason.

    `unusable` labels, forces and stresses of what was accepted are no finite numbers.
    """

    accepted: int = 0
    rejected: Counter[Reason] = field(default_factory=Counter)
    first: dict[Reason, Rejection] = field(default_factory=dict)
    atoms: int = 0
    weight: int = 0
    skipped: int = 0
    first_skipped: str = ""
    unusable: int = 0
    first_unusable: str = ""

    @property
    def read(self) -> int:
        """How many entries were read."""
        return self.accepted + self.rejected.total()

    @property
    def missing(self) -> str:
        """What to say of labels that are no finite numbers; empty if there are none."""
        if not self.unusable:
            return ""
        are = "label is no finite number and counts" if self.unusable == 1 else "labels are no finite numbers and count"
        return f"{self.unusable:,} {are} as missing, the first: {self.first_unusable}"

    @property
    def passed_over(self) -> str:
        """What to say of files that no format claims; empty if there are none."""
        return passed_over(self.skipped, self.first_skipped)

    def add(self, batch: ReadBatch) -> None:
        """Count one more batch."""
        self.accepted += len(batch.crystals)
        self.atoms += len(batch.crystals.numbers)
        self.weight += batch.weight
        self.first_skipped = self.first_skipped or next(iter(batch.skipped), "")
        self.skipped += len(batch.skipped)
        self.first_unusable = self.first_unusable or next(iter(batch.unusable), "")
        self.unusable += len(batch.unusable)
        for rejection in batch.rejections:
            self.rejected[rejection.reason] += 1
            self.first.setdefault(rejection.reason, rejection)


def pack(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    to: str | None = None,
    limits: CrystalLimits | None = None,
    workers: int = 1,
    rejections: str | os.PathLike[str] | None = None,
    ignore: Sequence[str | os.PathLike[str]] = (),
    space_group_tolerance: float | None = None,
    progress: Callable[[Tally], object] = lambda tally: None,
) -> Tally:
    """Read all inputs and write what is accepted to one output: a packed file, or one of `OUTPUTS`.

    Without `to`, the output's name tells. `rejections` names a CSV file for the rejections, which a packed file
    holds anyway. What is to `ignore` is passed over in the folders above it, as outputs are. `progress` is called after
    every batch. An older output is replaced once the new one is whole. With a `space_group_tolerance`, angstrom, every
    crystal gets its space group as the label `spacegroup_number`, 0 where none is found; a packed file says with which.
    """
    _require_output(Path(output), inputs, to or kind_of(Path(output)))
    if rejections is not None:
        require_no_input(rejections, inputs)
    ours = [*(path for path in (output, rejections) if path is not None), *ignore]
    stream = read_batches(
        inputs, limits=limits, workers=workers, ignore=ours, space_group_tolerance=space_group_tolerance
    )
    with contextlib.closing(stream) as batches:
        return pack_batches(
            batches,
            output,
            to=to,
            limits=limits,
            inputs=inputs,
            rejections=rejections,
            space_group_tolerance=space_group_tolerance,
            progress=progress,
        )


def pack_batches(
    batches: Iterable[ReadBatch],
    output: str | os.PathLike[str],
    *,
    to: str | None = None,
    limits: CrystalLimits | None = None,
    inputs: Sequence[str | os.PathLike[str]] = (),
    rejections: str | os.PathLike[str] | None = None,
    space_group_tolerance: float | None = None,
    progress: Callable[[Tally], object] = lambda tally: None,
) -> Tally:
    """Write batches that were checked already, as `pack` does; `limits` and `inputs` say how and where from.

    `space_group_tolerance` is the tolerance with which they got theirs, if they did.
    """
    target, listed = Path(output), None if rejections is None else Path(rejections)
    to = to or kind_of(target)
    _require_output(target, inputs, to)
    tally = Tally()
    if listed is not None:
        require_place(listed)
    with listing(listed, LISTED) as take:
        counted = _counted(batches, tally, take, progress)
        if to == PACKED:
            paths = [os.fspath(path) for path in inputs]
            with PackedWriter(
                target, limits=limits, inputs=paths, space_group_tolerance=space_group_tolerance
            ) as writer:
                for batch in counted:
                    writer.append(batch.crystals, batch.rejections)
                _require_entries(tally)
        else:
            write(_crystals(counted, tally), target, format=to)
    return tally


def passed_over(files: int, first: str) -> str:
    """What to say of so many files that no format claims; empty if there are none."""
    return f"files of no known format, passed over: {files:,}, the first {first}" if files else ""


def kind_of(output: Path) -> str:
    """What kind of file an output's name asks for."""
    kind = PACKED if output.suffix.lower() in (".h5", ".hdf5") else format_of_name(output.name)
    if kind is None:
        raise InputError(
            f"{output}: its name does not tell what to write; end it in .h5, or choose --to {'|'.join(OUTPUTS)}"
        )
    return kind


def known_bytes(inputs: Iterable[str | os.PathLike[str]]) -> int | None:
    """How many bytes there are to read, where that can be told at once and compared with `Tally.weight`."""
    total = 0
    for path in map(Path, inputs):
        with permitted(path):
            format = format_of(Document(str(path), path)) if path.is_file() else None
            if format is None or format.name not in WEIGHED or path.suffix.lower() == ".gz":
                return None
            total += path.stat().st_size
    return total


def readers(inputs: Iterable[str | os.PathLike[str]], *, dear: bool = False) -> int:
    """How many processes to read inputs with on this machine; what is `dear` to work out is worth some in any case."""
    size = known_bytes(inputs)
    small = size is not None and size < SMALL_BYTES and not dear
    return 1 if small else min(processors().allowed, MOST_READERS)


def _require_output(output: Path, inputs: Sequence[str | os.PathLike[str]], to: str) -> None:
    if to not in OUTPUTS:
        raise InputError(f"cannot write {to!r}; choose one of {', '.join(OUTPUTS)}")
    require_no_input(output, inputs)
    if to == PACKED and output.is_file():
        with output.open("rb") as file:
            if file.read(len(HDF5_SIGNATURE)) != HDF5_SIGNATURE:
                raise InputError(f"{output}: is there already and no HDF5 file; remove it or choose another name")


def _require_entries(tally: Tally) -> None:
    if tally.read == 0:
        seen = (
            f"; {tally.skipped} files are of no known format, the first {tally.first_skipped}" if tally.skipped else ""
        )
        raise InputError(f"nothing to pack: the inputs hold no crystal{seen}")


def _counted(
    batches: Iterable[ReadBatch], tally: Tally, take: Take, progress: Callable[[Tally], object]
) -> Iterator[ReadBatch]:
    for batch in batches:
        tally.add(batch)
        for one in batch.rejections:
            take((one.id, one.source, str(one.reason), one.message))
        yield batch
        progress(tally)


def _crystals(batches: Iterable[ReadBatch], tally: Tally) -> Iterator[Crystal]:
    for batch in batches:
        yield from batch.crystals
    _require_entries(tally)
