"""Which latents of each word are worth a reader's time."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from polyseme.core.records import STATUSES, Status


@dataclass(frozen=True)
class Candidate:
    """A judged latent.

    Attributes:
        site: name of its dictionary.
        latent: its index.
        status: its word.
        missing: with `undecided`, what it lacks.
        frequency: expected share of repetitions of the study that give it the same word.
        n_documents: documents in which it fires.
    """

    site: str
    latent: int
    status: Status
    missing: str
    frequency: float
    n_documents: int


@dataclass(frozen=True)
class Telling:
    """A chosen latent and the sentence that says why."""

    candidate: Candidate
    why: str


def most_telling(candidates: Iterable[Candidate], n: int = 50) -> dict[Status, tuple[Telling, ...]]:
    """At most `n` latents of each word over all dictionaries, the sites taking turns.

    Those with a word: most stable first, by the frequency at which a repetition of the study gives the same word, and
    by the number of documents where that is equal. The undecided: those that fire in most documents first, what they
    lack taking turns.
    """
    by: dict[Status, dict[str, list[Candidate]]] = {s: defaultdict(list) for s in STATUSES}
    for candidate in candidates:
        by[candidate.status][candidate.site].append(candidate)
    return {
        status: tuple(_in_turn([_ranked(status, group) for group in sites.values()])[:n])
        for status, sites in by.items()
    }


def _ranked(status: Status, group: list[Candidate]) -> list[Telling]:
    if status != "undecided":
        return _told(group, _most_stable, "a repetition is most likely to give it the same word")
    lacking: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in group:
        lacking[candidate.missing].append(candidate)
    why = "of those that lack the same, it fires in most documents"
    return _in_turn([_told(some, _most_documents, why) for some in lacking.values()])


def _most_stable(candidate: Candidate) -> tuple[float, int]:
    frequency = candidate.frequency
    return (math.inf if math.isnan(frequency) else -frequency, -candidate.n_documents)


def _most_documents(candidate: Candidate) -> int:
    return -candidate.n_documents


def _told(group: Sequence[Candidate], key: Callable[[Candidate], tuple[float, int] | int], why: str) -> list[Telling]:
    ranked = sorted(group, key=lambda c: (key(c), c.latent))
    return [Telling(c, f"{why}: no. {i} at this site") for i, c in enumerate(ranked, 1)]


def _in_turn(lists: Sequence[Sequence[Telling]]) -> list[Telling]:
    longest = max(map(len, lists), default=0)
    return [one[i] for i in range(longest) for one in lists if i < len(one)]
