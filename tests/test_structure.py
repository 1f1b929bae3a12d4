"""Learning from structure: what is drawn belongs to crystals, each aspect is what its equation says, ranks are one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranked
import structured
import torch
from hypothesis import given
from hypothesis import strategies as st
from made import PERIODIC_KINDS, made_crystals

from screening.crystals.batch import Crystals
from screening.errors import InputError, ScreeningError
from screening.graphs import Neighbors
from screening.models.element_features import published_features
from screening.models.graph_tensors import GraphTensors
from screening.training.assess import Assessment
from screening.training.config import LoopSettings
from screening.training.labelled import LabelledGraphs
from screening.training.metrics import UPWARDS
from screening.training.objectives.aspects import SYSTEM_ENDS, class_weights, systems_of
from screening.training.objectives.draws import uniform
from screening.training.objectives.objective import Batch, Part
from screening.training.objectives.pairs import CLASSES, edges_between, sampled_pairs
from screening.training.objectives.properties import SELECTABLE
from screening.training.objectives.structure import MEASURING, Structure
from screening.training.pretraining_config import ObjectivesSettings
from screening.training.ranks import ALONE

MODEL = structured.encoder()
TASK = structured.structure_task(MODEL)
SETTINGS = LoopSettings(batch_size=4)
EVERYTHING = ObjectivesSettings()


def batch(rows: list[int] | np.ndarray, epoch: int = 0, seed: int = 0) -> Batch:
    return Batch(np.asarray(rows), np.arange(len(rows)), epoch, seed, "cpu")


# --- draws -----------------------------------------------------------------------------------------------------------


@given(
    rows=st.lists(st.integers(0, 10**9), min_size=1, max_size=20, unique=True),
    data=st.data(),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 1 << 41),
)
def test_numbers_belong_to_atoms(rows: list[int], data: st.DataObject, seed: int, epoch: int) -> None:
    counts = np.array([1 + row % 7 for row in rows])
    whole = uniform(np.array(rows), counts, seed=seed, epoch=epoch, stream=3)
    assert whole.shape == (counts.sum(),)
    assert ((whole >= 0.0) & (whole < 1.0)).all()
    parts = dict(zip(rows, np.split(whole, np.cumsum(counts)[:-1]), strict=True))
    some = data.draw(st.permutations(rows))[: len(rows) // 2 + 1]
    alone = uniform(np.array(some), np.array([1 + row % 7 for row in some]), seed=seed, epoch=epoch, stream=3)
    np.testing.assert_array_equal(alone, np.concatenate([parts[row] for row in some]))


def test_numbers_are_even_and_differ_by_all_they_belong_to() -> None:
    rows, counts = np.arange(2000), np.full(2000, 50)
    found = {key: uniform(rows, counts, seed=key[0], epoch=key[1], stream=key[2]) for key in np.ndindex(2, 2, 2)}
    for draw in found.values():
        shares = np.histogram(draw, 20, (0.0, 1.0))[0] / len(draw)
        # Five deviations of a share of a twentieth of 100,000.
        assert np.abs(shares - 0.05).max() < 5 * np.sqrt(0.05 * 0.95 / len(draw))
    correlations = np.corrcoef(np.stack([*found.values(), np.roll(found[0, 0, 0], 1), np.roll(found[0, 0, 0], 50)]))
    assert np.abs(correlations - np.eye(len(correlations))).max() < 5 / np.sqrt(100_000)


# --- pairs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("neighbors", [Neighbors(5.0, 12, exact=True), Neighbors(3.0), Neighbors(0.5)])
def test_edges_of_pairs_are_those_of_the_whole_matrix(neighbors: Neighbors) -> None:
    crystals = Crystals.of(made_crystals(12, kinds=PERIODIC_KINDS, max_atoms=7))
    graphs = LabelledGraphs.of([crystals], (structured.LABEL,), neighbors)
    graph, _ = graphs.take(np.arange(12))
    atoms = len(graph.numbers)
    matrix = torch.zeros(atoms, atoms, dtype=torch.int64)
    offsets = graph.edge_graph.edge_offsets.tolist()
    for centre in range(atoms):
        for edge in range(offsets[centre], offsets[centre + 1]):
            matrix[centre, int(graph.edge_graph.edge_source[edge])] += 1
    every = torch.cartesian_prod(torch.arange(atoms), torch.arange(atoms))
    assert edges_between(graph, every[:, 0], every[:, 1]).view(atoms, atoms).tolist() == matrix.tolist()

    rng = torch.Generator().manual_seed(0)
    draws = [torch.rand(atoms, generator=rng, dtype=torch.float64) for _ in range(4)]
    found = sampled_pairs(graph, draws[:2], draws[2:])
    centre, other = found["centre"], found["other"]
    assert found["edges"].tolist() == matrix[centre, other].clamp(max=CLASSES - 1).tolist()
    # Within a crystal, always; bonded where it can be.
    assert (graph.crystal_of_atom[centre] == graph.crystal_of_atom[other]).all()
    has_edges = matrix.sum(1)[centre[: 2 * atoms]] > 0
    assert ((found["edges"][: 2 * atoms] > 0) >= has_edges).all()


def test_every_atom_of_a_crystal_is_drawn() -> None:
    crystals = Crystals.of(made_crystals(4, kinds=("cell",), max_atoms=5))
    graph, _ = LabelledGraphs.of([crystals], (structured.LABEL,), Neighbors(5.0)).take(np.arange(4))
    draws = [torch.full((len(graph.numbers),), k / 60, dtype=torch.float64) for k in range(60)]
    found = sampled_pairs(graph, [], draws)
    seen = set(zip(found["centre"].tolist(), found["other"].tolist(), strict=True))
    same = graph.crystal_of_atom[:, None] == graph.crystal_of_atom[None, :]
    assert seen == set(map(tuple, torch.nonzero(same).tolist()))


def test_rare_classes_weigh_more_and_pairs_one_on_average() -> None:
    rows = TASK.split.train
    flat = class_weights(TASK.graphs, rows, pairs=1, balance=0.0)
    assert flat.tolist() == pytest.approx([1.0] * CLASSES)
    edges = torch.cat([structured_pairs([row]) for row in rows.tolist()])
    often = torch.bincount(edges, minlength=CLASSES) / len(edges)
    for balance in (0.5, 1.0):
        weights = class_weights(TASK.graphs, rows, pairs=1, balance=balance)
        assert float((weights * often).sum()) == pytest.approx(1.0, rel=1e-6)
        order = often.argsort()
        assert (weights[order].diff() <= 1e-12).all()
    seen = often > 0
    equal = (class_weights(TASK.graphs, rows, pairs=1, balance=1.0) * often)[seen]
    assert equal.tolist() == pytest.approx([float(equal[0])] * len(equal))


def structured_pairs(rows: list[int]) -> torch.Tensor:
    objective = structured.structure_task(MODEL, connectivity={"pairs": 1}).objective
    return objective.gather(batch(rows)).given["edges"]


# --- aspects ---------------------------------------------------------------------------------------------------------


def described(part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    atoms = torch.nn.functional.normalize(MODEL.encode(part.graph), dim=1)
    means = torch.stack([atoms[part.graph.crystal_of_atom == c].mean(0) for c in range(part.graph.crystals)])
    return atoms, means


def one(aspect: str, **settings: Any) -> Structure:
    weights = {name: {"weight": 0.0} for name in ("nodes", "connectivity", "space_group", "contrast")}
    objective = structured.structure_task(MODEL, **{**weights, aspect: {"weight": 1.0, **settings}}).objective
    assert isinstance(objective, Structure)
    return objective


def test_masked_atoms_are_no_element_and_their_features_are_asked() -> None:
    objective = one("nodes", masked=0.3)
    part = objective.gather(batch(np.arange(20)))
    right, asked = part.given["numbers"], part.given["asked"]
    assert 0.15 < asked.float().mean() < 0.45
    assert part.graph.numbers[asked].eq(0).all()
    assert torch.equal(part.graph.numbers[~asked], right[~asked])
    with torch.no_grad():
        atoms, _ = described(part)
        logits = objective.modules["nodes"](atoms[asked])
        wanted = published_features()[right[asked]]
        each = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1)
        found = objective.sums(MODEL, part)
    assert found.counts.tolist() == [int(asked.sum())]
    assert float(found.sums) == pytest.approx(float(each.sum()), rel=1e-5)


def test_without_a_mask_all_atoms_are_seen_and_asked() -> None:
    part = one("nodes", masked=0.0).gather(batch(np.arange(9)))
    assert part.given["asked"].all()
    assert torch.equal(part.graph.numbers, part.given["numbers"])


def test_connectivity_is_a_weighted_cross_entropy_of_pairs() -> None:
    objective = one("connectivity", balance=1.0)
    part = objective.gather(batch(np.arange(9)))
    decoder = objective.modules["connectivity"]
    with torch.no_grad():
        atoms, _ = described(part)
        a, b, right = atoms[part.given["centre"]], atoms[part.given["other"]], part.given["edges"]
        forms = torch.nn.functional.bilinear(a, b, decoder.form, decoder.bias)
        logs = torch.log_softmax(decoder.mix(forms), dim=1)
        wanted = -(decoder.weights[right] * logs[torch.arange(len(right)), right]).sum()
        found = objective.sums(MODEL, part)
    assert float(found.sums) == pytest.approx(float(wanted), rel=1e-5)
    assert found.counts.tolist() == [2 * len(atoms)]


def test_a_crystal_without_a_group_takes_no_part() -> None:
    objective = one("space_group")
    part = objective.gather(batch(np.arange(20)))
    groups = structured.GROUPS[np.arange(20) % 10]
    with torch.no_grad():
        _, means = described(part)
        logs = torch.log_softmax(objective.modules["space_group"](means), dim=1)
        wanted = -sum(float(logs[c, group - 1]) for c, group in enumerate(groups.tolist()) if group)
        found = objective.sums(MODEL, part)
    assert found.counts.tolist() == [18]
    assert float(found.sums) == pytest.approx(wanted, rel=1e-5)


def test_contrast_is_nt_xent_over_pairs_of_a_system() -> None:
    objective = one("contrast", temperature=0.3)
    part = objective.gather(batch(np.arange(20)))
    systems = systems_of(structured.GROUPS[np.arange(20) % 10]).tolist()
    with torch.no_grad():
        _, means = described(part)
        unit = torch.nn.functional.normalize(means, dim=1).double()
        alike = torch.exp(unit @ unit.T / 0.3).tolist()
        found = objective.sums(MODEL, part)
    losses = []
    for i, mine in enumerate(systems):
        others = [k for k, theirs in enumerate(systems) if theirs not in (mine, -1)]
        for j, theirs in enumerate(systems):
            if i != j and mine == theirs != -1:
                losses.append(-np.log(alike[i][j] / (alike[i][j] + sum(alike[i][k] for k in others))))
    assert found.counts.tolist() == [len(losses)]
    assert float(found.sums) == pytest.approx(sum(losses), rel=1e-4)


def test_contrast_without_others_of_another_system_is_nothing() -> None:
    objective = one("contrast")
    # Rows 0, 1 and 9 are cubic.
    part = objective.gather(batch([0, 1, 9]))
    found = objective.sums(MODEL, part)
    assert (float(found.sums.detach()), found.counts.tolist()) == (0.0, [0])
    found.sums.sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in MODEL.parameters())
    MODEL.zero_grad()


def test_systems_are_those_of_the_tables() -> None:
    first = [1, 3, 16, 75, 143, 168, 195]
    assert systems_of(np.array(first)).tolist() == list(range(7))
    assert systems_of(np.array(SYSTEM_ENDS)).tolist() == list(range(7))
    assert systems_of(np.array([0])).tolist() == [-1]


# --- the objective ---------------------------------------------------------------------------------------------------


def test_weights_of_zero_leave_aspects_out() -> None:
    objective = one("space_group")
    assert list(objective.weights) == ["space_group"]
    assert list(objective.modules) == ["space_group"]


def test_what_is_drawn_depends_on_seed_epoch_and_row_alone() -> None:
    objective = TASK.objective
    whole, again = objective.gather(batch([4, 9, 2])), objective.gather(batch([2, 4]))
    first = whole.graph.edge_graph.atom_offsets
    rows = {row: slice(int(first[k]), int(first[k + 1])) for k, row in enumerate([4, 9, 2])}
    asked = torch.cat([whole.given["asked"][rows[row]] for row in (2, 4)])
    assert torch.equal(again.given["asked"], asked)
    later, other = objective.gather(batch(np.arange(30), epoch=1)), objective.gather(batch(np.arange(30), seed=1))
    now = objective.gather(batch(np.arange(30)))
    assert not torch.equal(now.given["asked"], later.given["asked"])
    assert not torch.equal(now.given["asked"], other.given["asked"])


def test_ranks_give_the_gradient_of_one_process(tmp_path: Path) -> None:
    found = ranked.of_ranks(3, tmp_path, structured.structured)
    together, alone = found[0]
    for ours, right in zip(together, alone, strict=True):
        for key in ("loss", "gradient"):
            off = np.linalg.norm(ours[key] - right[key]) / np.linalg.norm(right[key])
            assert off < 1e-5, key
    for other in found[1:]:
        for ours, theirs in zip(together, other[0], strict=True):
            assert np.array_equal(ours["gradient"], theirs["gradient"])


def test_measuring_is_repeatable_and_knows_its_metrics() -> None:
    model, task = structured.encoder(), structured.structure_task(MODEL)
    found = task.objective.assess(model, task.split.validation, SETTINGS, ALONE)
    assert found == task.objective.assess(model, task.split.validation, SETTINGS, ALONE)
    assert set(found.metrics) == set(found.losses) == {"nodes", "connectivity", "space_group", "contrast"}
    for name, metrics in task.objective.selectable.items():
        assert set(metrics) <= set(found.metrics[name])
    assert found.loss == pytest.approx(np.mean(list(found.losses.values())))
    assert set(found.as_json()) == {"loss", "losses", "objectives"}


def test_the_best_epoch_has_the_most_of_what_is_right() -> None:
    errors = {"mae", "rmse"}
    chosen = {metric for own in TASK.objective.selectable.values() for metric in own}
    chosen |= {metric for own in SELECTABLE.values() for metric in own}
    assert chosen - errors == UPWARDS
    found = Assessment(1.0, {}, {"connectivity": {"recall": 0.7}}, "objectives")
    assert found.score("connectivity.recall") == -0.7


def test_contrast_is_measured_on_batches_of_all_systems() -> None:
    objective, model = one("contrast"), structured.encoder()
    # As in a file that was sorted: batches of four in this order are of a system each.
    systems = systems_of(structured.GROUPS[np.arange(40) % 10])
    rows = np.concatenate([np.flatnonzero(systems == system)[:4] for system in (0, 1, 2, 3, 4, 5, 6)])
    found = objective.assess(model, rows, SETTINGS, ALONE)
    assert found.losses["contrast"] > 0.0
    assert found.metrics["contrast"]["accuracy"] < 1.0


def test_a_nearest_crystal_is_counted_where_another_system_is_there() -> None:
    objective, model = one("contrast"), structured.encoder()
    for rows, counted in (([0, 1, 9], 0), ([0, 1, 9, 2], 3), ([0, 2, 3], 0)):
        part = objective.gather(batch(rows))
        with torch.no_grad():
            (measured,) = objective._measured(model, part)
        assert measured.tally.tolist()[1] == counted


def test_crystals_that_cannot_be_encoded_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = structured.encoder(), structured.structure_task(MODEL)
    encode = model.encode

    def broken(graph: GraphTensors) -> torch.Tensor:
        # The last of the first batch, which alone has four crystals.
        wrong = (graph.crystal_of_atom == 3)[:, None]
        return encode(graph).masked_fill(wrong, torch.nan)

    monkeypatch.setattr(model, "encode", broken)
    last = np.random.default_rng(MEASURING).permutation(task.split.validation)[3]
    with pytest.raises(ScreeningError, match=rf"not finite in made-0000{last}; check these"):
        task.objective.assess(model, task.split.validation, SETTINGS, ALONE)


def test_groups_must_be_there_when_they_are_asked_for() -> None:
    none = np.zeros(40, np.int64)
    with pytest.raises(InputError, match="no training crystal has a space group; make the files with `screening pack"):
        Structure(TASK.graphs, none, TASK.split.train, EVERYTHING, 8)
