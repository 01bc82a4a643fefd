"""Which latents of each verdict are worth a reader's time."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from polyseme.core.records import STATUSES, Evidence, Status, Verdict

EFFECT, SPECIFICITY = "causal_effect", "model_specificity"


@dataclass(frozen=True)
class Candidate:
    """A judged latent.

    Attributes:
        site: name of its dictionary.
        latent: its index.
        verdict: with its evidence.
        density: share of vectors where it fires.
        n_documents: documents in which it fires.
    """

    site: str
    latent: int
    verdict: Verdict
    density: float
    n_documents: int


@dataclass(frozen=True)
class Telling:
    """A chosen latent and the sentence that says why."""

    candidate: Candidate
    why: str


def evidence_strength(evidence: Evidence | None) -> float:
    """Lower bound of the standardised effect: (low − null) / SE, with SE from the interval's half width.

    `SE = (high − low) / (2 · 1.96)`; −inf where there is no interval.
    """
    if evidence is None or evidence.interval is None:
        return -math.inf
    null = 0.0 if math.isnan(evidence.null) else evidence.null
    error = (evidence.interval.high - evidence.interval.low) / (2 * 1.96)
    if not math.isfinite(error):
        return -math.inf
    return (evidence.interval.low - null) / max(error, 1e-12)


def most_telling(candidates: Iterable[Candidate], n: int = 50) -> dict[Status, tuple[Telling, ...]]:
    """At most `n` latents of each verdict over all dictionaries, the sites taking turns.

    - supported: largest lower bound of the standardised effect, the weaker of the two tests counting;
    - mixed: those that matter but are not specific, and those that are specific but do not matter, in turn, each by
      the test passed;
    - indistinguishable from control: the most control-like (lowest upper end of the margin) and the densest, in turn;
    - insufficient data: those seen in most documents, nearest to a verdict.
    """
    by: dict[Status, dict[str, list[Candidate]]] = {s: defaultdict(list) for s in STATUSES}
    for candidate in candidates:
        by[candidate.verdict.status][candidate.site].append(candidate)
    return {
        status: tuple(_in_turn([_ranked(status, group) for group in sites.values()])[:n])
        for status, sites in by.items()
    }


def _ranked(status: Status, group: list[Candidate]) -> list[Telling]:
    if status == "supported":
        return _told(group, lambda c: -min(_strength(c, EFFECT), _strength(c, SPECIFICITY)), "strongest evidence")
    if status == "mixed":
        matters = [c for c in group if _passed(c, EFFECT) and not _passed(c, SPECIFICITY)]
        specific = [c for c in group if _passed(c, SPECIFICITY) and not _passed(c, EFFECT)]
        others = [c for c in group if _passed(c, EFFECT) == _passed(c, SPECIFICITY)]
        return _in_turn(
            [
                _told(matters, lambda c: -_strength(c, EFFECT), "has a causal effect, not shown to be specific"),
                _told(specific, lambda c: -_strength(c, SPECIFICITY), "specific, not shown to have a causal effect"),
                _told(others, lambda c: -_strength(c, EFFECT), "its tests disagree"),
            ]
        )
    if status == "indistinguishable_from_control":
        alike = _told(group, _upper_margin, "most like a control's latent")
        dense = _told(group, lambda c: -c.density, "fires most often")
        first_place: dict[int, Telling] = {}
        for telling in _in_turn([alike, dense]):
            first_place.setdefault(telling.candidate.latent, telling)
        return list(first_place.values())
    return _told(group, lambda c: -c.n_documents, "seen in most documents")


def _told(group: Sequence[Candidate], key: Callable[[Candidate], float], why: str) -> list[Telling]:
    ranked = sorted(group, key=lambda c: (key(c), c.latent))
    return [Telling(c, f"{why}: no. {i} at this site") for i, c in enumerate(ranked, 1)]


def _in_turn(lists: Sequence[Sequence[Telling]]) -> list[Telling]:
    longest = max(map(len, lists), default=0)
    return [one[i] for i in range(longest) for one in lists if i < len(one)]


def _evidence(candidate: Candidate, name: str) -> list[Evidence]:
    """The tests of a name: `model_specificity` stands once for every control, as `model_specificity/<control>`."""
    return [e for e in candidate.verdict.evidence if e.name == name or e.name.startswith(f"{name}/")]


def _strength(candidate: Candidate, name: str) -> float:
    """Strength of the weakest test of that name."""
    return min((evidence_strength(e) for e in _evidence(candidate, name)), default=-math.inf)


def _passed(candidate: Candidate, name: str) -> bool:
    evidence = _evidence(candidate, name)
    return bool(evidence) and all(e.passed for e in evidence)


def _upper_margin(candidate: Candidate) -> float:
    """The lowest upper end over the controls: how far below 0 the margin against the most alike may lie."""
    highs = [e.effect if e.interval is None else e.interval.high for e in _evidence(candidate, SPECIFICITY)]
    return min((high for high in highs if not math.isnan(high)), default=math.inf)
