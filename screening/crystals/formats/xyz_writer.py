"""A crystal as a frame of extended XYZ, in numbers that read back to the last bit."""

import re
from collections.abc import Iterator
from typing import Any

from screening.crystals.crystal import Crystal
from screening.crystals.elements import SYMBOLS
from screening.crystals.formats.xyz_comment import roles_of
from screening.errors import InputError

_BARE = re.compile(r"[^\s\"'{}\[\]=\\,]+", re.ASCII)


def extxyz_frame(crystal: Crystal) -> bytes:
    """Write one frame: species, positions and forces in columns; lattice, id, labels and stress on the comment line."""
    symbols = symbols_of(crystal)
    columns = [crystal.positions.tolist()]
    properties = "species:S:1:pos:R:3"
    if crystal.forces is not None:
        columns.append(crystal.forces.tolist())
        properties += ":forces:R:3"
    lines = [str(len(symbols)), " ".join(_comment(crystal, properties))]
    for symbol, *vectors in zip(symbols, *columns, strict=True):
        lines.append(" ".join([symbol, *(repr(x) for vector in vectors for x in vector)]))
    return ("\n".join(lines) + "\n").encode()


def _comment(crystal: Crystal, properties: str) -> Iterator[str]:
    if crystal.lattice.any():
        yield f'Lattice="{_numbers(crystal.lattice)}"'
    yield f"Properties={properties}"
    yield 'pbc="{} {} {}"'.format(*("T" if periodic else "F" for periodic in crystal.pbc))
    yield f"material_id={_quoted(crystal, crystal.id)}"
    for name, value in crystal.labels.items():
        if not _reads_as_label(name):
            raise InputError(f"{crystal.id}: extended XYZ has another meaning for the label `{name}`; rename it")
        yield f"{_quoted(crystal, name)}={float(value)!r}"
    if crystal.stress is not None:
        # Column by column, as the format has all its matrices.
        yield f'stress="{_numbers(crystal.stress.T)}"'


def _reads_as_label(name: str) -> bool:
    return bool(name.strip()) and bool(roles_of((name,)).labels)


def _numbers(array: Any) -> str:
    return " ".join(map(repr, array.ravel().tolist()))


def _quoted(crystal: Crystal, text: str) -> str:
    # Lone surrogates, from file names that are no UTF-8, cannot be written.
    text = text.encode("utf-8", "backslashreplace").decode()
    if _BARE.fullmatch(text):
        return text
    if "\n" in text or "\r" in text:
        raise InputError(f"{crystal.id!r}: {text!r} has a line break, which extended XYZ cannot hold; rename it")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def symbols_of(crystal: Crystal) -> list[str]:
    """The symbols of the atoms; refuses numbers that are no element."""
    numbers = crystal.numbers
    if len(numbers) and not (int(numbers.min()) > 0 and int(numbers.max()) < len(SYMBOLS)):
        raise InputError(f"{crystal.id}: holds an atomic number outside 1 to {len(SYMBOLS) - 1}")
    return [SYMBOLS[number] for number in numbers.tolist()]
