"""Which assignments are the same crystal: within a prototype by its symmetry, and across prototypes that coincide.

Nothing is remembered. Congruences of the geometries say what other assignments are the same crystal as a given one;
it is dropped when one of these stands in an earlier space, or earlier in its own, and is accepted there. So memory does
not grow with the number of crystals, and which of two equal crystals stays does not depend on blocks.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from screening.arrays import Bool, UInt8
from screening.enumerate.congruence import Geometry, geometry_of, mappings
from screening.enumerate.space import Space
from screening.errors import InputError

# Patterns of repeated elements of one prototype; each costs some milliseconds.
MOST_PATTERNS = 300

# Which sites hold the same element: each site's number is the first site with that element.
Pattern = tuple[int, ...]


@dataclass(frozen=True)
class Image:
    """Where the same crystal is.

    An assignment of `pattern` is also the one of space `other` whose site k has the element of our site `sources[k]`.
    """

    pattern: Pattern
    other: int
    sources: tuple[int, ...]


class Duplicates:
    """The images among some spaces, in the order in which the spaces are enumerated."""

    def __init__(self, spaces: Sequence[Space]) -> None:
        self._spaces = spaces
        self._images = _images(spaces)

    def firsts(self, index: int, elements: UInt8) -> Bool:
        """Which of these accepted assignments of a space are the first of their crystal."""
        first = np.ones(len(elements), np.bool_)
        own = {image.pattern: _of_pattern(elements, image.pattern) for image in self._images[index]}
        for image in self._images[index]:
            rows = np.flatnonzero(first & own[image.pattern])
            theirs = elements[rows][:, list(image.sources)]
            earlier = _earlier(theirs, elements[rows]) if image.other == index else np.ones(len(rows), np.bool_)
            earlier[earlier] = self._spaces[image.other].accepts(theirs[earlier])
            first[rows[earlier]] = False
        return first


def patterns(space: Space) -> Iterator[Pattern]:
    """Yield the ways in which elements can be repeated on the sites of a space."""
    sets = [frozenset(site.tolist()) for site in space.elements]

    def extend(pattern: Pattern, left: dict[int, frozenset[int]]) -> Iterator[Pattern]:
        s = len(pattern)
        if s == len(sets):
            yield pattern
            return
        if space.repeat_elements:
            for first, shared in left.items():
                if shared & sets[s]:
                    yield from extend((*pattern, first), left | {first: shared & sets[s]})
        yield from extend((*pattern, s), left | {s: sets[s]})

    return extend((), {})


def _images(spaces: Sequence[Space]) -> list[list[Image]]:
    """The images of each space in itself and the ones before it."""
    groups: dict[tuple[int, ...], list[tuple[int, Pattern]]] = defaultdict(list)
    for j, space in enumerate(spaces):
        for count, pattern in enumerate(patterns(space)):
            if count == MOST_PATTERNS:
                raise InputError(
                    f"{space.label}: there are more than {MOST_PATTERNS} ways in which elements can be repeated on its "
                    "sites; give the sites lists without common elements, or set repeat_elements = false"
                )
            groups[_composition(space, pattern)].append((j, pattern))
    images: list[list[Image]] = [[] for _ in spaces]
    for composition, members in groups.items():
        # Alone, and no two elements equally frequent: nothing to be confused with.
        if len(members) == 1 and len(set(composition)) == len(composition):
            continue
        found = [(j, pattern, _geometry(spaces[j], pattern)) for j, pattern in members]
        for place, (j, pattern, ours) in enumerate(found):
            for i, other, theirs in found:
                if i <= j:
                    images[j] += _between(pattern, ours, i, other, theirs, same=found[place] == (i, other, theirs))
    return images


def _between(
    pattern: Pattern, ours: Geometry, i: int, other: Pattern, theirs: Geometry, *, same: bool
) -> Iterator[Image]:
    colours, their_colours = _colours(pattern), _colours(other)
    for mapping in mappings(ours, theirs):
        if same and mapping == tuple(range(len(mapping))):
            continue
        of_theirs = {colour: c for c, colour in enumerate(mapping)}
        yield Image(pattern, i, tuple(colours.index(of_theirs[colour]) for colour in their_colours))


def _composition(space: Space, pattern: Pattern) -> tuple[int, ...]:
    """Atoms of each element in the smallest formula unit, sorted."""
    counts = np.bincount(pattern, space.prototype.counts, minlength=len(pattern)).astype(int)
    held = sorted(counts[counts > 0].tolist())
    return tuple(count // math.gcd(*held) for count in held)


def _geometry(space: Space, pattern: Pattern) -> Geometry:
    prototype = space.prototype
    return geometry_of(prototype.lattice, prototype.fractional, np.array(_colours(pattern))[prototype.site_of])


def _colours(pattern: Pattern) -> list[int]:
    """The colour of each site, 0, 1, ... in the order of the sites."""
    numbered = {first: c for c, first in enumerate(dict.fromkeys(pattern))}
    return [numbered[first] for first in pattern]


def _of_pattern(elements: UInt8, pattern: Pattern) -> Bool:
    """Which assignments repeat elements in just this way."""
    fits = np.ones(len(elements), np.bool_)
    for s, first in enumerate(pattern):
        for t in range(s):
            equal = elements[:, s] == elements[:, t]
            fits &= equal if pattern[t] == first else ~equal
    return fits


def _earlier(theirs: UInt8, ours: UInt8) -> Bool:
    """Whether a row of theirs comes before ours, by atomic numbers from the first site on."""
    differ = theirs != ours
    site = differ.argmax(axis=1)
    rows = np.arange(len(ours))
    return np.asarray(differ.any(axis=1) & (theirs[rows, site] < ours[rows, site]))
