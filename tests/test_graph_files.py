"""Graphs in files are the graphs that were written, whoever maps them, and no others are taken."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ranked
from made import PERIODIC_KINDS, made_crystals

from screening.crystals.batch import Crystals
from screening.errors import FileFormatError, ResourceError
from screening.training.graph_files import INDEX_FILE, GraphWriter, mapped_graphs
from screening.training.labelled import LabelledGraphs

NEIGHBORS = ranked.new_model("cgcnn").neighbors
COLUMNS = ("labels", "folds", "numbers", "atom_offsets", "edge_offsets", "edge_source", "edge_vector")


def made_parts() -> list[LabelledGraphs]:
    crystals = [Crystals.of(made_crystals(9, seed=seed, kinds=PERIODIC_KINDS, prefix=f"é{seed}")) for seed in range(3)]
    labels = {"fold": np.arange(9.0), "density": np.ones(9), "gap": np.full(9, np.nan)}
    labelled = [replace(part, labels=labels) for part in crystals]
    return [LabelledGraphs.of([part], ranked.TARGETS, NEIGHBORS) for part in labelled]


def written(folder: Path, parts: list[LabelledGraphs]) -> Path:
    with GraphWriter(folder, ranked.TARGETS, NEIGHBORS) as writer:
        for part in parts:
            writer.append(part)
    return folder


def test_parts_come_back_as_one(tmp_path: Path) -> None:
    parts = made_parts()
    right = LabelledGraphs.joined(parts, ranked.TARGETS, NEIGHBORS)
    found = mapped_graphs(written(tmp_path / "graphs", parts))
    assert list(found.ids) == list(right.ids)
    assert (found.targets, found.neighbors, found.held) == (right.targets, right.neighbors, right.held)
    assert found.held == {"density"}
    for name in COLUMNS:
        ours, theirs = getattr(found, name), getattr(right, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    rows = np.array([20, 3, 11])
    assert found.fingerprint(rows) == right.fingerprint(rows)
    (ours, labels), (theirs, expected) = found.take(rows), right.take(rows)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(ours.edge_vector, theirs.edge_vector)


def test_forces_come_back_and_tell_data_sets_apart(tmp_path: Path) -> None:
    crystals = [Crystals.of(made_crystals(6, seed=seed, forces=True, prefix=f"{seed}")) for seed in range(2)]
    parts = [LabelledGraphs.of([part], ranked.TARGETS, NEIGHBORS, forces=True) for part in crystals]
    right = LabelledGraphs.joined(parts, ranked.TARGETS, NEIGHBORS, forces=True)
    with GraphWriter(tmp_path, ranked.TARGETS, NEIGHBORS, forces=True) as writer:
        for part in parts:
            writer.append(part)
    found, rows = mapped_graphs(tmp_path), np.array([7, 0, 3])
    assert right.forces is not None
    np.testing.assert_array_equal(found.forces, right.forces, strict=True)
    np.testing.assert_array_equal(found.forces_in(rows), right.forces_in(rows))
    assert found.fingerprint(rows) == right.fingerprint(rows)
    others = [replace(right, forces=forces).fingerprint(rows) for forces in (right.forces + 1, None)]
    assert len({right.fingerprint(rows), *others}) == 3


def test_no_crystals_are_none(tmp_path: Path) -> None:
    found = mapped_graphs(written(tmp_path / "graphs", []))
    assert len(found) == 0
    assert found.edge_vector.shape == (0, 3)


def test_what_is_not_whole_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "graphs", made_parts())
    with (folder / "numbers").open("ab"), (folder / "edge_vector").open("ab") as file:
        file.write(b"12345")
    with pytest.raises(FileFormatError, match="edge_vector ends within a number"):
        mapped_graphs(folder)
    with pytest.raises(FileFormatError, match="workers need the run's folder under one path"):
        mapped_graphs(tmp_path / "elsewhere")


def test_an_interrupted_writer_leaves_nothing_to_take(tmp_path: Path) -> None:
    folder = written(tmp_path / "graphs", made_parts())
    with pytest.raises(ZeroDivisionError), GraphWriter(folder, ranked.TARGETS, NEIGHBORS):
        raise ZeroDivisionError
    assert not (folder / INDEX_FILE).exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "graphs").write_bytes(b"")
    with pytest.raises(ResourceError, match=r"graphs: cannot be written \(File exists\)"):
        written(tmp_path / "graphs", [])
