"""The packed input as a worker reads it: patiently, and from a copy on its node if there is one.

A copy can be bad where the file is well: its node lost power before all was on the disk, or the disk is dying. What
cannot be read from it is read from the file itself, and another copy takes its place, once.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from screening.crystals.batch import Crystals
from screening.crystals.packed import PackedCrystals
from screening.errors import FileFormatError, InputError, ResourceError, ScreeningError
from screening.runs.scratch import Staged, staged

Found = TypeVar("Found")

# Seconds to wait before what could not be read is tried again: a file server that restarts takes about a minute.
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
MOST_COPIES = 2


class UnreadableRowsError(ResourceError):
    """Rows of the input cannot be read, for longer than a passing trouble lasts, though the file may be well."""


def opened_input(path: Path, fingerprint: str, *, origin: Path | None = None) -> PackedCrystals:
    """Open a packed input, or a copy of its `origin`; refuse one that holds other crystals."""
    packed = PackedCrystals(path)
    found = packed.attributes.get("fingerprint", fingerprint)
    if found != fingerprint:
        packed.close()
        raise InputError(f"{origin or path}: holds other crystals than when the run began; put that file back")
    return packed


class RowReader:
    """Reads rows of a packed input, from any thread; `packed` is what they are read from now.

    With a `scratch` folder, which is asked for on the node, that is a copy there, shared with other processes.
    """

    def __init__(self, path: Path, fingerprint: str, *, scratch: Callable[[], Path] | None = None) -> None:
        self._path, self._fingerprint, self._scratch = path, fingerprint, scratch
        self._copies = 0
        self._replacing = threading.Lock()
        self._staged = None if scratch is None else _patiently(lambda: self._copied(scratch()))
        try:
            self.packed = self._opened_copy(self._staged) if self._staged else self._opened_patiently()
        except ScreeningError:
            if self._staged is None:
                raise
            self.packed = self._opened_patiently()
            self._part_from(self._staged)

    def read(self, start: int, stop: int, again: Callable[[], object] = lambda: None) -> Crystals:
        """Read rows [start, stop); `again` is called before what failed is tried once more."""
        copy = self._staged
        if copy is None:
            return self._read_file(start, stop, again)
        try:
            return self.packed.atoms(start, stop)
        except (FileFormatError, ResourceError):
            again()
        with self._opened_patiently() as file:
            crystals = _read(lambda: file.atoms(start, stop), again)
        self._part_from(copy)
        return crystals

    def close(self) -> None:
        """Let go of the file, or the copy."""
        self.packed.close()
        if self._staged is not None:
            self._staged.release()

    def _read_file(self, start: int, stop: int, again: Callable[[], object]) -> Crystals:
        def reopen() -> None:
            again()
            # A handle that went stale stays so. The other lease may still read through the old file, so that it stays.
            with contextlib.suppress(ScreeningError):
                self.packed = opened_input(self._path, self._fingerprint)

        return _read(lambda: self.packed.atoms(start, stop), reopen)

    def _part_from(self, copy: Staged) -> None:
        """Use a bad copy no more, but another, or the file itself where that is bad or cannot be had."""
        with self._replacing:
            if self._staged is not copy or self._scratch is None:
                return  # another thread has done so
            copy.drop()
            try:
                if self._copies == MOST_COPIES:
                    raise ResourceError("copies go bad here")
                another = self._copied(self._scratch())
                self.packed, self._staged = self._opened_copy(another), another
            except ScreeningError:
                self.packed, self._staged = self._opened_patiently(), None

    def _copied(self, scratch: Path) -> Staged:
        self._copies += 1
        return staged(self._path, scratch)

    def _opened_copy(self, copy: Staged) -> PackedCrystals:
        return opened_input(copy.path, self._fingerprint, origin=self._path)

    def _opened_patiently(self) -> PackedCrystals:
        return _patiently(lambda: opened_input(self._path, self._fingerprint))


def _read(act: Callable[[], Crystals], again: Callable[[], object]) -> Crystals:
    try:
        return _patiently(act, again)
    except ResourceError as error:
        raise UnreadableRowsError(str(error)) from error


def _patiently(act: Callable[[], Found], again: Callable[[], object] = lambda: None) -> Found:
    """Do what may fail for a while for reasons that pass."""
    for pause in PAUSES_S:
        try:
            return act()
        except ResourceError:
            time.sleep(pause)
            again()
    return act()
