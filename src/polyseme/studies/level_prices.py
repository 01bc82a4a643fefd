"""What a study would cost at every level of evidence, before any of the work is done."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from polyseme.studies.config import StudyConfig
from polyseme.studies.levels import LEVELS, LevelName, at_level
from polyseme.studies.plan import Plan
from polyseme.studies.price import Sizes, price
from polyseme.studies.rates import Rates
from polyseme.studies.stage import Worker


@dataclass(frozen=True)
class LevelPrice:
    """One level of evidence for one study.

    Attributes:
        level: its name.
        dictionaries: that are trained at each site.
        seconds: of the whole study, all stages one after the other.
        memory, disk: bytes.
    """

    level: LevelName
    dictionaries: int
    seconds: float
    memory: float
    disk: float


def level_prices(worker: Worker, sizes: Sizes, rates: Rates) -> Iterator[LevelPrice]:
    """The study of a worker at every level, whatever of it is done already.

    Args:
        worker: of the study.
        sizes: of its network and tokens.
        rates: of this machine.
    """
    for level in LEVELS:
        config = StudyConfig.model_validate(at_level(worker.config.model_dump(), level))
        plan, at = Plan.of(config), worker.beside(config)
        cost = price(config, replace(sizes, n_further=len(plan.nulls) - len(plan.controls)), config.causal)
        stages = tuple(filter(worker.is_used, plan.stages))
        yield LevelPrice(
            level=level,
            dictionaries=len(config.seeds) + len(plan.nulls),
            seconds=sum(rates.of(stages, at).values()),
            memory=cost.memory,
            disk=cost.disk,
        )
