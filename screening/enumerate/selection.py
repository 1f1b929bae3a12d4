"""Elements by symbol and by group, as specifications list them."""

import difflib
from collections.abc import Iterable, Mapping

from screening.crystals.elements import NUMBER_OF, SYMBOLS
from screening.enumerate.chemistry import GROUPS
from screening.enumerate.volumes import fitted_lengths
from screening.errors import InputError

Groups = Mapping[str, tuple[str, ...]]


def selected(names: Iterable[str], groups: Groups, *, place: str, within: tuple[str, ...] = ()) -> list[int]:
    """Atomic numbers of elements and groups in the order they are named, once each, without those after a `-`.

    `groups` are those of the specification; `place` is where the names stand, `within` the groups they stand in.
    """
    chosen: dict[int, None] = {}
    dropped: set[int] = set()
    for name in names:
        members = _members(name.removeprefix("-"), groups, place, within)
        if name.startswith("-"):
            dropped |= set(members)
        else:
            chosen |= dict.fromkeys(members)
    return [z for z in chosen if z not in dropped]


def require_volume(number: int, *, place: str) -> None:
    """Refuse an element that crystals of unknown size would come from."""
    if not fitted_lengths().known[number]:
        raise InputError(f"{place}: no volume is known for {SYMBOLS[number]}, too rare in crystals; leave it out")


def require_groups(groups: Groups) -> None:
    """Refuse groups whose names are taken or whose members are unknown."""
    for name, members in groups.items():
        if name in GROUPS or name in NUMBER_OF or name.startswith("-"):
            raise InputError(f"groups.{name}: is the name of a group or an element already; choose another")
        selected(members, groups, place=f"groups.{name}", within=(name,))


def _members(name: str, groups: Groups, place: str, within: tuple[str, ...]) -> list[int]:
    if name in NUMBER_OF:
        require_volume(NUMBER_OF[name], place=place)
        return [NUMBER_OF[name]]
    if name in GROUPS:
        return [NUMBER_OF[symbol] for symbol in GROUPS[name]]
    if name in within:
        raise InputError(f"groups.{name}: holds itself ({' > '.join((*within, name))}); name elements in it")
    if name in groups:
        return selected(groups[name], groups, place=f"groups.{name}", within=(*within, name))
    known = [*groups, *GROUPS]
    near = difflib.get_close_matches(name, known, n=1)
    cure = f"did you mean {near[0]}?" if near else f"groups are {', '.join(known)}"
    raise InputError(f"{place}: {name!r} is neither an element nor a group; {cure}")
