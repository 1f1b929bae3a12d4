"""What training writes: whole or not there, on a full disk too, and by two at once."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from full_disks import FULL, full, limited
from teaching_made import GAP, made
from torch.amp.grad_scaler import GradScaler

from screening.errors import InputError, ResourceError
from screening.models import checkpoint
from screening.models.header import Card
from screening.training.curves import draw_curves
from screening.training.resume import Learner, Position, save_state
from screening.training.tables import made_table, mapped

ENDS = np.array([0, 30, 60, 100])
ROWS = np.arange(300.0).reshape(100, 3)


def save_model(path: Path) -> None:
    checkpoint.save(made(GAP), path, Card())


def save_run(path: Path) -> None:
    model = made(GAP)
    optimiser = torch.optim.SGD(model.parameters())
    learner = Learner(model, optimiser, None, GradScaler("cpu", enabled=False), "cpu")
    save_state(path, learner, Position(), stamp="s")


def draw(path: Path) -> None:
    draw_curves([{"epoch": 1, "train": {"loss": 1.0}, "validation": {"loss": 1.0, "targets": {}}}], [], path)


@pytest.mark.parametrize("older", [b"older", None])
@pytest.mark.parametrize("write", [save_model, save_run, draw])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_leaves_the_older_file_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write, older: bytes | None, call: str
) -> None:
    path = tmp_path / "f.png"
    write(path)
    path.unlink()
    if older is not None:
        path.write_bytes(older)
    with monkeypatch.context() as patch, limited(2000 if call == "write" else 1 << 30):
        if call == "fsync":
            patch.setattr(os, "fsync", full)
        with pytest.raises(ResourceError, match=f"{path}: {FULL}.*; free some space and run it again"):
            write(path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([older] if older is not None else [])


def test_a_model_needs_a_place(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        save_model(tmp_path / "none" / "m.safetensors")
    with pytest.raises(InputError, match="a folder, expected the name of a file to write"):
        save_model(tmp_path)


def block(number: int) -> np.ndarray:
    return ROWS[ENDS[number] : ENDS[number + 1]]


def table(folder: Path, make=block) -> Path:
    return made_table(folder / "t.npy", ENDS, 3, np.float32, make)


def test_a_table_is_its_blocks_end_to_end(tmp_path: Path) -> None:
    (tmp_path / "t.npy.0123abcd.part").write_bytes(b"begun by one that was killed")
    path = table(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(mapped(path, 100), ROWS)
    assert np.load(path).dtype == np.float32
    empty = made_table(tmp_path / "empty.npy", np.array([0, 0]), 3, np.float64, lambda k: np.zeros((0, 3)))
    assert mapped(empty, 0).shape == (0, 3)


@pytest.mark.parametrize("size", [300, 700])
def test_a_table_on_a_full_disk_goes_on_from_its_last_block(tmp_path: Path, size: int) -> None:
    """Blocks take 488 and 608 bytes, the table 1328."""
    with limited(size), pytest.raises(ResourceError, match=FULL):
        table(tmp_path)
    assert not list(tmp_path.rglob("*.part"))
    done = [path.name for path in (tmp_path / "t.blocks").iterdir()]
    assert sorted(done) == ([] if size == 300 else ["0-30.npy", "30-60.npy", "60-100.npy"])

    def remaining(number: int) -> np.ndarray:
        assert not done
        return block(number)

    np.testing.assert_array_equal(mapped(table(tmp_path, remaining), 100), ROWS)


def test_two_who_make_a_table_at_once_make_the_same(tmp_path: Path) -> None:
    failed: list[BaseException] = []

    def make(folder: Path, together: threading.Barrier) -> None:
        try:
            together.wait()
            np.testing.assert_array_equal(mapped(table(folder), 100), ROWS)
        except BaseException as error:
            failed.append(error)

    for turn in range(30):
        together = threading.Barrier(3)
        threads = [threading.Thread(target=make, args=(tmp_path / str(turn), together)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert [path.name for path in (tmp_path / str(turn)).iterdir()] == ["t.npy"]
