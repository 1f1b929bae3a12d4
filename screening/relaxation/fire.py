"""FIRE for many crystals at once: each has its own time step, and none knows of the others.

Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006), with the constants of ASE. A crystal moves in the coordinates of
ASE's cell filter: with rows as vectors its cell is lattice = L0 D and its atoms are at r = s D, where L0 is the cell it
came with. What moves is s, and q = n D for n atoms; so that with the virial W = volume * stress

    force on s = F D^T          force on q = -D^-T W / n
"""

from dataclasses import dataclass, fields

import numpy as np

from screening.arrays import Bool, Float64, Int32, Int64
from screening.crystals.batch import Crystals
from screening.crystals.volume import volumes_of
from screening.relaxation.potential import Surface

START, LARGEST = 0.1, 1.0
"""Time steps, in angstrom sqrt(u / eV) for atoms of one mass."""
LONGER, SHORTER, PATIENCE = 1.1, 0.5, 5
MIXING, CALMER = 0.1, 0.99
FARTHEST = 0.2
"""No atom moves farther in one step, angstrom."""


@dataclass(slots=True, eq=False)
class Motion:
    """What FIRE keeps of each crystal; arrays with a row an atom, then arrays with a row a crystal."""

    reference: Float64  # s
    velocity: Float64
    cell: Float64  # L0
    deformation: Float64  # D
    flow: Float64  # velocity of q
    step: Float64
    mixing: Float64
    downhill: Int64

    @classmethod
    def of(cls, crystals: Crystals) -> "Motion":
        """Start from rest."""
        n = len(crystals)
        return cls(
            reference=crystals.positions.copy(),
            velocity=np.zeros_like(crystals.positions),
            cell=crystals.lattice.copy(),
            deformation=np.tile(np.eye(3), (n, 1, 1)),
            flow=np.zeros((n, 3, 3)),
            step=np.full(n, START),
            mixing=np.full(n, MIXING),
            downhill=np.zeros(n, np.int64),
        )

    def kept(self, crystals: Crystals, keep: Bool) -> "Motion":
        """What is left when only some of these crystals stay."""
        atoms = np.repeat(keep, crystals.atom_counts)
        columns = (getattr(self, field.name) for field in fields(self))
        return Motion(*(column[atoms if k < 2 else keep] for k, column in enumerate(columns)))

    def joined(self, other: "Motion") -> "Motion":
        """These crystals and then others."""
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return Motion(*(np.concatenate(pair) for pair in pairs))

    @property
    def volume_ratio(self) -> Float64:
        """How much larger each cell is than the one it came with."""
        found: Float64 = np.linalg.det(self.deformation)
        return found


def moved(crystals: Crystals, motion: Motion, surface: Surface, *, moving_cells: Bool) -> Crystals:
    """Take a step: change `motion` in place, and give where the crystals are then."""
    force, pull = _generalised(crystals, motion, surface, moving_cells)
    counts, offsets = crystals.atom_counts, crystals.atom_offsets
    power = _sums(force * motion.velocity, offsets) + (pull * motion.flow).sum(axis=(1, 2))
    strength = np.sqrt(_sums(force * force, offsets) + (pull * pull).sum(axis=(1, 2)))
    speed = np.sqrt(_sums(motion.velocity**2, offsets) + (motion.flow**2).sum(axis=(1, 2)))
    ahead = power > 0
    steering = motion.mixing * speed / np.maximum(strength, 1e-300)
    keep, add = np.where(ahead, 1 - motion.mixing, 0.0), np.where(ahead, steering, 0.0)
    sure = ahead & (motion.downhill > PATIENCE)
    motion.mixing = np.where(ahead, np.where(sure, motion.mixing * CALMER, motion.mixing), MIXING)
    motion.step = np.where(sure, np.minimum(motion.step * LONGER, LARGEST), motion.step)
    # At rest there is no power: only a crystal that was moving went uphill.
    motion.step = np.where(~ahead & (speed > 0), motion.step * SHORTER, motion.step)
    motion.downhill = np.where(ahead, motion.downhill + 1, 0)
    each = np.repeat(np.stack([keep, add, motion.step], axis=1), counts, axis=0)
    motion.velocity = motion.velocity * each[:, :1] + force * (each[:, 1:2] + each[:, 2:])
    motion.flow = motion.flow * keep[:, None, None] + pull * (add + motion.step)[:, None, None]
    _move(motion, offsets, counts)
    lattice = _product(motion.cell, motion.deformation)
    positions = _rows(motion.reference, np.repeat(motion.deformation, counts, axis=0))
    return crystals.moved(np.where(moving_cells[:, None, None], lattice, crystals.lattice), positions)


def _generalised(crystals: Crystals, motion: Motion, surface: Surface, moving_cells: Bool) -> tuple[Float64, Float64]:
    """The forces on s (atoms, 3), and on q (crystals, 3, 3), zero where the cell stays."""
    turned = motion.deformation.transpose(0, 2, 1)
    force = _rows(surface.forces, np.repeat(turned, crystals.atom_counts, axis=0))
    virial = volumes_of(crystals.lattice, crystals.pbc)[:, None, None] * surface.stress
    inverse = np.linalg.inv(turned).astype(np.float64, copy=False)
    pull = -_product(inverse, virial) / crystals.atom_counts[:, None, None]
    return force, np.where(moving_cells[:, None, None], pull, 0.0)


def _move(motion: Motion, offsets: Int32, counts: Int32) -> None:
    """Go along the velocity, no row of s or q farther than `FARTHEST`."""
    farthest = np.maximum(
        np.maximum.reduceat(_lengths(motion.velocity), offsets[:-1]), _lengths(motion.flow).max(axis=1)
    )
    reach = np.minimum(motion.step, FARTHEST / np.maximum(farthest, 1e-300))
    motion.reference = motion.reference + np.repeat(reach, counts)[:, None] * motion.velocity
    motion.deformation = motion.deformation + (reach / counts)[:, None, None] * motion.flow


# Products term by term, so that a crystal has the same bits in every batch.
def _rows(rows: Float64, matrices: Float64) -> Float64:
    found: Float64 = rows[:, :1] * matrices[:, 0] + rows[:, 1:2] * matrices[:, 1] + rows[:, 2:] * matrices[:, 2]
    return found


def _product(left: Float64, right: Float64) -> Float64:
    return np.stack([_rows(left[:, k], right) for k in range(3)], axis=1)


def _lengths(rows: Float64) -> Float64:
    found: Float64 = np.sqrt(rows[..., 0] ** 2 + rows[..., 1] ** 2 + rows[..., 2] ** 2)
    return found


def _sums(rows: Float64, offsets: Int32) -> Float64:
    found: Float64 = np.add.reduceat(rows[:, 0] + rows[:, 1] + rows[:, 2], offsets[:-1])
    return found
