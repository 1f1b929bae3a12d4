"""What a run says of itself in `run.json` and `provenance.jsonl`: the model, what it knows, who worked when with what.

Both are written by whoever drives a run; what an older or another program left out is left out on the page too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from screening.files.lines import lines_of
from screening.store.record import PROVENANCE, RunRecord


@dataclass(frozen=True)
class Facts:
    """The record of a run, what it says of model and potential, and the lines of its provenance, the oldest first.

    `damaged` lines are those that a killed program left half-written.
    """

    record: RunRecord
    model: Mapping[str, Any]
    card: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]
    damaged: int = 0
    potential: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model_title(self) -> str:
        """The model in a few words."""
        named = (self.card.get("title"), self.model.get("name"), self.model.get("architecture"))
        return next((str(name) for name in named if name), f"model {self.record.stamp.model_hash[:12]}")

    @property
    def potential_title(self) -> str:
        """What relaxed the crystals, in a few words."""
        card = _table(self.potential.get("card"))
        named = (card.get("title"), self.potential.get("name"), self.potential.get("architecture"))
        return next((str(name) for name in named if name), "the potential")

    @property
    def trained(self) -> str:
        """Whose training decides which elements are known, in words."""
        return "the model and the potential were" if self.potential else "the model was"

    @property
    def starts(self) -> list[Mapping[str, Any]]:
        """The lines that say how somebody began to work."""
        return [event for event in self.events if event.get("event", "start") == "start"]


def facts_of(record: RunRecord) -> Facts:
    """Read what there is to know besides the results."""
    model = _table(record.content.get("model"))
    card = _table(model.get("card")) or _table(record.content.get("card"))
    lines = lines_of(record.folder / PROVENANCE)
    events = [line for line in lines if line]
    return Facts(record, model, card, events, lines.count(None), _table(record.content.get("potential")))


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
