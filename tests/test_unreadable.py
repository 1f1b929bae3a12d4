"""HDF5 files that cannot be read: trouble that passes is told from damage, alike for crystals, shards and results."""

import errno
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import pytest
from made import made_batch
from shards import write_run

from screening.crystals.packed import PackedCrystals
from screening.errors import FileFormatError, InputError, ResourceError
from screening.files.hdf5 import reading
from screening.store.merge import merge
from screening.store.parts import Merged
from screening.store.record import INPUT, RESULTS, SHARDS
from screening.store.shard import ShardFile, shard_name

PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
OF_HDF5 = "Can't synchronously read data (file read failed: errno = {}, error message = 'x', offset = 680)"


class Kind(NamedTuple):
    """A kind of file: how one is opened and read, what it holds, and what helps against damage."""

    name: str
    opened: Callable[[Path], AbstractContextManager[Any]]
    read: Callable[[Any], object]
    what: str
    cure: str


KINDS = [
    Kind(INPUT, PackedCrystals, lambda f: f[:], "packed crystals", "copy it again .* `screening pack`"),
    Kind(f"{SHARDS}/{shard_name(0, 20)}", ShardFile, lambda f: f.columns(), "a shard", "remove it and give the same"),
    Kind(RESULTS, Merged, lambda f: f.read(["id"], 0, 20), "results", "copy it again, .* `screening merge`"),
]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.what)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_run(tmp_path_factory.mktemp("run"), made_batch(20))
    merge(made)
    return made


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@each_kind
@pytest.mark.parametrize("number", PASSING, ids=errno.errorcode.get)
def test_trouble_that_passes_is_no_damage(run: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, number: int) -> None:
    message = rf"{run / kind.name}: cannot be read now .*; the file itself may be well: try again"
    with monkeypatch.context() as patch:
        patch.setattr(h5py, "File", failing(OSError(number, os.strerror(number))))
        with pytest.raises(ResourceError, match=message):
            kind.opened(run / kind.name)
    for error in (OSError(number, os.strerror(number)), OSError(OF_HDF5.format(number))):
        with kind.opened(run / kind.name) as file:
            with monkeypatch.context() as patch:
                patch.setattr(h5py.Dataset, "__getitem__", failing(error))
                with pytest.raises(ResourceError, match=message):
                    kind.read(file)
            assert kind.read(file) is not None


@each_kind
def test_damage_is_told_with_its_cure(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    cut = tmp_path / Path(kind.name).name
    cut.write_bytes((run / kind.name).read_bytes()[:1000])
    with pytest.raises(FileFormatError, match=rf"{cut}: cannot open it as {kind.what} \(.*\); .*{kind.cure}"):
        kind.opened(cut)
    with kind.opened(run / kind.name) as file, monkeypatch.context() as patch:
        patch.setattr(h5py.Dataset, "__getitem__", failing(OSError("inflate() failed")))
        with pytest.raises(
            FileFormatError, match=rf"cannot read it as {kind.what} \(inflate\(\) failed\); .*{kind.cure}"
        ):
            kind.read(file)


@each_kind
def test_what_is_not_there_is_no_damage_either(run: Path, tmp_path: Path, kind: Kind) -> None:
    name = Path(kind.name).name
    (tmp_path / "folder" / name).mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"")
    for path, said in (
        (tmp_path / name, "no such file; check its name"),
        (tmp_path / "file" / name, "no such file; check its name"),
        (tmp_path / "folder" / name, "a folder, expected a file"),
    ):
        with pytest.raises(InputError, match=f"{path}: {said}"):
            kind.opened(path)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (PermissionError(errno.EACCES, "x"), InputError, "f: may not be read; .* belongs to .*, who can"),
        (OSError("unable to lock file"), ResourceError, "f: another program has it open for writing; wait for it"),
        (InputError("a target needs a name"), FileFormatError, r"f: cannot read it as x \(a target needs a name\); y"),
        (FileFormatError("told already"), FileFormatError, "told already"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
)
def test_other_errors(error: BaseException, kind: type[BaseException], said: str) -> None:
    with pytest.raises(kind, match=said), reading(Path("f"), "x", "y"):
        raise error


def test_limits_that_make_no_sense_are_damage(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    path.write_bytes((run / INPUT).read_bytes())
    with h5py.File(path, "r+") as file:
        limits = json.loads(file.attrs["limits"]) | {"min_distance": -1}
        file.attrs["limits"] = json.dumps(limits).encode()
    with pytest.raises(FileFormatError, match=r"c\.h5: cannot open it as packed crystals \(min_distance must be"):
        PackedCrystals(path)
