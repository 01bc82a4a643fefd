"""How much the verdicts of a study rest on: levels, each a line of a table, that set what its config leaves open."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, cast

from polyseme.causal import CausalConfig

LevelName = Literal["quick", "standard", "paper"]


@dataclass(frozen=True)
class Level:
    """What a level of evidence sets.

    Attributes:
        partners: dictionaries of other seeds beside the judged one.
        draws: of every null of the weights.
        n_samples: firing tokens of each latent that it is removed from.
        n_directions: directions of every class of null that are removed in its place.
    """

    partners: int
    draws: int
    n_samples: int
    n_directions: int

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the judged dictionary and of its partners."""
        return tuple(range(1 + self.partners))

    @property
    def causal(self) -> dict[str, int]:
        """Its part of the causal config."""
        return {"n_samples": self.n_samples, "n_directions": self.n_directions}


LEVELS: dict[LevelName, Level] = {
    "quick": Level(partners=2, draws=2, n_samples=6, n_directions=8),
    "standard": Level(partners=5, draws=5, n_samples=8, n_directions=16),
    "paper": Level(partners=9, draws=10, n_samples=16, n_directions=32),
}
DEFAULT: LevelName = "standard"


def filled(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a study with those that its level sets; what is given takes precedence, field by field."""
    level = LEVELS.get(cast(LevelName, named)) if isinstance(named := given.get("evidence", DEFAULT), str) else None
    if level is None:  # no level: validation says so
        return dict(given)
    found: dict[str, Any] = {"seeds": level.seeds, "draws": level.draws, "causal": level.causal, **given}
    causal = found["causal"]
    if isinstance(causal, CausalConfig):
        unset = {name: value for name, value in level.causal.items() if name not in causal.model_fields_set}
        found["causal"] = causal.model_copy(update=unset)
    elif isinstance(causal, Mapping):
        found["causal"] = {**level.causal, **cast("Mapping[str, Any]", causal)}
    return found


def at_level(study: Mapping[str, Any], level: LevelName) -> dict[str, Any]:
    """The fields of a study with what `level` sets in the place of its own; its judged seed stays the first."""
    own, of_level = {**study}, LEVELS[level]
    first = own["seeds"][0]
    others = (seed for seed in range(2 + of_level.partners) if seed != first)
    own["seeds"] = (first, *islice(others, of_level.partners))
    return {**own, "evidence": level, "draws": of_level.draws, "causal": {**own["causal"], **of_level.causal}}
