"""Files that are there when they are whole: two writers at once, a full disk, folders that are not there."""

import contextlib
import errno
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from full_disks import FULL, full, limited
from made import made_batch

from screening.crystals.pack import pack
from screening.crystals.packed_writer import PackedWriter
from screening.crystals.write import write
from screening.errors import InputError, ResourceError
from screening.files.hdf5 import whole_hdf5
from screening.files.listing import listing
from screening.files.whole import growing, require_folder, require_place, require_room, write_whole

ROUNDS = 200


def grow(path: Path) -> None:
    with growing(path) as sink:
        sink.write(b"x" * 10_000)


def grow_hdf5(path: Path) -> None:
    with whole_hdf5(path) as (file, sink):
        file["x"] = np.arange(10_000)
        sink.check()


def grow_list(path: Path) -> None:
    with listing(path, ("number", "text")) as take:
        for k in range(1000):
            take((k, "text"))


def pack_crystals(path: Path) -> None:
    with PackedWriter(path) as writer:
        writer.append(made_batch(2))


WRITERS = {"blocks": lambda path: write_whole(path, [b"x" * 10_000]), "growing": grow, "hdf5": grow_hdf5}
USERS = {
    **WRITERS,
    "listing": grow_list,
    "packed": pack_crystals,
    "extxyz": lambda path: write(made_batch(200), path, format="extxyz"),
    "jsonl": lambda path: write(made_batch(200), path, format="jsonl"),
}


