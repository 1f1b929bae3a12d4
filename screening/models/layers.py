"""The parts that models are made of: normalisation, gated convolution over edges, pooling, one head per target."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from screening.models import across
from screening.models.radial import RadialTerms
from screening.ops import message, steady, steady_normal
from screening.ops.message_graph import EdgeGraph
from screening.predictions import Target


class Moments(nn.Module):
    """Batch normalisation as an affine map of columns, for rows that need not exist as a tensor.

    In training the moments are the batch's, and running ones follow them; in evaluation they are the running ones. A
    batch of fewer than two rows has no spread, so it uses the running moments in training too, and does not move them.
    The moments of a batch that several ranks share are those of the whole.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, columns: int, *, epsilon: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.epsilon, self.momentum = epsilon, momentum
        self.weight = nn.Parameter(torch.ones(columns))
        self.bias = nn.Parameter(torch.zeros(columns))
        self.register_buffer("running_mean", torch.zeros(columns))
        self.register_buffer("running_var", torch.ones(columns))

    def uses_batch(self, count: int) -> bool:
        """Tell whether the moments of a batch, of which so many rows are here, are wanted."""
        return self.training and (count > 1 or across.is_shared())

    def running(self) -> tuple[Tensor, Tensor]:
        """Give the factor and the shift (columns,) each that normalise by the running moments."""
        return self._map(self.running_mean, self.running_var)

    def of_batch(self, mean: Tensor, variance: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Give the factor and the shift for a batch of `count` rows with this mean and biased variance."""
        if across.is_shared():
            return self._map(*self._pooled(mean, variance, count))
        self._follow(mean, variance, count)
        return self._map(mean, variance)

    def forward(self, rows: Tensor) -> Tensor:
        """Normalise the columns of rows."""
        batch = self.uses_batch(len(rows))
        if batch and across.is_shared():
            return self._normalised(rows)
        return nn.functional.batch_norm(
            rows, self.running_mean, self.running_var, self.weight, self.bias, batch, self.momentum, self.epsilon
        )

    def silu(self, rows: Tensor, onto: Tensor | None = None, *, counts: Tensor | None = None) -> Tensor:
        """SiLU of the normalised rows, added to `onto`; on the CPU in one pass over memory.

        With `counts` (rows,) each row stands for so many of a batch, whose moments are theirs.
        """
        batch = self.uses_batch(len(rows))
        if batch and counts is not None:
            return _onto(onto, steady.silu(self._weighed(rows, counts)))
        if rows.is_cuda or rows.dtype != self.weight.dtype or (batch and across.is_shared()):
            return _onto(onto, steady.silu(self(rows)))
        mean, variance = self.running_mean, self.running_var
        if batch:
            mean, variance = steady_normal.column_moments(rows)
            self._follow(mean, variance, len(rows))
        return steady_normal.normal_silu(
            rows, self.weight, self.bias, mean, variance, onto, epsilon=self.epsilon, of_batch=batch
        )

    def _weighed(self, rows: Tensor, counts: Tensor) -> Tensor:
        share = (counts / counts.sum())[:, None]
        mean = (share * rows).sum(0)
        variance = (share * (rows - mean).square()).sum(0)
        factor, shift = self.of_batch(mean, variance, round(float(counts.sum())))
        return rows * factor + shift

    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        with torch.no_grad():
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(variance.detach() * (count / (count - 1)), self.momentum)

    def _normalised(self, rows: Tensor) -> Tensor:
        wide = rows.to(self.weight.dtype)
        own = wide.sum(0) / max(len(rows), 1)
        mean, variance = self._pooled(own, (wide - own).square().sum(0) / max(len(rows), 1), len(rows))
        normal = (wide - mean) * torch.rsqrt(variance + self.epsilon)
        return (normal * self.weight + self.bias).to(rows.dtype)

    def _pooled(self, mean: Tensor, variance: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The moments of a shared batch, or the running ones where it has too few rows, decided without waiting."""
        mean, variance, rows = across.pooled_moments(mean, variance, count)
        enough = rows > 1
        mean = torch.where(enough, mean, self.running_mean)
        with torch.no_grad():
            unbiased = variance.detach() * (rows / (rows - 1).clamp(min=1)).to(variance.dtype)
            moved = torch.where(enough, unbiased, self.running_var)
            variance_before = self.running_var.clone()
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(moved, self.momentum)
        return mean, torch.where(enough, variance, variance_before)

    def _map(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        factor = self.weight * torch.rsqrt(variance + self.epsilon)
        return factor, self.bias - mean * factor


class GatedConv(nn.Module):
    """Messages sigmoid(gate) * softplus(core) summed over each atom's edges: arXiv:1710.10324, eq. 5.

    Gate and core are the two halves of [v_i, v_j, u_ij] W + b. The product is split by rows of W: one term per centre,
    one per source, one per distance, so that the only thing of an edge's size is its coefficients.
    """

    def __init__(self, width: int, radial_rows: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(2 * width + radial_rows)
        self.centre = nn.Parameter(_uniform(bound, 2 * width, width))
        self.source = nn.Parameter(_uniform(bound, 2 * width, width))
        self.table = nn.Parameter(_uniform(bound, radial_rows, 2 * width))
        self.bias = nn.Parameter(_uniform(bound, 2 * width))

    def forward(self, atoms: Tensor, radial: RadialTerms, graph: EdgeGraph) -> Tensor:
        """Sum the messages into each atom, with each factor that edges have: (atoms, factors, width)."""
        centre, source, table = self.terms(atoms, radial, graph)
        return message.edge_conv(centre, source, table, radial.weight, radial.first, radial.scale, graph)

    def terms(self, atoms: Tensor, radial: RadialTerms, graph: EdgeGraph) -> tuple[Tensor, Tensor, Tensor]:
        """Give the terms of centre, source and distance."""
        del radial, graph
        return _linear(atoms, self.centre, self.bias), _linear(atoms, self.source, None), self.table


class NormalisedGatedConv(GatedConv):
    """The same of BN([v_i, v_j, u_ij] W + b), normalised over all edges of a batch.

    Normalising is an affine map of the sum of the three terms, hence of each of them: it too is done per atom.
    """

    def __init__(self, width: int, radial_rows: int) -> None:
        super().__init__(width, radial_rows)
        self.moments = Moments(2 * width)

    def terms(self, atoms: Tensor, radial: RadialTerms, graph: EdgeGraph) -> tuple[Tensor, Tensor, Tensor]:
        edges = len(radial.first)
        if not self.moments.uses_batch(edges):
            factor, shift = self.moments.running()
            rows = factor[:, None]
            centre = _linear(atoms, rows * self.centre, factor * self.bias + shift)
            return centre, _linear(atoms, rows * self.source, None), self.table * factor
        centre, source, table = super().terms(atoms, radial, graph)
        mean, variance = message.edge_moments(centre, source, table, radial.weight, radial.first, graph)
        factor, shift = self.moments.of_batch(mean, variance, edges)
        return centre * factor + shift, source * factor, table * factor


def mean_of_atoms(atoms: Tensor, graph: EdgeGraph) -> Tensor:
    """Average the atoms of each crystal, (crystals, width); zero for a crystal without atoms."""
    counts = graph.atom_offsets.diff().clamp(min=1).to(atoms.dtype)
    mean: Tensor = message.segment_sum(atoms, graph.atom_offsets) / counts[:, None]
    return mean


def unit_rows(rows: Tensor) -> Tensor:
    """Divide each row by its length, which is taken as at least 1e-12; in float32 at least."""
    # Autocast would do the product in half precision: there squares overflow, and lengths are right to 3 digits.
    with torch.autocast(rows.device.type, enabled=False):
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
        # A product, so that the sum of a row has the same bits in every batch.
        squares = steady.linear(wide * wide, wide.new_ones(1, wide.shape[1]))
        return wide / torch.sqrt(squares.clamp(min=1e-24))


class Linear(nn.Linear):
    """torch's linear layer, in which a row's bits do not depend on how many rows there are (on the CPU)."""

    def reset_parameters(self) -> None:
        """Draw weights, if there are any: a model without targets ends in a layer without columns."""
        if self.out_features:
            super().reset_parameters()

    def forward(self, rows: Tensor) -> Tensor:
        return steady.linear(rows, self.weight, self.bias)


class SiLU(nn.Module):
    """x sigmoid(x)."""

    def forward(self, values: Tensor) -> Tensor:
        """Map each value."""
        return steady.silu(values)


class Heads(nn.Module):
    """One perceptron per target on the same description of a crystal, all of them computed side by side.

    softplus (unless `bare`), then `layers` hidden layers of width `hidden` with softplus, then one output; `dropout`
    per target acts on the first hidden layer.
    """

    dropout: Tensor

    def __init__(self, width: int, *, hidden: int, layers: int, dropout: Sequence[float], bare: bool = False) -> None:
        super().__init__()
        self.bare = bare
        targets = len(dropout)
        sizes = [width, *[hidden] * layers]
        self.hidden = nn.ModuleList(SideBySide(targets, before, after) for before, after in pairwise(sizes))
        self.output = SideBySide(targets, sizes[-1], 1)
        self.drops = max(dropout, default=0.0) > 0
        self.register_buffer("dropout", torch.tensor(dropout)[:, None, None], persistent=False)

    def forward(self, crystals: Tensor) -> Tensor:
        """Map descriptions (crystals, width) to outputs (crystals, targets)."""
        given = crystals if self.bare else steady.softplus(crystals)
        hidden = given.expand(len(self.dropout), -1, -1)
        for number, layer in enumerate(self.hidden):
            hidden = steady.softplus(layer(hidden))
            if number == 0 and self.drops and self.training:
                kept = across.uniform_like(hidden, dim=1) >= self.dropout
                hidden = hidden * kept / (1 - self.dropout)
        output: Tensor = self.output(hidden)
        return output.squeeze(2).T


def in_classifications(rate: float, targets: Sequence[Target]) -> list[float]:
    """Give the rate of dropout for each target's head: the published networks drop in classifications alone."""
    return [rate if target.kind == "classification" else 0.0 for target in targets]


class SideBySide(nn.Module):
    """A linear layer per target, (targets, rows, before) to (targets, rows, after)."""

    def __init__(self, targets: int, before: int, after: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(before)
        self.weight = nn.Parameter(_uniform(bound, targets, before, after))
        self.bias = nn.Parameter(_uniform(bound, targets, 1, after))

    def forward(self, rows: Tensor) -> Tensor:
        """Apply each target's layer to its rows."""
        each = zip(rows, self.weight, self.bias, strict=True)
        return torch.stack([steady.linear(row, weight.T, bias[0]) for row, weight, bias in each])


def _onto(onto: Tensor | None, rows: Tensor) -> Tensor:
    return rows if onto is None else onto + rows


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # Under autocast the product is in half precision; sums over edges are not.
    return steady.linear(rows, weight, bias).to(weight.dtype)


def _uniform(bound: float, *shape: int) -> Tensor:
    """Draw as torch.nn.Linear does, which CGCNN starts from."""
    return torch.empty(shape).uniform_(-bound, bound)
