"""Which symmetry operations a CIF block stands for, as arrays that `expand_sites` takes.

Operations that the file lists come first, then the Hall symbol, the Hermann-Mauguin symbol, the number in the
International Tables. A block whose symmetry cannot be told for certain is refused, never guessed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import gemmi
import numpy as np
from gemmi import cif

from screening.arrays import Float64, Int64
from screening.crystals.formats.cif_values import unreadable

LISTED = (
    "_symmetry_equiv_pos_as_xyz",
    "_space_group_symop_operation_xyz",
    "_space_group_symop.operation_xyz",
    "_symmetry_equiv_pos.as_xyz",
)
HALL = ("_symmetry_space_group_name_Hall", "_space_group_name_Hall", "_space_group.name_Hall")
HERMANN_MAUGUIN = (
    "_symmetry_space_group_name_H-M",
    "_space_group_name_H-M_alt",
    "_space_group.name_H-M_alt",
    "_space_group_name_H-M_full",
)
NUMBER = ("_symmetry_Int_Tables_number", "_space_group_IT_number", "_space_group.IT_number")

# The largest group of a conventional cell has 192 operations; 8 times as many leaves room for supercells.
MOST_OPERATIONS = 8 * 192

# Rotations in a primitive or conventional cell have entries of -1, 0 and 1; skewed cells need more.
LARGEST_ENTRY = 8
_PLACES = np.cumprod([1, *[2 * LARGEST_ENTRY + 1] * 9, *[gemmi.Op.DEN] * 2], dtype=np.int64)

# How far, relative to products of lengths, operations may be from keeping the metric. Listed ones are what the file
# means: programs find and list them within 5 degrees (cos 85 = 0.087). A symbol must fit better, for it may stand for
# operations about other axes than those of the cell.
LISTED_SLACK = 0.1
NAMED_SLACK = 0.03


@dataclass(frozen=True, slots=True, eq=False)
class Operations:
    """A space group in one setting: x' = R x + t for (n, 3, 3) `rotations` and (n, 3) `translations`.

    `misfit` (9, 9) maps a metric tensor to the part of it that the rotations do not keep; `slack` bounds that part.
    """

    rotations: Float64
    translations: Float64
    misfit: Float64
    slack: float

    def __len__(self) -> int:
        return len(self.rotations)

    def fit(self, lattice: Float64, lengths: Sequence[float]) -> bool:
        """Whether the operations keep lengths and angles in this cell, up to the slack."""
        off = self.misfit.dot(lattice.dot(lattice.T).ravel()).tolist()
        a, b, c = lengths[:3]
        if max(map(abs, off)) <= self.slack * min(a, b, c) ** 2:
            return True
        scales = (a * a, a * b, a * c, b * a, b * b, b * c, c * a, c * b, c * c)
        return not any(abs(change) > self.slack * scale for change, scale in zip(off, scales, strict=True))


def operations_in(block: cif.Block, alpha: float, gamma: float) -> Operations | None:
    """The operations of a block, or None when the identity is the only one.

    `alpha` and `gamma`, in degrees, tell hexagonal from rhombohedral axes when a symbol starting with R does not.
    A block that says nothing about its symmetry lists its whole cell.
    """
    for tag in LISTED:
        listed = _texts(block, tag)
        if listed and not all(map(cif.is_null, listed)):
            return _listed(listed)
    told = tuple(_first(block, tags) for tags in (HALL, HERMANN_MAUGUIN, NUMBER))
    if not any(told):
        return None
    return _named(*told, rhombohedral=abs(alpha - gamma) < 1.0)


def _texts(block: cif.Block, tag: str) -> tuple[str, ...]:
    loop: cif.Loop | None = block.find_loop(tag).get_loop()
    if loop is None:
        value = block.find_value(tag)
        return () if value is None else (value,)
    width = loop.width()
    if width == 1:
        return tuple(loop.values)
    # All values at once and then every so many: ten times faster than to walk the column.
    place = [other.lower() for other in loop.tags].index(tag.lower())
    return tuple(loop.values[place::width])


def _first(block: cif.Block, tags: Iterable[str]) -> str:
    for tag in tags:
        value = block.find_value(tag)
        if value is not None and not cif.is_null(value) and (text := cif.as_string(value).strip()):
            return text
    return ""


@lru_cache(maxsize=2048)
def _listed(texts: tuple[str, ...]) -> Operations | None:
    if len(texts) > MOST_OPERATIONS:
        raise unreadable(f"lists {len(texts)} symmetry operations; a space group has at most 192 in its usual cell")
    operations = []
    for text in texts:
        triplet = cif.as_string(text)
        try:
            operations.append(gemmi.Op(triplet))
        except (RuntimeError, ValueError) as error:
            raise unreadable(f"symmetry operation {triplet!r} cannot be understood ({error}); use x,y,z") from error
    return _checked(operations, "the listed symmetry operations", LISTED_SLACK)


@lru_cache(maxsize=2048)
def _named(hall: str, hermann_mauguin: str, number: str, *, rhombohedral: bool) -> Operations | None:
    operations = (
        (_of_hall(hall) if hall else [])
        or (_of_hermann_mauguin(hermann_mauguin, rhombohedral) if hermann_mauguin else [])
        or _of_number(number, rhombohedral)
    )
    if operations:
        return _checked(operations, "the symmetry operations of its space group", NAMED_SLACK)
    told = ", ".join(repr(text) for text in (hall, hermann_mauguin, number) if text)
    raise unreadable(f"lists no symmetry operations, and no space group is known as {told}; list the operations")


def _of_hall(symbol: str) -> list[gemmi.Op]:
    try:
        return list(gemmi.symops_from_hall(symbol))
    except (RuntimeError, ValueError):
        return []


def _of_hermann_mauguin(symbol: str, rhombohedral: bool) -> list[gemmi.Op]:
    alpha, gamma = (60.0, 60.0) if rhombohedral else (90.0, 120.0)
    choices: list[gemmi.SpaceGroup | None] = [
        gemmi.find_spacegroup_by_name(symbol, alpha, gamma, origin) for origin in ("1", "2")
    ]
    first, second = choices
    if first is None or second is None:
        return []
    if first.xhm() != second.xhm():
        # A wrong guess would shift the sites against the symmetry elements and give another crystal.
        raise unreadable(
            f"space group {symbol!r} has two origins and the file does not say which; list the operations, or write "
            f"{first.xhm()!r} or {second.xhm()!r}"
        )
    return list(first.operations())


def _of_number(text: str, rhombohedral: bool) -> list[gemmi.Op]:
    group = gemmi.find_spacegroup_by_number(int(text)) if text.isascii() and text.isdigit() and len(text) < 4 else None
    return [] if group is None else _of_hermann_mauguin(group.hm, rhombohedral)


def _checked(operations: list[gemmi.Op], what: str, slack: float) -> Operations | None:
    """Drop repeated operations and refuse what is no group: half a list of operations gives half a crystal."""
    rotations = np.array([op.rot for op in operations], np.int64)
    translations = np.array([op.tran for op in operations], np.int64) % gemmi.Op.DEN
    if (rotations % gemmi.Op.DEN).any() or (np.abs(rotations) > LARGEST_ENTRY * gemmi.Op.DEN).any():
        raise unreadable(f"{what} are no rotations: expected whole numbers of x, y and z, such as -x,y+1/2,z")
    rotations //= gemmi.Op.DEN
    _, first = np.unique(_codes(rotations, translations), return_index=True)
    rotations, translations = rotations[np.sort(first)], translations[np.sort(first)]
    if not _is_group(rotations, translations):
        raise unreadable(f"{what} do not form a group: a product of two of them is missing; list all of them")
    if len(rotations) == 1:
        return None
    return Operations(
        rotations=rotations.astype(np.float64),
        translations=translations / gemmi.Op.DEN,
        misfit=np.eye(9) - np.mean([np.kron(turn.T, turn.T) for turn in np.unique(rotations, axis=0)], axis=0),
        slack=slack,
    )


def _is_group(rotations: Int64, translations: Int64) -> bool:
    """Whether products stay within a finite set of invertible operations, lattice translations left aside."""
    if (np.abs(np.round(np.linalg.det(rotations))) != 1).any():
        return False
    known = _codes(rotations, translations)
    for rotation, translation in zip(rotations, translations, strict=True):
        products = rotation @ rotations
        shifts = (translations @ rotation.T + translation) % gemmi.Op.DEN
        if np.abs(products).max() > LARGEST_ENTRY or not np.isin(_codes(products, shifts), known).all():
            return False
    return True


def _codes(rotations: Int64, translations: Int64) -> Int64:
    """One number for each operation, different for different ones."""
    digits = np.concatenate([rotations.reshape(-1, 9) + LARGEST_ENTRY, translations], axis=1)
    codes: Int64 = digits @ _PLACES
    return codes
