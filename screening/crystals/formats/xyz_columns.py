"""What the columns of an XYZ frame are, and what is wrong with a row that does not fit them."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from screening.arrays import Int32
from screening.crystals.crystal import Reason
from screening.crystals.formats.shapes import Refused
from screening.crystals.formats.words import is_element, number_in
from screening.crystals.formats.xyz_frames import Frames

PLAIN_COLUMNS = "species:S:1:pos:R:3"
# In order of preference; compared in lower case.
NUMBER_COLUMNS = ("z", "numbers")
SPECIES_COLUMNS = ("species", "symbols", "element", "elements")
POSITION_COLUMNS = ("pos", "positions")
FORCE_COLUMNS = ("forces", "force", "ref_forces", "ref_force", "dft_forces", "dft_force")
MOST_COLUMNS = 4096
# Targets of the native scanner that are no place for a number.
SKIPPED, ELEMENT = -1, -2
_POSITIONS, _FORCES = 0, 3


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """The columns of a frame: a target each for the scanner, a name each for messages.

    With `exact` a row holds these and nothing else: what Properties says. Plain XYZ may go on.
    """

    targets: Int32
    names: tuple[str, ...]
    has_forces: bool
    exact: bool


@lru_cache(maxsize=256)
def columns_of(properties: str, *, exact: bool = True) -> Columns:
    """Read the value of Properties; raises Refused where columns are missing or do not make sense."""
    widths = _widths(properties)
    species = _chosen(widths, (*NUMBER_COLUMNS, *SPECIES_COLUMNS), 1)
    positions = _chosen(widths, POSITION_COLUMNS, 3)
    forces = _chosen(widths, FORCE_COLUMNS, 3)
    if not species or not positions:
        wanted = "expected species:S:1 (or Z:I:1) and pos:R:3 in it"
        raise Refused(Reason.UNREADABLE, f"Properties is `{properties[:80]}`, {wanted}")
    targets: list[int] = []
    names: list[str] = []
    for name, width in widths.items():
        first = {species: ELEMENT, positions: _POSITIONS, forces: _FORCES}.get(name, SKIPPED)
        targets += [first + c if first >= 0 else first for c in range(width)]
        names += [f"{name}[{c}]" if width > 1 else name for c in range(width)]
    return Columns(np.array(targets, np.int32), tuple(names), bool(forces), exact)


def _widths(properties: str) -> dict[str, int]:
    """How many columns each name has, in order."""
    fields = properties.strip().split(":")
    widths: dict[str, int] = {}
    for name, kind, width in zip(fields[::3], fields[1::3], fields[2::3], strict=False):
        if kind not in ("S", "R", "I", "L") or not _is_width(width) or name in widths:
            widths = {}
            break
        widths[name] = int(width)
    if len(fields) % 3 or not widths or sum(widths.values()) > MOST_COLUMNS:
        wanted = "expected names, each once, with a type (S, R, I or L) and a width, such as species:S:1:pos:R:3"
        raise Refused(Reason.UNREADABLE, f"Properties is `{properties[:80]}`, {wanted}")
    return widths


def _is_width(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text[:9]) > 0 and len(text) < 9


def _chosen(widths: dict[str, int], wanted: tuple[str, ...], width: int) -> str:
    """The name in the file of the first wanted column that it has; "" for none."""
    actual = {name.lower(): name for name in reversed(widths)}
    for name in wanted:
        if name in actual:
            found = widths[actual[name]]
            if found != width:
                raise Refused(Reason.UNREADABLE, f"Properties gives `{actual[name]}` width {found}, expected {width}")
            return actual[name]
    return ""


def row_fault(frames: Frames, k: int, row: int, columns: Columns) -> tuple[Reason, str]:
    """Why the scanner stopped at a row of frame k."""
    words = _row(frames, k, row).split()
    where = f"line {int(frames.lines[k]) + 2 + row} (atom {row})"
    for word, name, target in zip(words, columns.names, columns.targets.tolist(), strict=False):
        text = word[:40].decode("utf-8", "replace")
        if target >= 0 and number_in(word.decode("latin-1")) is None:
            return Reason.UNREADABLE, f"{where}: `{text}` is no number, expected one for {name}"
        if target == ELEMENT and not is_element(word.decode("latin-1")):
            wanted = "expected a symbol such as Fe or an atomic number up to 118"
            return Reason.UNKNOWN_ELEMENT, f"{where}: `{text}` is no chemical element, {wanted}"
    expected = f"{len(columns.names)} ({' '.join(columns.names[:12])})"
    return Reason.UNREADABLE, f"{where} has {len(words)} columns, expected {expected}"


def _row(frames: Frames, k: int, row: int) -> bytes:
    begin = int(frames.rows[k])
    for _ in range(row):
        begin = frames.text.index(b"\n", begin) + 1
    end = frames.text.find(b"\n", begin)
    return frames.text[begin : end if end >= 0 else len(frames.text)]
