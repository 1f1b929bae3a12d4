"""Specifications for enumeration, and what they come to; shared by its tests."""

from typing import Any

from screening.config import validated
from screening.crystals.batch import Crystals
from screening.enumerate.enumeration import Enumeration
from screening.enumerate.spec import Specification


def specification(*prototypes: dict[str, Any], **settings: Any) -> Specification:
    """What a TOML file of these prototypes and settings says."""
    return validated(Specification, {"prototype": list(prototypes), **settings}, origin="spec.toml")


def of(name: str, **settings: Any) -> dict[str, Any]:
    """One prototype: capital letters are sites, as text `Ca Sr`; the rest are its settings."""
    sites = {key: value.split() for key, value in settings.items() if key[0].isupper()}
    return {"name": name, "sites": sites} | {key: v for key, v in settings.items() if not key[0].isupper()}


def enumerated(*prototypes: dict[str, Any], **settings: Any) -> Crystals:
    """All crystals of a specification in one batch."""
    batches = list(counted(*prototypes, **settings).batches())
    return Crystals.joined(batches) if batches else Crystals.of([])


def counted(*prototypes: dict[str, Any], **settings: Any) -> Enumeration:
    """An enumeration that has been counted."""
    enumeration = Enumeration(specification(*prototypes, **settings), "spec.toml")
    enumeration.count()
    return enumeration
