"""A specification to spaces: prototypes found, elements listed, tests prepared; what does not fit is named."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from screening.arrays import UInt8
from screening.crystals.elements import NUMBER_OF, SYMBOLS
from screening.enumerate.catalogue import prototype_named
from screening.enumerate.charges import Balance, States, balance
from screening.enumerate.chemistry import StateSet, electronegativities, oxidation_states
from screening.enumerate.from_file import prototype_in
from screening.enumerate.prototype import Prototype
from screening.enumerate.selection import require_groups, require_volume, selected
from screening.enumerate.space import Space
from screening.enumerate.spec import PrototypeSettings, Specification
from screening.enumerate.tolerance import tolerance_window
from screening.errors import InputError

_ION = re.compile(r"([A-Z][a-z]?)([+-][1-9])")

# Counting through more than this takes hours.
MOST_ASSIGNMENTS = 10**11


def spaces_of(specification: Specification) -> list[Space]:
    """Prepare every prototype of a specification, in its order."""
    require_groups(specification.groups)
    _radii(specification)
    spaces = []
    for settings in specification.prototype:
        prototype = _prototype(settings)
        label = settings.label or prototype.name
        try:
            spaces.append(_space(label, prototype, settings, specification))
        except InputError as error:
            raise InputError(f"prototype {label}: {error}") from error
    _require_distinct_labels(spaces)
    return spaces


def _prototype(settings: PrototypeSettings) -> Prototype:
    if settings.file is not None:
        return prototype_in(settings.file, settings.sites)
    assert settings.name is not None
    return prototype_named(settings.name, settings.parameters)


def _space(label: str, prototype: Prototype, settings: PrototypeSettings, specification: Specification) -> Space:
    elements = _elements(prototype, settings, specification)
    neutral = specification.charge_neutral if settings.charge_neutral is None else settings.charge_neutral
    repeat = settings.repeat_elements
    charges = _balance(prototype, elements, settings, specification) if neutral else None
    if charges is None and (settings.tolerance_factor or settings.states):
        raise InputError("tolerance_factor and states need oxidation states; set charge_neutral = true for it")
    window = None
    if settings.tolerance_factor is not None and charges is not None:
        window = tolerance_window(prototype, settings.tolerance_factor, charges, _radii(specification))
    space = Space(
        label=label,
        prototype=prototype,
        elements=elements,
        order=_order(settings.electronegativity, prototype, elements),
        balance=charges,
        window=window,
        repeat_elements=specification.repeat_elements if repeat is None else repeat,
    )
    if space.size > MOST_ASSIGNMENTS:
        raise InputError(
            f"{space.size:.0e} assignments are too many to count (limit {MOST_ASSIGNMENTS:.0e}); list fewer elements"
        )
    return space


def _elements(prototype: Prototype, settings: PrototypeSettings, specification: Specification) -> tuple[UInt8, ...]:
    """The elements of each site; those of a file that are not named keep theirs."""
    _require_sites(prototype, settings.sites, "sites")
    excluded = set(selected(specification.exclude, specification.groups, place="exclude"))
    listed = []
    for s, site in enumerate(prototype.sites):
        names = settings.sites.get(site)
        if names is None and settings.file is None:
            raise InputError(
                f"site {site} has no elements (its sites are {prototype.pattern}); add sites.{site} = [...]"
            )
        if names is None:
            require_volume(prototype.original[s], place=f"site {site}")
            listed.append(np.array([prototype.original[s]], np.uint8))
            continue
        chosen = [z for z in selected(names, specification.groups, place=f"sites.{site}") if z not in excluded]
        if not chosen:
            raise InputError(f"no element is left for site {site} after what is taken out; list others")
        listed.append(np.array(chosen, np.uint8))
    return tuple(listed)


def _balance(
    prototype: Prototype, elements: Sequence[UInt8], settings: PrototypeSettings, specification: Specification
) -> Balance:
    _require_sites(prototype, settings.states, "states")
    unknown = [symbol for symbol in specification.states if symbol not in NUMBER_OF]
    if unknown:
        raise InputError(f"states: {unknown[0]!r} is no element; write such as states.Fe = [2, 3] above the prototypes")
    own = {NUMBER_OF[symbol]: states for symbol, states in specification.states.items()}
    every = dict(oxidation_states(specification.oxidation_states)) | own
    usual = dict(oxidation_states(StateSet.COMMON)) | own

    def by_site(table: Mapping[int, Sequence[int]]) -> States:
        given = settings.states
        return [
            {z: given.get(site, table.get(z, ())) for z in held.tolist()}
            for site, held in zip(prototype.sites, elements, strict=True)
        ]

    return balance(prototype.units, by_site(every), by_site(usual))


def _radii(specification: Specification) -> dict[tuple[int, int], float]:
    """The radii that a specification gives, by element and charge."""
    found = {}
    for ion, radius in specification.radii.items():
        match = _ION.fullmatch(ion)
        if match is None or match[1] not in NUMBER_OF:
            raise InputError(f'radii: {ion!r} is no ion; write an element and its charge, such as "Sn+2" = 1.1')
        found[NUMBER_OF[match[1]], int(match[2])] = radius
    return found


def _order(text: str | None, prototype: Prototype, elements: Sequence[UInt8]) -> tuple[tuple[int, int], ...]:
    """Read an order such as `A B < X` as pairs of sites, the less electronegative first."""
    if text is None:
        return ()
    parts = [part.split() for part in text.split("<")]
    if len(parts) < 2 or not all(parts):
        raise InputError(f"electronegativity = {text!r}: expected sites with < between them, such as A B < X")
    _require_sites(prototype, [site for part in parts for site in part], "electronegativity")
    places = [[prototype.sites.index(site) for site in part] for part in parts]
    chi = electronegativities()
    named = {s for part in places for s in part}
    lacking = [z for s in named for z in elements[s].tolist() if np.isnan(chi[z])]
    if lacking:
        raise InputError(f"electronegativity = {text!r}: none is known for {SYMBOLS[lacking[0]]}; leave it out")
    return tuple((s, t) for k, low in enumerate(places) for high in places[k + 1 :] for s in low for t in high)


def _require_sites(prototype: Prototype, named: Sequence[str] | Mapping[str, object], key: str) -> None:
    unknown = [site for site in named if site not in prototype.sites]
    if unknown:
        raise InputError(f"{key}: there is no site {unknown[0]!r}; its sites are {prototype.pattern}")


def _require_distinct_labels(spaces: Sequence[Space]) -> None:
    """Ids are a label and an assignment: what shares a label must be one geometry, whose repetitions are dropped."""
    first: dict[str, Prototype] = {}
    for space in spaces:
        ours, theirs = space.prototype, first.setdefault(space.label, space.prototype)
        arrays = ("site_of", "lattice", "fractional")
        same = ours.sites == theirs.sites and all(np.array_equal(getattr(ours, a), getattr(theirs, a)) for a in arrays)
        if not same:
            raise InputError(f"two prototypes are called {space.label} but differ; give one of them a label of its own")
