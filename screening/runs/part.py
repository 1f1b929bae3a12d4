"""A share of a run's rows, for centres where nothing may work on several nodes at once: `3/8` is the third of eight."""

import re
from dataclasses import dataclass
from typing import Self

from screening.errors import InputError


@dataclass(frozen=True, slots=True)
class Part:
    """Part `number` of `count`, from 1 on."""

    number: int
    count: int

    @classmethod
    def of(cls, text: str) -> Self:
        """Read `3/8`."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(f"--part {text!r}: expected K/N with K from 1 to N, such as 3/8")
        return cls(int(found[1]), int(found[2]))

    @property
    def file(self) -> str:
        """What claims this part, as driver.json does a whole run."""
        return f"driver-{self.number}-of-{self.count}.json"

    def rows(self, total: int) -> range:
        """Its rows, of so many in all."""
        return range(total * (self.number - 1) // self.count, total * self.number // self.count)
