"""Ids as columns of fixed width: as they are, or shortened so that one absurd id does not widen a billion rows.

An id of more than 256 bytes, or one that ends in NUL (which fixed width cannot tell from padding), is kept as its
beginning, `#` and 16 hexadecimal digits of its BLAKE2b hash. The packed input has it whole.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from screening.crystals.text import SURROGATES, TextColumn
from screening.store.schema import Array

LONGEST_ID = 256
DIGEST_BYTES = 8
_KEPT = LONGEST_ID - 1 - 2 * DIGEST_BYTES


def stored_id(id: str) -> bytes:
    """An id as result files keep it; different ids stay different."""
    encoded = id.encode("utf-8", SURROGATES)
    if len(encoded) <= LONGEST_ID and not encoded.endswith(b"\0"):
        return encoded
    kept = min(_KEPT, len(encoded))
    # Never between the bytes of one character, whose later ones all begin with the bits 10.
    while 0 < kept < len(encoded) and encoded[kept] & 0xC0 == 0x80:
        kept -= 1
    return encoded[:kept] + b"#" + blake2b(encoded, digest_size=DIGEST_BYTES).hexdigest().encode()


def id_column(ids: Sequence[str]) -> Array:
    """Ids as an array of bytes, as wide as the longest."""
    if isinstance(ids, TextColumn):
        fast = _from_text(ids)
        if fast is not None:
            return fast
    return bytes_column([stored_id(id) for id in ids])


def bytes_column(values: Sequence[bytes]) -> Array:
    """Bytes as an array of fixed width, at least 1."""
    return np.array(values, dtype=f"S{max(map(len, values), default=0) or 1}")


def text_of(column: Array) -> list[str]:
    """A column of bytes as strings."""
    return [value.decode("utf-8", SURROGATES) for value in column.tolist()]


def _from_text(text: TextColumn) -> Array | None:
    """The same without a Python string per row; None when some id must be shortened."""
    lengths = np.diff(text.offsets)
    width = int(lengths.max(initial=1))
    first, last = int(text.offsets[0]), int(text.offsets[-1])
    ends = text.offsets[1:][lengths > 0] - 1
    if width > LONGEST_ID or not text.data[ends].all():
        return None
    padded = np.zeros((len(text), width), np.uint8)
    padded[np.arange(width) < lengths[:, None]] = text.data[first:last]
    return padded.reshape(-1).view(f"S{width}")
