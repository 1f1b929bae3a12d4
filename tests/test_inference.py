"""Streams of crystals to predictions: in order, all of them, and the same whatever the batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made import made_batch, made_crystals
from sizes import small

from screening.crystals.batch import Crystals
from screening.crystals.crystal import Reason, Rejection
from screening.crystals.read import ReadBatch
from screening.errors import InputError
from screening.graphs import pack_graphs
from screening.inference import predict, predict_graphs, usable_device
from screening.models.graph_tensors import GraphTensors
from screening.models.model import CrystalModel
from screening.models.registry import ARCHITECTURES, build
from screening.predictions import Predictions, Target

TARGETS = (Target("band_gap", "eV"), Target("is_metal", "1", "classification"))


@pytest.fixture(scope="module")
def model() -> CrystalModel:
    torch.manual_seed(0)
    return build("cgcnn", {"width": 16, "convolutions": 2, "hidden": 16}, TARGETS)


def joined(parts: list[Predictions]) -> tuple[list[str], np.ndarray]:
    ids = [name for part in parts for name in part.ids]
    return ids, np.concatenate([np.stack([part.values[t.name] for t in TARGETS], axis=1) for part in parts])


def test_every_crystal_is_predicted_in_order(model: CrystalModel) -> None:
    crystals = Crystals.of(made_crystals(40, seed=1))
    whole = predict_graphs(model.eval(), pack_graphs(crystals, model.neighbors))
    parts = list(predict(model, [crystals[:7], crystals[7:7], crystals[7:]], max_edges=400, max_atoms=30))
    assert len(parts) > 5
    ids, values = joined(parts)
    assert ids == list(crystals.ids)
    np.testing.assert_allclose(values, joined([whole])[1], rtol=2e-6)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_neither_batches_nor_threads_change_a_bit(dtype: torch.dtype, architecture: str) -> None:
    torch.manual_seed(1)
    made = build(architecture, small(architecture, width=32, hidden=24, hidden_layers=2), TARGETS).to(dtype)
    crystals = made_batch(50, seed=3)
    _, whole = joined(list(predict(made, [crystals], max_edges=10**6, max_atoms=10**6, threads=1)))
    for budget, threads in ((1, 2), (40, 1), (130, 3)):
        _, parts = joined(list(predict(made, [crystals], max_edges=10**6, max_atoms=budget, threads=threads)))
        np.testing.assert_array_equal(parts, whole)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_an_embedding_is_the_mean_of_encoded_atoms(architecture: str) -> None:
    made = build(architecture, small(architecture, width=12), TARGETS).eval()
    crystals = made_batch(9, seed=4)
    parts = list(predict(made, [crystals], max_atoms=30, embeddings=True))
    found = np.concatenate([part.embedding for part in parts if part.embedding is not None])
    graph = GraphTensors.of(pack_graphs(crystals, made.neighbors), device="cpu", dtype=torch.float32)
    with torch.no_grad():
        atoms = made.encode(graph).numpy()
    right = [row.mean(axis=0) for row in np.split(atoms, crystals.atom_offsets[1:-1])]
    assert found.shape == (9, made.width)
    np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)
    assert next(predict(made, [crystals])).embedding is None


def test_a_failure_in_a_thread_is_raised_and_nothing_hangs(model: CrystalModel) -> None:
    crystals = made_batch(30, seed=3)
    broken = Crystals(
        ids=crystals.ids,
        numbers=crystals.numbers,
        positions=np.where(np.arange(len(crystals.positions))[:, None] == 99, np.nan, crystals.positions),
        lattice=crystals.lattice,
        pbc=crystals.pbc,
        atom_offsets=crystals.atom_offsets,
        labels=crystals.labels,
        sources=crystals.sources,
    )
    with pytest.raises(InputError, match="the position of atom"):
        list(predict(model, [broken] * 5, max_atoms=40, threads=2))


def test_predictions_are_float64_columns_that_own_their_memory(model: CrystalModel) -> None:
    (part,) = predict(model, [made_batch(3)], max_edges=10**6, max_atoms=10**6)
    assert len(part) == 3
    assert [(v.dtype, v.shape, v.base) for v in part.values.values()] == [(np.float64, (3,), None)] * 2


def test_a_model_in_training_is_set_to_evaluation(model: CrystalModel) -> None:
    before = {name: tensor.clone() for name, tensor in model.train().state_dict().items()}
    list(predict(model, [made_batch(5)], max_edges=200, max_atoms=200))
    assert not model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_an_empty_stream_gives_nothing(model: CrystalModel) -> None:
    assert list(predict(model, [], max_edges=10, max_atoms=10)) == []


def test_single_crystals_and_batches_give_the_same(model: CrystalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("screening.crystals.together.TOGETHER", 4)
    crystals = made_crystals(11, seed=4)
    batch = Crystals.of(crystals)
    ids, values = joined(list(predict(model, batch)))
    assert ids == list(batch.ids)
    for given in (crystals, iter(crystals), [*crystals[:5], batch[5:7], batch[7:9], *crystals[9:]]):
        found = joined(list(predict(model, given)))
        assert found[0] == ids
        assert np.array_equal(found[1], values)


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        ("all.h5", "screening.read_batches reads files"),
        (Path("all.h5"), "screening.read_batches reads files"),
        (made_crystals(1)[0], "one crystal goes in a list"),
        ([ReadBatch(made_batch(2))], "they are .crystals"),
        ([made_crystals(1)[0], Rejection("a", "a.cif", Reason.EMPTY, "no atoms")], "rejections are none"),
    ],
)
def test_what_is_no_crystal_is_refused_with_a_cure(model: CrystalModel, given: Any, cure: str) -> None:
    with pytest.raises(InputError, match=cure):
        list(predict(model, given))


def test_what_is_no_model_is_refused_with_a_cure() -> None:
    name: Any = "default"
    with pytest.raises(InputError, match=r"got 'default': screening\.load_model"):
        next(predict(name, []))


def test_graphs_of_other_edges_are_refused(model: CrystalModel) -> None:
    other = build("cgcnn", {"cutoff": 5.0, "width": 4}, TARGETS)
    with pytest.raises(InputError, match=r"trained on cutoff = 8\.0 and max_neighbors = "):
        predict_graphs(model, pack_graphs(made_batch(2), other.neighbors))


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "meta"], ids=["absent", "unknown", "unsupported"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="device"):
        usable_device(name)
