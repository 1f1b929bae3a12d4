"""HDF5 datasets that grow at the end in whole chunks: what packed files are written with.

Rows wait in memory until they fill a chunk, so that every chunk is compressed and written once. At most one chunk and
one batch of rows wait.
"""

from collections.abc import Iterable, Sequence

import h5py
import numpy as np
import numpy.typing as npt

from screening.crystals.text import TextColumn

Rows = npt.NDArray[np.generic]

# Shuffle puts the incompressible mantissa bytes of float64 together, which deflate then stores as they are. Measured
# on positions, two cores of Zen 4: 520 MB/s read with level 1 and checksum, 230 MB/s without shuffle; level 4 saves
# another 1 % of the size and costs 10 % of the writing speed.
FILTERS = {"shuffle": True, "compression": "gzip", "compression_opts": 1, "fletcher32": True}
CHUNK_BYTES = 1 << 18


class GrowingColumn:
    """One dataset of rows of a fixed shape. Float columns may start late: the rows before are NaN and take no space."""

    def __init__(self, group: h5py.Group, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        row_bytes = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=int))
        self._chunk = 1 << max(0, (CHUNK_BYTES // row_bytes).bit_length() - 1)
        self._dtype = np.dtype(dtype)
        self._sparse = self._dtype.kind == "f"
        self.dataset = group.create_dataset(
            name,
            shape=(0, *shape),
            maxshape=(None, *shape),
            chunks=(self._chunk, *shape),
            dtype=self._dtype,
            fillvalue=np.nan if self._sparse else None,
            track_times=False,
            **FILTERS,
        )
        self._waiting: list[Rows] = []
        self._waiting_rows = 0
        self._written = 0

    def __len__(self) -> int:
        return self._written + self._waiting_rows

    def skip_to(self, rows: int) -> None:
        """Fill with NaN up to this many rows."""
        whole = rows - rows % self._chunk
        if not self._waiting and whole > self._written:
            self._written = whole
        while len(self) < rows:
            self.append(np.full((min(rows - len(self), self._chunk), *self.dataset.shape[1:]), np.nan))

    def append(self, rows: Rows) -> None:
        """Add rows at the end."""
        self._waiting.append(rows)
        self._waiting_rows += len(rows)
        if self._waiting_rows >= self._chunk:
            self._write(self._waiting_rows - self._waiting_rows % self._chunk)

    def finish(self) -> None:
        """Write the rows that still wait."""
        self._write(self._waiting_rows)
        self.dataset.resize(self._written, axis=0)

    def _write(self, count: int) -> None:
        rows = np.concatenate([np.empty((0, *self.dataset.shape[1:]), self._dtype), *self._waiting], dtype=self._dtype)
        for start in range(0, count, self._chunk):
            block = rows[start : min(start + self._chunk, count)]
            # A chunk never written reads as the fill value.
            if not (self._sparse and np.isnan(block).all()):
                self.dataset.resize(self._written + len(block), axis=0)
                self.dataset[self._written :] = block
            self._written += len(block)
        self._waiting = [rows[count:].copy()] if count < len(rows) else []
        self._waiting_rows = len(rows) - count


class GrowingOffsets:
    """The (n + 1,) i64 offsets of n rows of varying length, starting at 0."""

    def __init__(self, group: h5py.Group, name: str) -> None:
        self._column = GrowingColumn(group, name, (), np.int64)
        self._column.append(np.zeros(1, np.int64))
        self.total = 0

    def append(self, offsets: npt.NDArray[np.integer]) -> None:
        """Add the rows that a batch's own offsets delimit."""
        ends = offsets.astype(np.int64) - int(offsets[0]) + self.total
        self._column.append(ends[1:])
        self.total = int(ends[-1])

    def finish(self) -> None:
        """Write the rows that still wait."""
        self._column.finish()


class GrowingText:
    """A group of UTF-8 bytes and offsets: variable-length strings of HDF5 are neither compressed nor fast."""

    def __init__(self, group: h5py.Group, name: str) -> None:
        inner = group.create_group(name)
        self._data = GrowingColumn(inner, "utf8", (), np.uint8)
        self._offsets = GrowingOffsets(inner, "offsets")

    def append(self, strings: Iterable[str]) -> None:
        """Add strings at the end."""
        text = TextColumn.of(strings)
        self._data.append(text.data[text.offsets[0] : text.offsets[-1]])
        self._offsets.append(text.offsets)

    def finish(self) -> None:
        """Write the bytes and offsets that still wait."""
        self._data.finish()
        self._offsets.finish()


class StoredText:
    """A group that `GrowingText` wrote, to read strings from."""

    def __init__(self, group: h5py.Group) -> None:
        self._data, self._offsets = group["utf8"], group["offsets"]

    def read(self, start: int, stop: int | None) -> Sequence[str]:
        """Read strings [start, stop), to the end without a stop; each is decoded when it is looked at."""
        offsets = self._offsets[start : None if stop is None else stop + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        return TextColumn(self._data[first:last], offsets - first)
