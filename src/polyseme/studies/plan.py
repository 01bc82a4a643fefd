"""The plan of a study: its stages, and what each needs, as data."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from polyseme.core.config import fingerprint
from polyseme.core.errors import InputError, nearest_names
from polyseme.core.validation import validate_config
from polyseme.nulls import NullConfig
from polyseme.store import Store, load_record, save_record
from polyseme.studies.config import StudyConfig
from polyseme.studies.measures import Compared, Drawn, Finding, Measures, Outline
from polyseme.studies.stage import Stage
from polyseme.studies.stages.baselines import BaselinesStage
from polyseme.studies.stages.causal import CausalStage
from polyseme.studies.stages.continuations import ContinuationsStage
from polyseme.studies.stages.learning import LearningStage
from polyseme.studies.stages.recurrence import RecurrenceStage
from polyseme.studies.stages.stability import StabilityStage
from polyseme.studies.stages.tokens import TokensStage
from polyseme.studies.subject import Role

S = TypeVar("S", bound=Stage[Any])

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{8}")
_MAX_BYTES = 2**24

TRAINED = "trained"
"""The label of the study itself, beside its controls."""

FINDINGS: tuple[type[Finding[Any]], ...] = (
    BaselinesStage,
    ContinuationsStage,
    CausalStage,
    RecurrenceStage,
    StabilityStage,
    LearningStage,
)
"""The kinds of stage that a study has beside what its controls go through too, in the order in which they are run."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The stages of a study. A plan is data: it can be printed, cut, priced, and run anywhere.

    Attributes:
        config: of the study.
        real: the study itself.
        controls: by name.
        draws: kind of a null of the weights or tokens to all its draws; the first of them is a control.
        findings: the other stages of the study itself, of the kinds in `FINDINGS`.
    """

    config: StudyConfig
    real: Measures
    controls: Mapping[str, Measures]
    draws: Mapping[str, tuple[Compared, ...]]
    findings: tuple[Stage[Any], ...]

    @classmethod
    def of(cls, config: StudyConfig) -> "Plan":
        """The plan of a config; nothing is loaded for it."""
        train, heldout = TokensStage("train", "train"), TokensStage("heldout", "heldout")
        study = Role(TRAINED, None, config.seeds, train, heldout)
        real = Measures.of(study, study)
        matched = real.readings if config.dictionary.has_coefficient else None

        def role(null: NullConfig) -> Role:
            return Role(null.name, null, config.seeds[:1], train, heldout)

        controls = {null.name: Measures.of(role(null), study, matched) for null in config.controls}
        draws = {
            kind: tuple(controls.get(null.name) or Drawn.of(role(null), study, matched) for null in nulls)
            for kind, nulls in (config.drawn if len(config.seeds) > 1 else {}).items()
        }
        outline = Outline(config, real, controls, draws)
        return cls(config, real, controls, draws, tuple(stage for kind in FINDINGS for stage in kind.among(outline)))

    @cached_property
    def nulls(self) -> tuple[Compared, ...]:
        """The controls, and every further draw of them, once."""
        further = (drawn for draws in self.draws.values() for drawn in draws)
        return tuple({drawn.role.label: drawn for drawn in (*self.controls.values(), *further)}.values())

    @cached_property
    def alone(self) -> tuple[Stage[Any], ...]:
        """The stages of the study itself that no null is needed for."""
        of_nulls = {stage for null in self.nulls for stage in null.stages}
        return (*self.real.stages, *(one for one in self.findings if not of_nulls & {*_closed([one])}))

    @property
    def stages(self) -> tuple[Stage[Any], ...]:
        """Every stage once, each after those that it needs, in the order in which they are run."""
        of_nulls = (stage for null in self.nulls for stage in null.stages)
        return _closed([*self.alone, *of_nulls, *self.findings])

    def kind(self, kind: type[S]) -> list[S]:
        """The stages of a kind among the findings."""
        return [stage for stage in self.findings if isinstance(stage, kind)]

    def until(self, name: str) -> tuple[Stage[Any], ...]:
        """The stages of a name (`splice`, or `splice (trained)` for one alone) and all that they need.

        Raises:
            InputError: the study has no such stage.
        """
        ends = [stage for stage in self.stages if name in (stage.name, stage.shown)]
        if not ends:
            known = [*dict.fromkeys(stage.name for stage in self.stages), *(stage.shown for stage in self.stages)]
            raise InputError(
                f"the study has no stage {name!r}", fix=f"nearest: {', '.join(nearest_names(name, known) or known)}"
            )
        return _closed(ends)

    @cached_property
    def name(self) -> str:
        """8 hex digits that name the plan."""
        return self.config.fingerprint()[:8]

    def id(self, stage: Stage[Any]) -> str:
        """The plan's name and 8 hex digits that name a stage of it, before anything is loaded or made."""
        return f"{self.name}-{fingerprint(stage.shown)[:8]}"

    def save(self, store: Store, *, network: str) -> None:
        """Keep the plan where `planned` finds it by the ids of its stages.

        Args:
            store: of its stages.
            network: fingerprint of the study's network, which every process that runs a stage must load.
        """
        save_record(_file(store, self.name), {"config": self.config.model_dump(mode="json"), "network": network})


@dataclass(frozen=True, eq=False)
class Planned:
    """Stages of a plan that was kept.

    Attributes:
        plan: the plan.
        network: fingerprint of the network that it was made with.
        stages: those that are to be run.
    """

    plan: Plan
    network: str
    stages: list[Stage[Any]]


def planned(store: Store, ids: Sequence[str]) -> list[Planned]:
    """The stages with some ids, by the plans that they are of.

    Raises:
        InputError: an id is none, or no plan that was kept in this store has such a stage.
    """
    plans: dict[str, Planned] = {}
    for one in ids:
        if not _ID.fullmatch(one):
            fix = "`polyseme plan FILE` prints ids like 0123abcd-4567cdef"
            raise InputError(f"{one[:40]!r} is not the id of a stage", fix=fix)
        path = _file(store, name := one[:8])
        if name not in plans and path.is_file() and "config" in (kept := load_record(path, _MAX_BYTES)):
            config = validate_config(kept["config"], StudyConfig, where=str(path))
            plans[name] = Planned(Plan.of(config), kept["network"], [])
        found = plans.get(name)
        stage = next((s for s in found.plan.stages if found.plan.id(s) == one), None) if found else None
        if found is None or stage is None:
            raise InputError(
                f"no plan here has the stage {one}",
                where=str(store.root),
                fix="polyseme plan FILE with the same --root keeps it here",
            )
        found.stages.append(stage)
    return list(plans.values())


def _file(store: Store, name: str) -> Path:
    return store.root / "plans" / f"{name}.json"


def _closed(ends: list[Stage[Any]]) -> tuple[Stage[Any], ...]:
    """The stages and all that they need, each after those."""
    seen: dict[Stage[Any], None] = {}

    def visit(stage: Stage[Any]) -> None:
        if stage not in seen:
            for needed in stage.needs():
                visit(needed)
            seen[stage] = None

    for stage in ends:
        visit(stage)
    return tuple(seen)
