"""The settings of a screen; unknown keys are errors, and the resolved ones are written into the run's folder."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from screening.config import Settings
from screening.crystals.validate import CrystalLimits
from screening.relaxation_limits import Relaxation, RelaxationLimits

Device = Literal["cpu", "cuda"]
LIMITS = RelaxationLimits()
RELAXING_SHARDS = {"least": 100, "most": 1_000}


class InputSettings(Settings):
    """How inputs are packed that are no packed file; None of a packed file means what it was packed with."""

    workers: PositiveInt | None = None
    max_atoms: PositiveInt | None = None
    min_distance: Annotated[float, Field(ge=0.0, le=10.0)] | None = None
    min_volume_per_atom: NonNegativeFloat | None = None

    def limits(self, default: CrystalLimits | None = None) -> CrystalLimits:
        """The limits for crystals: those that are set, the others as in `default`."""
        base = default or CrystalLimits()
        return CrystalLimits(
            base.min_distance if self.min_distance is None else self.min_distance,
            base.min_volume_per_atom if self.min_volume_per_atom is None else self.min_volume_per_atom,
            base.max_atoms if self.max_atoms is None else self.max_atoms,
        )


class ShardSettings(Settings):
    """How many crystals make a shard; the result does not depend on it. A crystal of more atoms is a shard alone."""

    least: PositiveInt = 1_000
    most: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    atoms: PositiveInt = 1_000_000

    @model_validator(mode="after")
    def _ordered(self) -> "ShardSettings":
        if self.least > self.most:
            raise ValueError(f"least is {self.least}, more than most, {self.most}")
        return self


class RelaxationSettings(Settings):
    """Which potential relaxes crystals before they are predicted, if any, and when one is relaxed or given up."""

    potential: str | None = None
    force: PositiveFloat = LIMITS.force
    stress: PositiveFloat = LIMITS.stress
    steps: Annotated[int, Field(ge=0, le=1_000_000)] = LIMITS.steps
    cells: bool = LIMITS.cells
    swell: Annotated[float, Field(gt=1.0)] = LIMITS.swell

    @property
    def in_vain(self) -> tuple[str, ...]:
        """What is set though nothing relaxes; none if everything is spelled out as it is by default anyway."""
        said = tuple(name for name in type(self).model_fields if name in self.model_fields_set - {"potential"})
        spelled_out = len(said) == len(type(self).model_fields) - 1 and self == RelaxationSettings()
        return () if self.potential is not None or spelled_out else said

    def relaxation(self, potential_hash: str) -> Relaxation:
        """How crystals are relaxed, by the potential with this hash."""
        return Relaxation(potential_hash=potential_hash, **self.model_dump(exclude={"potential"}))


class BatchSettings(Settings):
    """What is predicted, and relaxed, at once; on the CPU the result does not depend on it. None fits the device."""

    max_atoms: PositiveInt = 10_000
    max_edges: PositiveInt = 120_000
    relax_atoms: PositiveInt | None = None


class LimitSettings(Settings):
    """Seconds to wait: without progress until a worker counts as hung, for the model to load, for the end when stopped.

    `scheduler` is for one that is gone to come back. What a worker has been at for `slow`, and much longer than usual,
    an idle one does too. `verdicts` is no time, but how many crystals may end their worker.
    """

    patience: PositiveFloat = 120.0
    loading: PositiveFloat = 600.0
    grace: PositiveFloat = 60.0
    scheduler: PositiveFloat = 60.0
    slow: PositiveFloat = 30.0
    verdicts: PositiveInt = 100


class ClusterSettings(Settings):
    """How workers on other nodes are set up; variables in `scratch` are the node's.

    `interface` is the network that they talk over, `scratch` a folder of each node for their files, by default TMPDIR;
    with `stage` the packed input is copied there first.
    """

    interface: str | None = None
    scratch: str | None = None
    stage: bool = False


class ScreenConfig(Settings):
    """What predicts, where, and in which portions. `workers` processes of `threads` threads; None fits the machine.

    To relax a crystal takes a hundred times as long as to predict it, so that shards are a tenth as large by default.
    """

    model: str = "default"
    device: Device = "cpu"
    workers: PositiveInt | None = None
    threads: PositiveInt | None = None
    embeddings: bool = False
    relax: RelaxationSettings = RelaxationSettings()
    input: InputSettings = InputSettings()
    shards: ShardSettings = ShardSettings()
    batches: BatchSettings = BatchSettings()
    limits: LimitSettings = LimitSettings()
    cluster: ClusterSettings = ClusterSettings()

    @field_validator("relax")
    @classmethod
    def _relaxing(cls, relax: RelaxationSettings) -> RelaxationSettings:
        if relax.in_vain:
            said = " and ".join(f"relax.{name}" for name in relax.in_vain)
            raise ValueError(
                f"{said} {'are' if len(relax.in_vain) > 1 else 'is'} set, but relax.potential is not, so nothing would "
                "be relaxed; name a potential with --relax or relax.potential, or leave that out"
            )
        return relax

    @model_validator(mode="before")
    @classmethod
    def _sized(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        relax, shards = values.get("relax", {}), values.get("shards", {})
        asked = relax.get("potential") if isinstance(relax, dict) else getattr(relax, "potential", None)
        return (
            values if asked is None or not isinstance(shards, dict) else values | {"shards": RELAXING_SHARDS | shards}
        )