def test_blocks_end_to_end_replace_an_older_file(tmp_path: Path) -> None:
    for blocks in ([b"older"], [], [b"one", b"", memoryview(b"two"), np.arange(3, dtype=np.uint8).data]):
        assert write_whole(tmp_path / "f", blocks) == tmp_path / "f"
    assert (tmp_path / "f").read_bytes() == b"onetwo\x00\x01\x02"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_threads_that_write_the_same_file_at_once_do_no_harm(tmp_path: Path) -> None:
    contents = [bytes([65 + k]) * 5000 for k in range(4)]
    failed: list[BaseException] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(ROUNDS):
                write_whole(tmp_path / "f", [content])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        with contextlib.suppress(FileNotFoundError):
            assert (tmp_path / "f").read_bytes() in contents
    assert failed == []
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_processes_that_write_the_same_file_at_once_do_no_harm(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        sys.path[:0] = {sys.path!r}
        from screening.files.whole import write_whole
        for _ in range({ROUNDS}):
            write_whole(Path({str(tmp_path / "f")!r}), [sys.argv[1].encode() * 5000])
    """)
    started = [subprocess.Popen([sys.executable, "-c", script, letter]) for letter in "AB"]
    assert [process.wait(60) for process in started] == [0, 0]
    assert (tmp_path / "f").read_bytes() in (b"A" * 5000, b"B" * 5000)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("kind", USERS)
@pytest.mark.parametrize("older", [b"older", None])
@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_older_file_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, older: bytes | None, call: str
) -> None:
    path = tmp_path / "f"
    if older is not None:
        path.write_bytes(older)
    with monkeypatch.context() as patch, limited(4000) if call == "write" else contextlib.nullcontext():
        if call != "write":
            patch.setattr(os if call == "fsync" else Path, call, full)
        with pytest.raises(ResourceError) as told:
            USERS[kind](path)
    kept = f"; {path} is as it was before" if older is not None else ""
    assert str(told.value) == f"{path}: {FULL}{kept}; free some space and run it again"
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([older] if older is not None else [])


def test_a_folder_of_files_on_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    with limited(300), pytest.raises(ResourceError, match=f"cifs: {FULL}; free some space and run it again"):
        write(made_batch(20), tmp_path / "cifs", format="cif")
    assert list(tmp_path.iterdir()) == []


def test_a_list_beside_an_output_on_a_full_disk_takes_the_output_along(tmp_path: Path) -> None:
    """Only the list is longer than files may be."""
    (tmp_path / "in.xyz").write_text("1\nlattice of no kind\nH 0 0\n" * 400, encoding="utf-8")
    write(made_batch(2), tmp_path / "good.xyz", format="extxyz")
    inputs = [tmp_path / "good.xyz", tmp_path / "in.xyz"]
    with limited(9000), pytest.raises(ResourceError, match=rf"refused\.csv: {FULL}; free some space"):
        pack(inputs, tmp_path / "out.xyz", rejections=tmp_path / "refused.csv")
    assert sorted(tmp_path.iterdir()) == inputs


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("lost"), OSError(errno.EIO, "of another file")])
@pytest.mark.parametrize("kind", WRITERS)
def test_what_fails_elsewhere_is_told_as_it_is(tmp_path: Path, kind: str, error: BaseException) -> None:
    def failing() -> Iterator[bytes]:
        yield b"begun"
        raise error

    def write() -> None:
        if kind == "blocks":
            write_whole(tmp_path / "f", failing())
        else:
            with growing(tmp_path / "f") if kind == "growing" else whole_hdf5(tmp_path / "f"):
                raise error

    with pytest.raises(type(error)) as told:
        write()
    assert told.value is error
    assert list(tmp_path.iterdir()) == []


def test_a_list_is_told_of_a_full_disk_row_by_row(tmp_path: Path) -> None:
    rows = []

    def write() -> None:
        with listing(tmp_path / "f.csv", ("text",)) as take:
            for k in range(1000):
                take(("x" * 100,))
                rows.append(k)

    with limited(4000), pytest.raises(ResourceError, match=FULL):
        write()
    assert len(rows) == 3999 // 102
    assert list(tmp_path.iterdir()) == []


def test_a_list_holds_any_text_and_no_list_takes_rows_too(tmp_path: Path) -> None:
    for path in (tmp_path / "f.csv", None):
        with listing(path, ("a", "b")) as take:
            take(("x,y", "lone \ud800"))
    assert (tmp_path / "f.csv").read_bytes() == b'a,b\r\n"x,y",lone \\ud800\r\n'
    assert [path.name for path in tmp_path.iterdir()] == ["f.csv"]


def test_a_failure_to_tidy_up_hides_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for kind, make in WRITERS.items():
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", gone)
            patch.setattr(Path, "replace", full)
            with pytest.raises(ResourceError, match=f"{kind}: {FULL}"):
                make(tmp_path / kind)


def test_what_grows_has_one_writer_and_the_next_takes_its_place(tmp_path: Path) -> None:
    path, part = tmp_path / "f", tmp_path / "f.part"
    part.write_bytes(b"left by one that was killed" * 1000)
    with growing(path) as sink:
        sink.write(b"whole")
        with pytest.raises(ResourceError, match="another process is writing this file"), growing(path):
            pass
        assert part.read_bytes() == b"whole"
    assert path.read_bytes() == b"whole"
    assert [file.name for file in tmp_path.iterdir()] == ["f"]


def test_a_file_that_does_not_come_back_as_written_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def write() -> None:
        with growing(tmp_path / "f") as sink:
            sink.write(b"x")
            with contextlib.suppress(OSError):
                sink.read(1)

    monkeypatch.setattr(os, "pread", unreadable)
    with pytest.raises(ResourceError, match=r"f: cannot be written \(Input/output error\); check the folder"):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_that_is_not_there_is_an_error_of_ours(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ResourceError, match=r"f: cannot be written \(No such file or directory\); check the folder"):
        WRITERS[kind](tmp_path / "none" / "f")


def test_places_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for require in (require_folder, require_place):
        with pytest.raises(InputError, match=r"none/f: there is no folder .*none; make it first"):
            require(tmp_path / "none" / "f")
        require(tmp_path / "f")
    require_folder(tmp_path / "folder")
    with pytest.raises(InputError, match="folder: a folder, expected the name of a file to write"):
        require_place(tmp_path / "folder")


def test_room_is_asked_for_without_a_trace(tmp_path: Path) -> None:
    require_room(tmp_path, 10_000)
    with limited(4000), pytest.raises(ResourceError, match=FULL):
        require_room(tmp_path, 10_000)
    with pytest.raises(ResourceError, match="none: cannot be written"):
        require_room(tmp_path / "none", 1)
    assert list(tmp_path.iterdir()) == []
