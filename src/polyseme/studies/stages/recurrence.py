"""The recurrence stage: what dictionaries of other seeds, those on nulls, and tables make of every latent of a site."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyseme.core.config import identity
from polyseme.core.seeds import derive_seed
from polyseme.evaluation.matches import Sides
from polyseme.evaluation.recurrence import Recurrence, RecurrenceConfig, recurrence
from polyseme.store import Artifact
from polyseme.studies.measures import Compared, Finding, Outline
from polyseme.studies.rates import correlating_work
from polyseme.studies.stage import Work, Worker
from polyseme.studies.stages.matching import MatchingStage, matched_on
from polyseme.studies.stages.readings import ReadingsStage
from polyseme.studies.subject import Role


@dataclass(frozen=True, eq=False)
class RecurrenceStage(Finding[Recurrence]):
    """One site's latents of the first seed, an artifact of its own.

    Attributes:
        site: name of the site.
        role: of the study itself: the dictionary of its first seed is judged, the others are its partners.
        matching: of the study itself.
        readings: of the study itself.
        draws: kind of null to the firings of each of its draws, on the study's train and held-out tokens.
        of_text: the kinds that are of the text.
    """

    name = "recurrence"

    site: str
    role: Role
    matching: MatchingStage
    readings: ReadingsStage
    draws: Mapping[str, tuple[tuple[MatchingStage, ReadingsStage], ...]]
    of_text: tuple[str, ...]

    @classmethod
    def among(cls, study: Outline) -> Iterable["RecurrenceStage"]:
        if len(study.config.seeds) < 2:
            return
        real = study.real
        draws = {kind: tuple((one.matching, one.shared) for one in drawn) for kind, drawn in study.draws.items()}
        of_text = tuple(kind for kind, drawn in study.draws.items() if _is_of_text(drawn[0]))
        # A draw of seed 0 starts from the weights of the judged dictionary. Trained on the same network, a third of its
        # latents stay like those at their places (decision 33).
        draws |= {kind: _from_other_weights(study.draws[kind]) for kind in of_text}
        several = len(study.config.bindings) > 1
        for site in study.config.bindings:
            yield cls(site if several else "", site, real.role, real.matching, real.readings, draws, of_text)

    def inputs(self, at: Worker) -> Mapping[str, str]:
        found = {"matching": at.artifact(self.matching).key, "readings": at.artifact(self.readings).key}
        for drawn in self.draws.values():
            for matching, readings in drawn:
                found[matching.shown], found[readings.shown] = at.artifact(matching).key, at.artifact(readings).key
        return found

    def identity(self, at: Worker) -> dict[str, Any]:
        return {
            "site": self.site,
            "seeds": self.role.seeds,
            "draws": {kind: [matching.role.label for matching, _ in drawn] for kind, drawn in self.draws.items()},
            "of_text": self.of_text,
            "recurrence": identity(RecurrenceConfig(), exclude={"chunk_bytes"}),
            **at.draw,
        }

    def work(self, at: Worker) -> Work:
        n_others = len(self.role.seeds) - 1 + sum(map(len, self.draws.values()))
        n_learn, n_heldout = at.config.evaluation.match_tokens, at.config.tokens.heldout
        n = at.latents[self.site]
        return Work(correlated=correlating_work(at, n, n_learn=n_learn, n_heldout=n_heldout, n_others=n_others))

    def make(self, folder: Path, at: Worker) -> None:
        first, *others = self.role.seeds
        own, read, subject = at.of(self.matching), at.of(self.readings), self.role.subject(at)
        judged = Sides(own.firings(self.site, first), read.firings[self.site, first])
        n_others = len(others) + sum(map(len, self.draws.values()))
        found = recurrence(
            judged,
            (Sides(own.firings(self.site, seed), read.firings[self.site, seed]) for seed in others),
            {kind: self._drawn(kind, at) for kind in self.draws},
            own.random(self.site),
            (matched_on(subject), subject.tokens.heldout),
            of_text=self.of_text,
            config=RecurrenceConfig(),
            seed=at.seed(derive_seed(first, "recurrence", self.site)),
            progress=at.reporter.task(
                f"what recurs of {self.site}", judged.learn.n_latents * (1 + n_others), "latents"
            ),
        )
        found.save(folder)

    def load(self, artifact: Artifact, at: Worker) -> Recurrence:
        return Recurrence.load(artifact)

    def _drawn(self, kind: str, at: Worker) -> Iterator[Sides]:
        """The dictionaries of a null's draws, one in memory at a time."""
        for matching, readings in self.draws[kind]:
            key = self.site, matching.role.seeds[0]
            yield Sides(at.of(matching).firings(*key), readings.firings(at, *key))
            at.let_go(matching, readings, readings.dictionaries)


def _from_other_weights(drawn: Sequence[Compared]) -> tuple[tuple[MatchingStage, ReadingsStage], ...]:
    """The draws whose dictionaries start from other weights than the study's own."""
    others = [one for one in drawn if not one.dictionaries.starts_as_judged]
    return tuple((one.matching, one.shared) for one in others)


def _is_of_text(drawn: Compared) -> bool:
    return drawn.role.null is not None and drawn.role.null.targets == "tokens"
